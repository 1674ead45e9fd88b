"""What a start costs: ckptdoctor's commands beside a trivial Typer app that prints a Rich table, in turn, as ratios.

    python benchmarks/startup.py [--runs 15]

Makes its own files in a temporary folder: a torch checkpoint of 120 tensors with optimizer states, a copy, and a manifest.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRIVIAL = """
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

MAKE = """
import torch
from torch import nn
model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(60)))
optimizer = torch.optim.AdamW(model.parameters())
model(torch.randn(1, 64)).sum().backward()
optimizer.step()
torch.save({"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()]}, "base.ckpt")
"""


def seconds(command: list[str], folder: Path) -> float:
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def ratio(command: list[str], other: list[str], folder: Path, runs: int) -> float:
    """Median over interleaved pairs of runs, after one of each that is not counted."""
    seconds(command, folder), seconds(other, folder)
    return statistics.median(seconds(command, folder) / seconds(other, folder) for _ in range(runs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    tool = [sys.executable, "-m", "ckptdoctor"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "trivial.py").write_text(TRIVIAL)
        subprocess.run([sys.executable, "-c", MAKE], cwd=folder, check=True)
        shutil.copy(folder / "base.ckpt", folder / "other.ckpt")
        seconds([*tool, "inspect", "base.ckpt", "--manifest", "target.json"], folder)
        trivial = [sys.executable, "trivial.py"]
        torch_load = [sys.executable, "-c", "import torch; torch.load('base.ckpt', mmap=True, weights_only=True)"]
        result = {
            f"{' '.join(words)} / {label}": round(ratio([*tool, *words], other, folder, runs), 2)
            for words in (
                ["diff", "base.ckpt", "other.ckpt"],
                ["diff", "base.ckpt", "target.json"],
                ["gate", "base.ckpt", "target.json"],
                ["inspect", "base.ckpt"],
            )
            for label, other in (("trivial Typer app", trivial), ("python -c torch.load(mmap)", torch_load))
        }
    print(json.dumps({"runs": runs, "median of ratios": result}, indent=2))


if __name__ == "__main__":
    main()
