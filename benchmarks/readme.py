"""Write the README's tables from results: `make bench-readme`, or `python -m benchmarks.readme [--json FILE] [--readme FILE]`.

What stands between the two marks is replaced, and nothing else; every figure there comes from the file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS
from benchmarks.results import amount, outcome, promise

BEGIN = "<!-- written by make bench-readme -->"
END = "<!-- /written by make bench-readme -->"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    options = parser.parse_args()
    if not options.json.exists():
        print(f"there is no {options.json}: make bench-full writes it", file=sys.stderr)
        return 2
    text = options.readme.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        print(f"{options.readme} has no {BEGIN} and {END}", file=sys.stderr)
        return 2
    options.readme.write_text(replaced(text, json.loads(options.json.read_text())))
    return 0


def replaced(text: str, results: Mapping[str, Any]) -> str:
    """The text with the tables of these results between its marks."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return "\n".join([before + BEGIN, "", *_section(results), "", END + after])


def _section(results: Mapping[str, Any]) -> Iterator[str]:
    yield _circumstances(results)
    yield ""
    yield from _table(("work", "measured", "bar", ""), "lrll", _bars(results["works"]))
    yield ""
    yield from _table(("process", "time", "peak memory"), "lrr", _processes(results["works"]))


def _circumstances(results: Mapping[str, Any]) -> str:
    machine, options = results["machine"], results["options"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"Measured {machine['date']} at {options['size'] / 1e9:g} GB, medians of {options['rounds']} rounds, on"
        f" {machine['cores']} cores ({machine['processor']}), {machine['memory_gb']} GB of memory, {machine['file_system']},"
        f" {machine['kernel']}; Python {machine['python']}, {versions}, {machine['cp']}; commit {machine['commit']}."
    )


def _bars(works: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    for work in works:
        if work["not_run"]:
            yield _title(work), "", "", f"not run: {work['not_run']}"
        for finding in work["findings"]:
            found = "" if finding["found"] is None else amount(finding["found"], finding["unit"])
            yield f"{_title(work)}: {finding['what']}", found, promise(finding), outcome(finding)


def _processes(works: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    for work in works:
        if work["processes"]:
            yield f"**{_title(work)}**", f"x {work['baseline']}", ""
        for name, process in work["processes"].items():
            if "failure" in process:
                yield f"{name} ({process['failure'].split(':')[0]})", "", ""
            elif process["times_baseline"] is None:
                yield name, "", amount(process["peak_mb"], "MB")
            else:
                yield name, f"{process['times_baseline']:.2f}", amount(process["peak_mb"], "MB")


def _title(work: Mapping[str, Any]) -> str:
    return f"{work['title']}, {work['bytes'] / 1e9:.2g} GB" if work["bytes"] else str(work["title"])


def _table(head: tuple[str, ...], sides: str, rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield _row(head)
    yield _row(tuple("---:" if side == "r" else "---" for side in sides))
    yield from map(_row, rows)


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
