"""Every hostile file through the command line, in a process of its own: a clear end, soon, in little memory, nothing run,
nothing raw on the terminal. The files are in the tables of tests/security/corpus/."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

import pytest

from ckptdoctor import execute, make_plan, read_manifest
from ckptdoctor.errors import CheckpointError, CkptDoctorError
from ckptdoctor.formats import open_checkpoint
from ckptdoctor.text import printable
from tests import builders as b
from tests.cli.helpers import COMMAND, environment
from tests.security.corpus import CORPUS
from tests.security.corpus.cases import Built, Content, Listed, Refused
from tests.security.corpus.execution import GOES_OFF, WITH_TORCH
from tests.summary import counted

SECONDS, MEGABYTES = 10, 1000
FEW_MEGABYTES = 200
"""What a file may take that is not said to be costly."""
PATIENCE = 90
"""Seconds on the clock after which a run counts as endless; the bound is on what it uses, for a machine may be shared."""
_PREFIXES = ("warning: ", "next: ")
Record: TypeAlias = Callable[[str, object], None]


class Ended(NamedTuple):
    """How a run ended: its status, and what it printed."""

    status: int
    stdout: str
    stderr: str


LAUNCHER = """
import json, os, subprocess, sys, time
for line in sys.stdin:
    words, folder, environment, outputs, seconds = json.loads(line)
    stdout, stderr = (open(path, "wb") for path in outputs)
    process = subprocess.Popen(words, cwd=folder, env=environment, stdin=-3, stdout=stdout, stderr=stderr)
    deadline = time.monotonic() + seconds
    pid = 0
    while not pid and time.monotonic() < deadline:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        time.sleep(0 if pid else 0.003)
    if not pid:
        process.kill()
        _, status, usage = os.wait4(process.pid, 0)
    used = usage.ru_utime + usage.ru_stime
    print(json.dumps([os.waitstatus_to_exitcode(status), bool(pid), used, usage.ru_maxrss * 1024 / 1e6]), flush=True)
"""
"""Starts the runs: in the system's books, a process begins with the memory of the one that started it, and this is small."""

Launch: TypeAlias = Callable[..., tuple[int, bool, float, float]]


