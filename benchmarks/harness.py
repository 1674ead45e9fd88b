"""What every kind of work shares: its options, its temporary folder, and what becomes of its results."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

from benchmarks.machine import facts
from benchmarks.measure import Command, Process, Room, ckptdoctor, content_size, interleaved
from benchmarks.results import OURS, Bar, Work, as_text, judge

SCHEMA = "ckptdoctor/benchmarks/1"
RESULTS = Path("bench/results.json")
DIGESTS = f"{OURS} with digests"
ROOM = 2.2
"""How many times the size is on the disk at once: a source, an output, and what is small."""
_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


class Options(NamedTuple):
    """How large, how often, and where."""

    size: int
    rounds: int
    tensors: int
    folder: Path
    json: Path
    mergekit: Path


Measure = Callable[[Options, Path], Iterator[Work]]


def parser(description: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--size", type=_bytes, default="1GB", help="of the large checkpoints, such as 64MB")
    made.add_argument("--rounds", type=int, default=5, help="of which medians are taken")
    made.add_argument("--tensors", type=int, default=50_000, help="of the checkpoints with many")
    made.add_argument("--folder", type=Path, default=RESULTS.parent, help="where a temporary folder is made")
    made.add_argument("--json", type=Path, default=RESULTS, help="the file that the results go to")
    default = RESULTS.parent / "mergekit/bin/python"
    made.add_argument("--mergekit", type=Path, default=default, help="a Python that has mergekit")
    return made


def options_of(parsed: argparse.Namespace) -> Options:
    return Options(**{name: getattr(parsed, name) for name in Options._fields})


def compare(
    title: str,
    processes: Sequence[Process],
    bars: Sequence[Bar],
    options: Options,
    *,
    baseline: str,
    uncounted: int = 1,
) -> Work:
    """Processes that write nothing, in turn, judged; the first round finds cold caches and is not counted."""
    figures = interleaved(processes, options.rounds, uncounted=uncounted)
    return Work(title, 0, baseline, figures, [judge(bar, figures) for bar in bars])


def rewrite(
    title: str, source: Path, processes: Sequence[Process], bars: Sequence[Bar], options: Options, baseline: str = "cp"
) -> Work:
    """Processes that write what is in `source` to `out_folder(source)`, in turn, judged."""
    size = content_size(source)
    room = Room(out_folder(source), size * 99 // 100)
    figures = interleaved(processes, options.rounds, source=source, room=room)
    return Work(title, size, baseline, figures, [judge(bar, figures) for bar in bars])


def out_folder(source: Path) -> Path:
    """Where outputs go: beside the source, on the same file system."""
    return source.parent / "out"


def remap(source: Path, rules: str, out: Path, *, digests: bool = False) -> Process:
    """Ours, with a map of these rules."""
    (source.parent / "map.yaml").write_text(f"ckptdoctor: 1\nrules:\n{rules}")
    command: Command = [*ckptdoctor, "remap", source, "-m", source.parent / "map.yaml", "-o", out]
    return Process(DIGESTS, command) if digests else Process(OURS, [*command, "--no-digests"])


def alone(measure: Measure, description: str | None) -> None:
    """The command line of one kind of work."""
    options = options_of(parser(description).parse_args())
    with temporary_folder(options) as folder:
        found = []
        for work in measure(options, folder):
            found.append(work.as_json())
            print(as_text(found[-1]), flush=True)
            save(options, found)


def save(options: Options, works: Sequence[object]) -> None:
    """What is known so far: a run that is interrupted keeps what it has."""
    about = {"size": options.size, "rounds": options.rounds, "tensors": options.tensors}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    document = {"schema": SCHEMA, "machine": facts(options.folder, options.mergekit), "options": about, "works": works}
    options.json.write_text(json.dumps(document, indent=2) + "\n")


@contextmanager
def temporary_folder(options: Options) -> Iterator[Path]:
    """A folder with room for the data, gone afterwards however this ends, but for SIGKILL."""
    for number in _ENDINGS:
        signal.signal(number, _stop)
    options.folder.mkdir(parents=True, exist_ok=True)
    needed = int(ROOM * options.size + 2e8)
    if (free := shutil.disk_usage(options.folder).free) < needed:
        sys.exit(f"{needed / 1e9:.1f} GB of disk are needed and {free / 1e9:.1f} GB are free: give --folder or --size")
    with tempfile.TemporaryDirectory(prefix="data-", dir=options.folder) as name:
        subprocess.run([sys.executable, "-m", "compileall", "-q", "ckptdoctor"], check=True)  # as pip leaves it
        yield Path(name).absolute()


def _stop(number: int, _: object) -> NoReturn:
    """End, and let nothing disturb the cleaning up: one Ctrl-C reaches every process of the terminal, some of them twice."""
    for each in _ENDINGS:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def _bytes(text: str) -> int:
    for unit, factor in _UNITS.items():
        if text.upper().endswith(unit):
            return int(float(text[: -len(unit)]) * factor)
    return int(text)
