"""Hostile files, made by code: a table for each class, and CORPUS, which has them all as `class: name`.

To add a file, add a line to the table of its class: what it is, and the error that it must give or the keys that are listed.
tests/security/test_corpus.py gives every one to the command line.
"""

from __future__ import annotations

from tests.security.corpus.cases import Cases
from tests.security.corpus.containers import NAMES, POLYGLOTS
from tests.security.corpus.execution import EXECUTION
from tests.security.corpus.expense import EXPENSE
from tests.security.corpus.headers import HEADERS
from tests.security.corpus.indexes import INDEXES
from tests.security.corpus.lookalikes import LOOKALIKES
from tests.security.corpus.meanings import MEANINGS
from tests.security.corpus.printing import PRINTING
from tests.security.corpus.roots import ROOTS
from tests.security.corpus.sizes import SIZES

CLASSES: dict[str, Cases] = {
    "execution": EXECUTION,
    "lookalike": LOOKALIKES,
    "polyglot": POLYGLOTS,
    "name": NAMES,
    "header": HEADERS,
    "size": SIZES,
    "meaning": MEANINGS,
    "expense": EXPENSE,
    "printing": PRINTING,
    "root": ROOTS,
    "index": INDEXES,
}
CORPUS: Cases = {f"{kind}: {name}": case for kind, cases in CLASSES.items() for name, case in cases.items()}
