"""The fuzzing itself: it is the same every time, and what can go wrong with a reader does not pass unnoticed."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ckptdoctor.errors import CorruptCheckpoint
from tests.security.fuzzing import campaign, ours, targets
from tests.security.fuzzing.campaign import BOTH, CRASHED, OURS_ALONE, REFUSED, SAME, WRONG
from tests.security.fuzzing.targets import Target

pytest.importorskip("torch")
ALL = (
    targets.TORCH,
    targets.LEGACY,
    targets.SAFETENSORS,
    targets.FOLDERS,
    targets.MANIFESTS,
    targets.RECEIPTS,
    targets.MAPS,
)


@pytest.mark.parametrize("target", ALL, ids=lambda target: target.name)
def test_a_mutant_is_known_by_its_numbers(target):
    made = [target.mutant(3, number) for number in range(60)]
    assert [target.mutant(3, number) for number in reversed(range(60))] == made[::-1]
    assert [target.mutant(4, number) for number in range(60)] != made
    assert len({tuple(files.items()) for files in made}) > 45


@pytest.mark.parametrize("target", ALL, ids=lambda target: target.name)
def test_every_good_file_is_read_by_both(target, tmp_path):
    written = 0
    for number, files in enumerate(target.seeds()):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = target.write(folder, files)
        found = target.read(path)
        assert target.difference(found, target.reference(path)) is None
        if target.second is not None and b"deflate" not in files["f.pt"]:
            assert target.difference(found, target.second(path)) is None
        if target.rewrite:
            out = tmp_path / f"{number}-out" / (path.name if path.is_file() else "folder")
            out.parent.mkdir()
            assert ours.rewritten(path, out, found) is None
            written += out.exists()
    assert written >= (len(target.seeds()) - 1) * target.rewrite  # one has no state dict, or several


# ---- a reader with every fault that a reader may have ----------------------------------------------------------------------


def numbered(random: Random, good: Any) -> dict[str, bytes]:
    return {"n": b"%d" % (random.getrandbits(30) % 10)}


def number_in(path: Path) -> int:
    return int(path.read_bytes())


def faulty(
    read: Callable[[int], Any] = lambda number: number, reference: Callable[[int], Any] = lambda number: number
) -> Target:
    return Target(
        "faulty",
        seeds=lambda: ({"n": b"0"},),
        mutate=numbered,
        read=lambda path: read(number_in(path)),
        reference=lambda path: reference(number_in(path)),
        difference=lambda mine, theirs: None if mine == theirs else f"{mine} and {theirs}",
    )


def outcomes(tally: campaign.Tally) -> dict[int, set[int]]:
    """What became of the mutants, by the number in each."""
    found: dict[int, set[int]] = {}
    for number, outcome in enumerate(tally.outcomes):
        found.setdefault(int(tally.target.mutant(tally.seed, number)["n"]), set()).add(outcome)
    return found


def expected(tally: campaign.Tally, others: dict[int, int]) -> dict[int, set[int]]:
    """Both read all but these; 0 is what the good file holds."""
    return {number: {others.get(number, BOTH if number else SAME)} for number in outcomes(tally)}


def refuses(number: int) -> int:
    if number == 3:
        raise CorruptCheckpoint("three", path="n")
    return number


def fails(number: int) -> int:
    if number == 5:
        raise RecursionError
    return number


def eats(number: int) -> int:
    return len(bytes(campaign.MEMORY * 2)) if number == 5 else number


def dawdles(number: int) -> int:
    end = time.process_time() + campaign.SECONDS + 0.2
    while number == 5 and time.process_time() < end:
        pass
    return number


def dies(number: int) -> int:
    if number == 5:
        os.kill(os.getpid(), signal.SIGSEGV)
    return number


def lies(number: int) -> int:
    return number + (number == 5)


@pytest.mark.parametrize(
    ("read", "said"),
    [(fails, "RecursionError"), (eats, "MemoryError"), (dawdles, "seconds"), (dies, "status -11"), (lies, "6 and 5")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_fault_of_ours_is_found_and_left_in_a_file(read, said, tmp_path):
    tally = campaign.run(faulty(read), 12 if read is dawdles else 100, seed=1)
    assert outcomes(tally) == expected(tally, {5: WRONG})
    assert 5 in outcomes(tally)
    assert all(said in finding.what for finding in tally.findings)
    text = campaign.report(tally, tmp_path)
    (folder,) = tmp_path.iterdir()
    assert str(folder) in text
    assert (folder / "n").read_bytes() == b"5"


def test_what_is_refused_is_no_fault_and_what_others_do_is_none_of_ours():
    tally = campaign.run(faulty(refuses, fails), 100, seed=1)
    assert outcomes(tally) == expected(tally, {3: REFUSED, 5: OURS_ALONE})
    tally = campaign.run(faulty(refuses, dies), 100, seed=1)
    assert outcomes(tally) == expected(tally, {3: REFUSED, 5: CRASHED})
    assert not tally.findings


def test_a_comparison_that_fails_is_no_crash_of_the_reference():
    broken = replace(faulty(), difference=lambda mine, theirs: {}[mine] if mine == 5 else None)
    tally = campaign.run(broken, 100, seed=1)
    assert outcomes(tally) == expected(tally, {5: WRONG})
    assert len(tally.findings) == list(tally.outcomes).count(WRONG)


def test_what_cannot_begin_ends_at_once():
    def no_seed(number: int) -> int:
        raise LookupError

    with pytest.raises(RuntimeError, match="before the first mutant"):
        campaign.run(faulty(no_seed), 100_000, seed=1)


def test_too_little_to_compare_is_a_failure(tmp_path):
    never = faulty(reference=lambda number: 1 // 0)
    with pytest.raises(AssertionError, match="too few to compare"):
        campaign.check(campaign.run(never, 20, seed=1), tmp_path)
    campaign.check(campaign.run(replace(never, least=0.0, least_new=0.0), 20, seed=1), tmp_path)
    same = replace(faulty(), mutate=lambda random, good: good[0])
    with pytest.raises(AssertionError, match="too few that are new"):
        campaign.check(campaign.run(same, 20, seed=1), tmp_path)


def test_a_folder_that_is_not_emptied_by_a_refused_identity_is_found(tmp_path, monkeypatch):
    path = targets.SAFETENSORS.write(tmp_path, targets.SAFETENSORS.seeds()[0])

    def litters(plan: Any, out: Path) -> None:
        out.with_suffix(".part").write_bytes(b"x")
        raise CorruptCheckpoint("no", path=out)

    monkeypatch.setattr(ours, "execute", litters)
    (tmp_path / "out").mkdir()
    found = ours.rewritten(path, tmp_path / "out" / "f.safetensors", ours.read_checkpoint(path))
    assert found == "identity: it was refused and left ['f.part']"


def test_the_mutants_are_of_many_kinds():
    """Most are another file than the good ones, and so many of another length as of the same: nothing that changes is lost."""
    good = {data for files in targets.TORCH.seeds() for data in files.values()}
    kinds: Counter[str] = Counter()
    for number in range(1000):
        data = targets.TORCH.mutant(0, number)["f.pt"]
        kinds[
            "as it was" if data in good else "of another length" if len(data) not in map(len, good) else "of its length"
        ] += 1
    assert kinds["as it was"] < 100
    assert min(kinds["of another length"], kinds["of its length"]) > 100
