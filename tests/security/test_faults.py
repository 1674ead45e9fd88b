"""Whatever fails, falls short or ends a run, and whenever: the output is the old one or the new one, and the run says which.

Every call to the system fails in turn (faults.py), in four ways to write and on file systems that lack something. What holds
after each is in `judge` and `judge_killed`.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pytest
import torch
from safetensors.torch import save_file

from tests.cli.helpers import Done
from tests.security import faults
from tests.security.faults import Act, Layer, run_apart, run_here
from tests.summary import counted

Tree: TypeAlias = dict[str, bytes]
Count: TypeAlias = Callable[[str, object], None]
Stages: TypeAlias = "Callable[[str], Stage]"


class Case(NamedTuple):
    """One way to write: the words, what they write, what wrote the older output, and what the file system does not know."""

    words: str
    output: str
    older: str = ""
    lacking: frozenset[str] = frozenset()


RENAME = "remap base.pt -m rename.yaml -o out.pt --overwrite"
COMPUTE = "remap base.pt -m compute.yaml -o out.safetensors --overwrite"
SHARDS = "remap base.safetensors -m rename.yaml -o out --to sharded --overwrite --shard-size "
FIRST = "remap base.pt -m rename.yaml -o out.pt"
CASES = {
    "a rename over an older file": Case(RENAME, "out.pt", RENAME.replace("base", "other")),
    "values are computed, with a sidecar": Case(COMPUTE, "out.safetensors", COMPUTE.replace("base", "other")),
    "shards over an older folder": Case(SHARDS + "3kB", "out", SHARDS.replace("base", "other") + "1kB"),
    "a first file": Case(FIRST, "out.pt"),
}
WITHOUT = {
    "copies in the kernel": CASES["a rename over an older file"]._replace(
        lacking=frozenset({"copy_file_range", "sendfile", "fallocate"})
    ),
    "hard links": CASES["a first file"]._replace(lacking=frozenset({"link"})),
    "an exchange of names": CASES["shards over an older folder"]._replace(lacking=frozenset({"exchange"})),
    "locks": CASES["a first file"]._replace(lacking=frozenset({"flock"})),
}
ALL = CASES | {f"without {name}": case for name, case in WITHOUT.items()}
SOURCES = ("base.pt", "base.safetensors")


class Stage:
    """A folder that can be made what it was, and what it is with the new output."""

    def __init__(self, folder: Path, case: Case) -> None:
        self.folder, self.case, self.words = folder, case, case.words.split()
        make_sources(folder)
        if case.older:
            assert run_here(folder, case.older.split()).status == 0
        self.before = tree(folder)
        done = run_here(folder, self.words, Layer(lacking=case.lacking))
        assert (done.status, done.stderr.count("error:")) == (0, 0), done.stderr
        self.after = tree(folder)
        assert self.main(self.after) not in ({}, self.main(self.before))
        assert self.beside(self.after) not in ({}, self.beside(self.before))

    def reset(self) -> None:
        shutil.rmtree(self.folder)
        for name, data in self.before.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(data)
        for name in SOURCES:
            os.utime(self.folder / name, ns=(7, 7))

    def main(self, found: Tree) -> Tree:
        """The output: the file, or all files of the folder."""
        return {name: data for name, data in found.items() if name.partition("/")[0] == self.case.output}

    def beside(self, found: Tree) -> Tree:
        """Its receipt and sidecar."""
        return {name: data for name, data in found.items() if name.startswith(self.case.output + ".")}


def make_sources(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(("base", "other")):
        generator = torch.Generator().manual_seed(number)
        shapes = {"a.weight": (16, 40), "a.bias": (40,), "n": (300,)}
        tensors = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
        torch.save({"epoch": number, "state_dict": tensors}, folder / f"{name}.pt")
        save_file(tensors, folder / f"{name}.safetensors")
    (folder / "rename.yaml").write_text('ckptdoctor: 1\nrules: [{from: "a.{p}", to: "b.{p}"}]\n')
    rule = 'rules: [{from: "a.weight", to: "b.weight", op: {transpose: [0, 1]}}]'
    (folder / "compute.yaml").write_text(f"ckptdoctor: 1\n{rule}\n")


def tree(folder: Path) -> Tree:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def debris(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if "ckptdoctor-tmp" in name]  # noqa: PTH208


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    made: dict[str, Stage] = {}

    def stage(name: str) -> Stage:
        if name not in made:
            made[name] = Stage(tmp_path_factory.mktemp("stage") / "work", ALL[name])
        made[name].reset()
        return made[name]

    return stage


# ---- what holds after each ----------------------------------------------------------------------------------------------


def state_of(stage: Stage, found: Tree) -> str:
    """Old or new: nothing else may be there, and nothing else may have changed."""
    old, new = ({**stage.main(each)} for each in (stage.before, stage.after))
    mine = stage.main(found)
    assert mine in (old, new), sorted(mine)
    rest = {name: data for name, data in found.items() if name not in mine | stage.beside(found)}
    assert rest == {
        name: data for name, data in stage.before.items() if name not in old | stage.beside(stage.before)
    }, sorted(rest)
    for name in SOURCES:
        assert (stage.folder / name).stat().st_mtime_ns == 7, name
    return "new" if mine == new else "old"


def check_beside(stage: Stage, found: Tree, state: str) -> None:
    """The small files are of the output that is there; else it is a new output, and verify says that they are not."""
    if stage.beside(found) == stage.beside(stage.after if state == "new" else stage.before):
        return
    assert state == "new", "new small files beside an old output"
    for name, data in stage.beside(found).items():
        assert data in (stage.before.get(name), stage.after.get(name)), name
    receipt = f"{stage.case.output}.receipt.json"
    if found.get(receipt) == stage.before.get(receipt):
        verified = run_here(stage.folder, ["verify", stage.case.output])
        if receipt in found:
            assert verified.status == 1, verified.stdout
            assert "another file" in verified.stdout or "have other values than" in verified.stdout, verified.stdout
        else:
            assert "there is no" in verified.stdout


def judge(stage: Stage, done: Done, *, clean: bool = True) -> None:
    """After a run that ended by itself."""
    if clean:
        assert debris(stage.folder) == []
        assert "could not be removed" not in done.stderr
    found = {name: data for name, data in tree(stage.folder).items() if "ckptdoctor-tmp" not in name}
    state = state_of(stage, found)
    complete = state == "new" and stage.beside(found) == stage.beside(stage.after)
    said = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr, done.stderr
    check_beside(stage, found, state)
    if done.status == 0:
        assert complete
        assert said == []
        return
    assert done.status == 2, done
    assert len(said) == 1, done.stderr
    assert ("is written and in place" in said[0]) == (state == "new"), done.stderr


def every(stage: Stage, act: Act, **more: Any) -> Iterator[tuple[Layer, Done]]:
    """Runs in which the first call is the one, then the second, until a run makes no more."""
    for at in count(1):
        stage.reset()
        layer = Layer(at, act, lacking=stage.case.lacking, **more)
        done = run_here(stage.folder, stage.words, layer)
        if not layer.reached:
            assert done.status == 0
            assert at > 5, "it hardly did anything"
            return
        yield layer, done


# ---- calls that fail ----------------------------------------------------------------------------------------------------

READING = ("pread", "preadv", "fstat", "lseek", "close")
OTHERS = tuple(name for name in faults.CALLS if name not in READING)
KINDS: dict[str, tuple[Act, tuple[str, ...]]] = {
    "EIO": (faults.failing(errno.EIO), ()),
    "ENOSPC": (faults.failing(errno.ENOSPC), OTHERS),
    "EDQUOT": (faults.failing(errno.EDQUOT), tuple(faults.TAKES_ROOM)),
    "EACCES": (faults.failing(errno.EACCES), OTHERS),
    "answer lost": (faults.answer_lost, OTHERS),
}


def try_all(stage: Stage, act: Act, **more: Any) -> tuple[int, set[int]]:
    """Judge a run for every call; how many there were, and the exit statuses that were seen."""
    tried, statuses = 0, set()
    for tried, (layer, done) in enumerate(every(stage, act, **more), 1):
        try:
            judge(stage, done)
        except AssertionError as error:
            raise AssertionError(f"call {tried}, {layer.reached}: {error}") from error
        statuses.add(done.status)
    return tried, statuses


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_a_call_that_fails(stages: Stages, name: str, kind: str, record_property: Count) -> None:
    act, only = KINDS[kind]
    tried, statuses = try_all(stages(name), act, only=only)
    assert statuses == {0, 2}
    record_property(counted("faults"), tried)


@pytest.mark.parametrize("kind", ["EIO", "answer lost"])
@pytest.mark.parametrize("name", [name for name in ALL if name not in CASES])
def test_a_call_that_fails_where_something_is_lacking(
    stages: Stages, name: str, kind: str, record_property: Count
) -> None:
    tried, statuses = try_all(stages(name), KINDS[kind][0], only=OTHERS)
    assert statuses == {0, 2}
    record_property(counted("faults"), tried)


@pytest.mark.parametrize("name", CASES)
def test_a_disk_that_is_full_from_some_call_on(stages: Stages, name: str, record_property: Count) -> None:
    tried, statuses = try_all(stages(name), faults.no_room, only=tuple(faults.TAKES_ROOM), on=True)
    assert statuses == {0, 2}, "once it is in place, nothing takes room"
    record_property(counted("faults"), tried)


@pytest.mark.parametrize("name", CASES)
def test_a_call_that_a_signal_interrupts_is_made_again(stages: Stages, name: str, record_property: Count) -> None:
    tried, statuses = try_all(stages(name), faults.failing(errno.EINTR))
    assert statuses == {0}
    record_property(counted("faults"), tried)


@pytest.mark.parametrize("name", ALL)
def test_a_call_that_does_half_of_it_is_followed_by_another(stages: Stages, name: str, record_property: Count) -> None:
    stage = stages(name)
    tried, statuses = try_all(stage, faults.short, only=tuple(faults.SHORTENED))
    assert statuses == {0}
    stage.reset()
    done = run_here(
        stage.folder,
        stage.words,
        Layer(1, faults.short, only=tuple(faults.SHORTENED), on=True, lacking=stage.case.lacking),
    )
    judge(stage, done)
    assert done.status == 0, "all of them fall short"
    record_property(counted("faults"), tried + 1)


def test_what_cannot_be_removed_is_said(stages: Stages) -> None:
    for name, words in (("a first file", "warning"), ("shards over an older folder", "warning")):
        stage = stages(name)
        done = run_here(stage.folder, stage.words, Layer(1, faults.failing(errno.EIO), only=("rmtree",), on=True))
        judge(stage, done, clean=False)
        assert (done.status, words in done.stderr, "could not be removed" in done.stderr) == (0, True, True)
        assert len(debris(stage.folder)) == 1
    stage = stages("a first file")
    broken = Layer(1, faults.failing(errno.EIO), only=("rmtree", "fsync"), on=True)
    done = run_here(stage.folder, stage.words, broken)
    judge(stage, done, clean=False)
    assert (done.status, done.stderr.count("note:"), "could not be removed" in done.stderr) == (2, 1, True)


# ---- signals -----------------------------------------------------------------------------------------------------------

SIGNALS = {
    "SIGTERM": (signal.SIGTERM, False, ()),
    "SIGINT": (signal.SIGINT, True, OTHERS),
    "SIGHUP": (signal.SIGHUP, False, faults.CHANGES),
}


def judge_stopped(stage: Stage, done: Done, number: int) -> None:
    """After a run that a signal has stopped: it has tidied up, and what was in place is complete."""
    found = tree(stage.folder)
    assert debris(stage.folder) == []
    state = state_of(stage, found)
    assert stage.beside(found) == stage.beside(stage.after if state == "new" else stage.before)
    assert "Traceback" not in done.stderr
    assert "error:" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.status == 128 + number, done
    assert done.stderr.count("\n") <= 1
    assert ("is written and in place" in done.stderr) == (state == "new"), done.stderr
    assert "nothing was left behind" not in done.stderr or state == "old"


@pytest.mark.parametrize("which", SIGNALS)
@pytest.mark.parametrize("name", [*CASES, "without an exchange of names"])
def test_a_signal_at_every_call(stages: Stages, name: str, which: str, record_property: Count) -> None:
    number, before, only = SIGNALS[which]
    stage, tried = stages(name), 0
    for tried, (layer, done) in enumerate(every(stage, faults.signalled(number, before=before), only=only), 1):
        try:
            judge_stopped(stage, done, number)
        except AssertionError as error:
            raise AssertionError(f"call {tried}, {layer.reached}: {error}") from error
    record_property(counted("faults"), tried)


@pytest.mark.parametrize("name", ["a rename over an older file", "a first file", "without an exchange of names"])
def test_a_signal_at_every_line_of_what_publishes(stages: Stages, name: str, record_property: Count) -> None:
    """Between the calls, too: the line before one, the line after it, the first of every function."""
    stage, seen = stages(name), set()
    for at in count(1):
        stage.reset()
        lines = faults.Lines(at, {"staging.py", "sweeping.py"})
        with lines.traced():
            done = run_here(stage.folder, stage.words, Layer(lacking=stage.case.lacking))
        if not lines.reached:
            break
        try:
            judge_stopped(stage, done, signal.SIGINT)
        except AssertionError as error:
            raise AssertionError(f"{lines.reached}: {error}") from error
        seen.add(lines.reached)
    assert len(seen) > 50
    record_property(counted("faults"), at - 1)


@pytest.mark.parametrize("name", CASES)
def test_more_signals_while_it_tidies_up(stages: Stages, name: str, record_property: Count) -> None:
    """From some call on every call comes with a signal: those after the first are not heard."""
    stage, act = stages(name), faults.signalled(signal.SIGTERM, before=True)
    tried = 0
    for _, done in every(stage, act, only=faults.CHANGES, on=True):
        judge_stopped(stage, done, signal.SIGTERM)
        tried += 1
    record_property(counted("faults"), tried)


# ---- the end of the process ----------------------------------------------------------------------------------------------


def judge_killed(stage: Stage) -> None:
    """After a run that was killed: old or new, one hidden folder at most, and the next run takes it away."""
    left = debris(stage.folder)
    assert len(left) <= 1, left
    if not (stage.folder / stage.case.output).exists() and stage.case.older:
        put_back(stage)
    found = {name: data for name, data in tree(stage.folder).items() if "ckptdoctor-tmp" not in name}
    state = state_of(stage, found)
    check_beside(stage, found, state)
    words = [*stage.words, *(["--overwrite"] if state == "new" and "--overwrite" not in stage.words else [])]
    done = run_here(stage.folder, words)
    if "remove the folder first" in done.stderr:  # its receipt lists the older one's files
        assert stage.main(found) == stage.main(stage.after) != stage.main(stage.before)
        assert stage.beside(found) == stage.beside(stage.before)
        shutil.rmtree(stage.folder / stage.case.output)
        done = run_here(stage.folder, words)
    assert (done.status, debris(stage.folder)) == (0, []), done.stderr
    assert state_of(stage, tree(stage.folder)) == "new"


def put_back(stage: Stage) -> None:
    """Between two renames, where names cannot be exchanged, the older folder waits in the hidden one; a run brings it back."""
    assert "exchange" in stage.case.lacking
    assert run_here(stage.folder, ["inspect", "base.pt", "--manifest", "m.json"]).status == 0
    (stage.folder / "m.json").unlink()
    assert debris(stage.folder) == []
    assert stage.main(tree(stage.folder)) == stage.main(stage.before)


@pytest.mark.parametrize("name", [*CASES, "without an exchange of names"])
def test_killed_at_every_call_that_changes_something(stages: Stages, name: str, record_property: Count) -> None:
    stage, kills = stages(name), 0
    for kills in count():
        stage.reset()
        layer = Layer(kills + 1, faults.killed, only=faults.CHANGES, lacking=stage.case.lacking)
        ended = run_apart(stage.folder, stage.words, layer)
        if ended.status == 0:
            break
        assert ended.status == -signal.SIGKILL, ended
        judge_killed(stage)
    assert kills > 10
    record_property(counted("kills"), kills)
