"""What a start costs: commands on 120 tensors beside a trivial Typer app that prints a Rich table, and beside torch.load.

python -m benchmarks.startup [--rounds 15]
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import data
from benchmarks.harness import Options, alone, compare
from benchmarks.measure import Command, Process, run
from benchmarks.results import Bar, Work

TRIVIAL = "trivial Typer app"
TORCH = "torch.load(mmap)"
APP = """
import typer
app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)

@app.command()
def main(rows: int = 10):
    from rich.console import Console
    from rich.table import Table
    table = Table("KEY", "SHAPE")
    for row in range(rows):
        table.add_row(f"blocks.{row}.weight", "768x768")
    Console().print(table)

app()
"""
LOAD = "import sys, torch; torch.load(sys.argv[1], mmap=True, weights_only=True)"


def measure(options: Options, folder: Path) -> Iterator[Work]:
    tool = [sys.executable, "-m", "ckptdoctor"]
    other, manifest, app = folder / "b.ckpt", folder / "manifest.json", folder / "app.py"
    app.write_text(APP)
    with data.made(folder / "a.ckpt", "small_checkpoint") as source:
        shutil.copy(source, other)
        run([*tool, "inspect", source, "--manifest", manifest])
        commands: dict[str, Command] = {
            "inspect": ["inspect", source],
            "diff of two checkpoints": ["diff", source, other],
            "diff with a manifest": ["diff", source, manifest],
            "gate with a manifest": ["gate", source, manifest],
        }
        processes = [
            Process(TRIVIAL, [sys.executable, app]),
            Process(TORCH, [sys.executable, "-c", LOAD, source]),
            *(Process(name, [*tool, *words]) for name, words in commands.items()),
        ]
        bars = [
            bar
            for name in commands
            for bar in (
                Bar(1.5, TRIVIAL, of=name, what=f"{name} / {TRIVIAL}"),
                Bar(5, TORCH, of=name, at_least=True, what=f"{TORCH} / {name}"),
            )
        ]
        yield compare("120 tensors, torch zip", processes, bars, options, baseline=TRIVIAL)


if __name__ == "__main__":
    alone(measure, __doc__)