@pytest.fixture(scope="module")
def launch() -> Iterator[Launch]:
    """Start a command: its exit status, whether it ended by itself, its seconds on a processor, and its memory in MB."""
    command = [sys.executable, "-S", "-c", LAUNCHER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout

        def run(*request: object) -> tuple[int, bool, float, float]:
            print(json.dumps(request), file=process.stdin, flush=True)
            status, ended, seconds, megabytes = json.loads(process.stdout.readline())
            return status, ended, seconds, megabytes

        yield run
        process.stdin.close()


class Place:
    """A folder to run in, which holds the file and nothing else, and one beside it for what a run prints and writes."""

    def __init__(self, folder: Path, content: Content, launch: Launch, megabytes: float) -> None:
        self.inside, self.beside = folder / "here", folder / "beside"
        self.inside.mkdir()
        self.beside.mkdir()
        self._launch, self._most = launch, megabytes
        if isinstance(content, Built):
            self.path = content.build(self.inside / "model")
        else:
            self.path = b.written(self.inside / "model.ckpt", content() if callable(content) else content)
        self._before = self._state()

    def run(self, *words: object) -> Ended:
        """Run to the end, within bounds, and look at what it left."""
        outputs = [self.beside / "stdout", self.beside / "stderr"]
        status, ended, seconds, megabytes = self._launch(
            [*COMMAND, *map(str, words)], str(self.inside), environment(), [*map(str, outputs)], PATIENCE
        )
        assert ended, f"still running after {PATIENCE} seconds"
        assert seconds < SECONDS
        assert megabytes < self._most
        texts = [each.read_bytes().decode("utf-8") for each in outputs]
        assert self._state() == self._before, "something was run, or written"
        assert "Traceback" not in "".join(texts)
        for text in texts:
            assert printable(text.replace("\n", "")) == text.replace("\n", ""), "raw on the terminal"
        return Ended(status, *texts)

    def _state(self) -> list[tuple[str, int, int]]:
        found = [(str(path.relative_to(self.inside)), path.lstat()) for path in self.inside.rglob("*")]
        return sorted((name, status.st_size, status.st_mtime_ns) for name, status in found)


def check_refusal(ended: Ended, words: str, hint: str = "") -> None:
    """Status 2, nothing on stdout, and one error with its hint, a line each, on stderr."""
    assert ended.status == 2, ended.stderr[:2000]
    assert ended.stdout == ""
    first, *rest = ended.stderr.splitlines()
    assert first.startswith("error: ")
    assert "internal error" not in first
    assert re.search(words, first), first
    assert all(line.startswith("hint: ") for line in rest)
    assert len(rest) <= 1
    assert hint in "".join(rest)
    assert len(first) < 5_000


def check_result(ended: Ended) -> None:
    """Status 0, and no line that the file begins: on stdout a title, empty lines and indented ones, and a sentence."""
    assert ended.status == 0, ended.stderr[:2000]
    assert all(line.startswith(_PREFIXES) for line in ended.stderr.splitlines()), ended.stderr[:2000]
    for line in ended.stdout.splitlines():
        assert not line.startswith(("error:", "hint:", "next:", "warning:")), line
    assert max(map(len, ended.stderr.splitlines()), default=0) < 5_000


@pytest.mark.parametrize("name", CORPUS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_hostile_file(tmp_path: Path, launch: Launch, record_property: Record, name: str) -> None:
    case = CORPUS[name]
    place = Place(tmp_path, case.content, launch, MEGABYTES if case.costly else FEW_MEGABYTES)
    if isinstance(case, Refused):
        check_refusal(place.run("inspect", place.path), case.words, case.hint)
        check_code(place, case)
    else:
        check_listed(place, case)
    record_property(counted("hostile files"), 1)


def check_code(place: Place, case: Refused) -> None:
    """The code of the error: in this process where that is cheap, else as JSON from another run."""
    if case.costly:
        code = json.loads(place.run("inspect", place.path, "-f", "json").stderr)["error"]["code"]
    else:
        with pytest.raises(CkptDoctorError) as caught:
            read_manifest(place.path)
        code = caught.value.code
        assert str(place.path)[:300] in str(caught.value) or place.path.is_dir()
    assert re.fullmatch(case.code, code)


def check_listed(place: Place, case: Listed) -> None:
    """Its keys are those, and what is written of it has them too."""
    listed = place.beside / "manifest.json"
    check_result(place.run("inspect", place.path, "--manifest", listed))
    keys = [row["key"] for row in json.loads(listed.read_text())["tensors"]]
    if isinstance(case.keys, int):
        assert len(keys) == case.keys
    else:
        assert tuple(keys) == case.keys
    for out, wanted in (("out.ckpt", case.to_torch), ("out.safetensors", case.to_safetensors)):
        if wanted is False:
            continue
        output = place.beside / out
        ended = place.run("remap", place.path, "--no-target", "-o", output, *case.options)
        if wanted is True:
            check_result(ended)
            assert sorted(read_manifest(output)) == sorted(keys)
        else:
            check_refusal(ended, wanted)
            assert not list(place.beside.glob(f"{out}*"))


# ---- the payloads are live ---------------------------------------------------------------------------------------------

LOADED = """
import io, os, pickle, sys
from pathlib import Path
class Loading(pickle.Unpickler):
    def persistent_load(self, pid): return None
for path in sys.argv[1:]:
    try:
        Loading(io.BytesIO(Path(path).read_bytes())).load()
    except BaseException:
        pass
    for _ in range(100):
        if Path("canary").exists():
            break
        __import__("time").sleep(0.01)
    print(Path("canary").exists())
    Path("canary").unlink(missing_ok=True)
"""


def test_the_payloads_go_off_when_python_loads_them(tmp_path: Path) -> None:
    """Else it would say nothing that none of them does here."""
    pytest.importorskip("torch")
    payloads = {**GOES_OFF, **WITH_TORCH}
    paths = [b.written(tmp_path / str(n), b.pickled(each, protocol=4)) for n, each in enumerate(payloads.values())]
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *map(str, paths)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    outcomes = [line for line in done.stdout.splitlines() if line in ("True", "False")]
    assert [name for name, outcome in zip(payloads, outcomes, strict=True) if outcome != "True"] == []


# ---- every byte --------------------------------------------------------------------------------------------------------


def small_files() -> dict[str, bytes]:
    """A small file of each format."""
    torch = pytest.importorskip("torch")
    saved, old = io.BytesIO(), io.BytesIO()
    state = {"state_dict": {"w": torch.ones(2), "v": torch.zeros(3)}, "epoch": 3, "name": "x"}
    torch.save(state, saved)
    torch.save(state, old, _use_new_zipfile_serialization=False)
    rows = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    manifest = b'{"schema": "ckptdoctor/manifest/1", "tensors": [{"key": "w", "shape": [2], "dtype": "float32"}]}'
    safetensors = b.safetensors_bytes(rows, bytes(8))
    return {"torch": saved.getvalue(), "old": old.getvalue(), "safetensors": safetensors, "manifest": manifest}


def outcome(path: Path) -> str:
    """`read` or `refused`; anything else that is raised is a defect."""
    try:
        with open_checkpoint(path) as checkpoint:
            for place in checkpoint.places if checkpoint.has_data else ():
                for tensor in checkpoint.stored(place).values():
                    assert all(len(chunk) >= 0 for chunk in checkpoint.values(tensor))
    except CheckpointError:
        return "refused"
    return "read"


@pytest.mark.parametrize("kind", ["torch", "old", "safetensors", "manifest"])
def test_a_small_file_that_ends_at_any_byte(tmp_path: Path, record_property: Record, kind: str) -> None:
    data = small_files()[kind]
    for end in range(len(data)):
        assert outcome(b.written(tmp_path / "f", data[:end])) == "refused", end
    assert outcome(b.written(tmp_path / "f", data)) == "read"
    record_property(counted("hostile files"), len(data))


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_a_pickle_with_any_byte_flipped(tmp_path: Path, record_property: Record, flip: int) -> None:
    """With a right checksum, so that it is the pickle that is judged; what is read is written again as it was read."""
    weights = b.dict_(
        {"w": b.tensor(), "t": b.tensor(shape=(2, 2), stride=(1, 2)), "names": b.list_(b.text("a"), b"I7\n")}
    )
    pickle = b.pickled(
        b.dict_({"state_dict": weights, "x": b.call("argparse.Namespace") + b.dict_({"lr": b"K\1"}) + b"b"})
    )
    outcomes = []
    for at in range(len(pickle)):
        changed = pickle[:at] + bytes([pickle[at] ^ flip]) + pickle[at + 1 :]
        path = b.written(tmp_path / "f.pt", b.torch_file(changed))
        outcomes.append(outcome(path))
        if outcomes[-1] == "read":
            check_written_again(path, tmp_path / "out.pt")
    assert outcomes.count("refused") > len(pickle) // 3
    assert outcomes.count("read") > 0
    record_property(counted("hostile files"), len(pickle))


def check_written_again(path: Path, out: Path) -> None:
    try:
        manifest = read_manifest(path)
        execute(make_plan(manifest), out, overwrite=True)
    except CkptDoctorError:
        return
    assert list(read_manifest(out)) == list(manifest)
