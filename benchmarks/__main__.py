"""All benchmarks, or those that --only names: a table of ratios on the screen, and everything as JSON.

    python -m benchmarks [--size 1GB] [--rounds 5] [--only renaming --only startup] [--json bench/results.json]

Each kind of work runs in a process of its own, so that one that fails is reported and the others go on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import Options, options_of, parser, save, temporary_folder
from benchmarks.results import Work

KINDS = ("renaming", "converting", "computing", "reflinks", "startup", "scale", "planning")


def main() -> int:
    made = parser(__doc__)
    made.add_argument("--only", action="append", choices=KINDS, help="this kind of work; may be given again")
    parsed = made.parse_args()
    options, start, works = options_of(parsed), time.monotonic(), []
    with temporary_folder(options) as folder:
        for kind in parsed.only or KINDS:
            works += run_kind(kind, options, folder)
            save(options, works)
    missed = sum(finding["met"] is False for work in works for finding in work["findings"])
    print(f"\n{len(works)} works in {time.monotonic() - start:.0f} s, {missed} bars missed: {options.json}")
    return 0


def run_kind(kind: str, options: Options, folder: Path) -> list[dict[str, Any]]:
    """What a kind of work found, also where it ended early."""
    found = folder / f"{kind}.json"
    inner = options._replace(folder=folder, json=found)
    arguments = [f"--{name}={value}" for name, value in inner._asdict().items()]
    process = subprocess.Popen(
        [sys.executable, "-m", f"benchmarks.{kind}", *arguments], stderr=subprocess.PIPE, text=True
    )
    try:
        _, said = process.communicate()
    except BaseException:
        process.terminate()  # it removes and unmounts what it has made
        process.wait()
        raise
    works = json.loads(found.read_text())["works"] if found.exists() else []
    if process.returncode:
        reason = (said.strip().splitlines() or [f"status {process.returncode}"])[-1]
        print(f"{kind}: {reason}", file=sys.stderr)
        works.append(Work(kind, not_run=reason).as_json())
    return works


if __name__ == "__main__":
    sys.exit(main())
