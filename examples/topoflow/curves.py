"""The validation losses of the demo's three runs: printed, compared, and drawn.

    python curves.py runs/baseline runs/careless runs/remapped [--level runs/level] [--picture curves.png]

Exit status 1: the remapped start is not the baseline's best loss to a relative 1e-4.
"""

import argparse
import csv
import sys
from pathlib import Path

TOLERANCE = 1e-4


def validations(run: Path) -> list[tuple[int, float]]:
    """(step, val_loss) of a run, from the CSV file that Lightning's logger wrote last."""
    path = max(run.glob("logs/version_*/metrics.csv"), key=lambda path: path.stat().st_mtime)
    with path.open() as file:
        return [(int(float(row["step"])), float(row["val_loss"])) for row in csv.DictReader(file) if row["val_loss"]]


def draw(baseline: list[tuple[int, float]], starts: dict[str, list[tuple[int, float]]], picture: Path) -> None:
    """The baseline's curve, and beside it the two fine-tunes from where it ended."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.2, 3.6), layout="constrained")
    axes.plot(*zip(*baseline, strict=True), color="0.4", label="baseline")
    end = baseline[-1][0]
    for (label, curve), color in zip(starts.items(), ("tab:red", "tab:blue"), strict=True):
        axes.plot(
            [end + 10 * step for step, _ in curve], [loss for _, loss in curve], color=color, marker=".", label=label
        )
    axes.axhline(min(loss for _, loss in baseline), color="0.8", linewidth=0.8, zorder=0)
    axes.set(xlabel="step (those of the fine-tunes stretched tenfold)", ylabel="val_loss", ylim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(picture, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare and draw the three runs of the demo.")
    for name in ("baseline", "careless", "remapped"):
        parser.add_argument(name, type=Path, help="a folder that train.py wrote")
    parser.add_argument("--level", type=Path, metavar="RUN", help="the remapped run again, with --no-elevation")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="draw the curves into this file")
    options = parser.parse_args()
    baseline, careless, remapped = (validations(run) for run in (options.baseline, options.careless, options.remapped))
    best = min(loss for _, loss in baseline)
    careless_start, start = careless[0][1], remapped[0][1]
    off = abs(start - best) / best
    print(f"baseline, at its best checkpoint        {best:.6f}")
    print(
        f"(a) strict=False, at step 0             {careless_start:.6f}  ({careless_start / best:.2f} times the baseline's)"
    )
    print(f"(b) from the remapped file, at step 0   {start:.6f}  (off by a relative {off:.1e})")
    if options.level:
        ends = " ".join(f"{validations(run)[-1][1]:.6f}" for run in (options.remapped, options.level))
        print(f"at the end with elevation, and without  {ends}")
    if options.picture:
        draw(baseline, {"(a) strict=False": careless, "(b) remapped": remapped}, options.picture)
        print(f"drawn: {options.picture}")
    return int(off > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
