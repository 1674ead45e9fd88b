"""The limits: what each refuses, that its error names its flag, and where they hold."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import pytest

from ckptdoctor import Limits, execute, limited, make_plan, read_manifest
from ckptdoctor.cli.app import COMMANDS, MAP_COMMANDS
from ckptdoctor.errors import CheckpointError, LimitExceeded
from ckptdoctor.limits import limits
from ckptdoctor.pickles.parse import parse
from ckptdoctor.receipt import read_receipt
from tests import builders as b
from tests.cli.helpers import run

WEIGHTS = b.pickled(b.dict_({f"w{number}": b.tensor() for number in range(9)}))
ROWS = {f"w{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(9)}
DEEP = b.pickled(b.dict_({"a": b.dict_({"b": b.dict_({"w": b.tensor()})})}))
FILES: dict[str, tuple[bytes, str, Limits]] = {
    "opcodes of a torch file": (b.torch_file(WEIGHTS), "opcodes", Limits(opcodes=100)),
    "values of a safetensors header": (b.safetensors_bytes(ROWS), "opcodes", Limits(opcodes=50)),
    "bytes of a pickle": (b.torch_file(WEIGHTS), "metadata", Limits(metadata=300)),
    "bytes of a directory": (b.torch_file(b"N."), "metadata", Limits(metadata=100)),
    "bytes of a header": (b.safetensors_bytes(ROWS), "metadata", Limits(metadata=300)),
    "bytes of a manifest": (b'{"schema": "ckptdoctor/manifest/1", "tensors": []}', "metadata", Limits(metadata=20)),
    "levels of a manifest": (
        b'{"schema": "ckptdoctor/manifest/1", "tensors": [{"key": "w", "shape": [2], "dtype": "float32"}]}',
        "nesting",
        Limits(nesting=3),
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_what_is_over_a_limit_is_refused_with_its_flag(tmp_path, name):
    content, limit, small = FILES[name]
    path = b.written(tmp_path / "f", content)
    with limited(small), pytest.raises(LimitExceeded) as caught:
        read_manifest(path)
    assert str(path) in str(caught.value)
    assert f"--max-{limit} " in (caught.value.hint or "")
    assert caught.value.code == "limit-exceeded"
    if name != "bytes of a directory":
        read_manifest(path)


def test_weights_are_looked_for_as_deep_as_the_limit_says(tmp_path):
    path = b.written(tmp_path / "f", b.torch_file(DEEP))
    assert read_manifest(path).origin.selected == "a/b"
    with limited(Limits(nesting=2)):
        assert read_manifest(path).origin.selected == "a/b"
    with limited(Limits(nesting=1)), pytest.raises(CheckpointError, match="no state dict"):
        read_manifest(path)


@pytest.mark.parametrize("to", ["out.safetensors", "out"])
def test_a_broadcast_is_read_up_to_the_limit_also_by_threads(tmp_path, to):
    path = b.written(tmp_path / "f.pt", b.torch_file(b.pickled(b.dict_({"w": b.tensor(shape=(1000,), stride=(0,))}))))
    plan = make_plan(read_manifest(path))
    with limited(Limits(materialised=3983)), pytest.raises(LimitExceeded, match="4,000 bytes") as caught:
        execute(plan, tmp_path / to, to="safetensors" if "." in to else "sharded")
    assert "--max-materialised" in (caught.value.hint or "")
    assert not (tmp_path / to).exists()
    with limited(Limits(materialised=3984)):
        execute(plan, tmp_path / to, to="safetensors" if "." in to else "sharded")


def test_an_output_is_read_back_within_the_limits(tmp_path):
    """Fifty calls with the arguments of one are few opcodes, and in safetensors as many rows."""
    call = b.tensor(shape=(0,)).removesuffix(b"R")
    function = b.global_("torch._utils._rebuild_tensor_v2")
    rows = b"".join(b.text(f"w{number}") + b"h\1h\2R" for number in range(50))
    memo = function + b"q\1" + call.removeprefix(function) + b"q\2" + b"00"
    path = b.written(tmp_path / "f.pt", b.torch_file(b.pickled(memo, b"}(", rows, b"u")))
    with limited(Limits(opcodes=300)):
        plan = make_plan(read_manifest(path))
        execute(plan, tmp_path / "out.pt")
        with pytest.raises(LimitExceeded, match="more than 300 values") as caught:
            execute(plan, tmp_path / "out.safetensors")
    assert "--max-opcodes" in (caught.value.hint or "")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_receipt_is_metadata_too(tmp_path):
    path = b.written(tmp_path / "f.pt", b.torch_file(WEIGHTS))
    execute(make_plan(read_manifest(path)), tmp_path / "out.pt")
    assert len(read_receipt(tmp_path / "out.pt").tensors) == 9
    with limited(Limits(metadata=500)), pytest.raises(LimitExceeded, match="receipt"):
        read_receipt(tmp_path / "out.pt")


def test_the_pickles_of_an_old_file_end_within_the_limit(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.ones(3), "text": "x" * 50_000}, tmp_path / "f", _use_new_zipfile_serialization=False)
    with limited(Limits(metadata=40_000)), pytest.raises(LimitExceeded, match="do not end within 40,000 bytes"):
        read_manifest(tmp_path / "f")
    with limited(Limits(metadata=60_000)):
        assert list(read_manifest(tmp_path / "f")) == ["w"]


class TestWhereTheyHold:
    def test_in_the_with_and_no_longer(self):
        with limited(Limits(opcodes=5)) as small:
            assert limits() is small
            with limited(Limits(opcodes=7)):
                assert limits().opcodes == 7
            assert limits().opcodes == 5
        assert limits() == Limits()

    def test_not_in_a_thread_unless_it_has_a_copy(self):
        def opcodes() -> int:
            return limits().opcodes

        with limited(Limits(opcodes=5)), ThreadPoolExecutor(1) as threads:
            assert threads.submit(opcodes).result() == Limits().opcodes
            assert threads.submit(copy_context().run, opcodes).result() == 5

    @pytest.mark.parametrize("count", [1, 9, 10, 11])
    def test_opcodes_are_counted_exactly(self, count):
        stream = b"\x80\2" + b"N0" * 4 + b"N."  # eleven, with PROTO and STOP
        with limited(Limits(opcodes=count)):
            if count < 11:
                with pytest.raises(ValueError, match=f"more than {count} opcodes"):
                    parse(stream)
            else:
                assert parse(stream).end == len(stream)


ON_THE_COMMAND_LINE = {
    "opcodes": (b.torch_file(WEIGHTS), ("100", "1000")),
    "metadata": (b.torch_file(WEIGHTS), ("0.3kB", "1 MB")),
    "materialised": (b.torch_file(b.pickled(b.dict_({"w": b.tensor(shape=(1000,), stride=(0,))}))), ("3983", "1GiB")),
    "nesting": (FILES["levels of a manifest"][0], ("3", "4")),
}


@pytest.mark.parametrize("limit", ON_THE_COMMAND_LINE)
def test_the_flags_are_the_limits(tmp_path, limit):
    content, (too_little, enough) = ON_THE_COMMAND_LINE[limit]
    path = b.written(tmp_path / "f", content)
    command = ["inspect", path] if limit != "materialised" else ["remap", path, "-o", tmp_path / "o.safetensors"]
    refused = run(*command, f"--max-{limit}", too_little, cwd=tmp_path)
    assert refused.status == 2
    assert refused.stderr.count("error: ") == 1
    assert f"--max-{limit} " in refused.stderr
    assert run(*command, f"--max-{limit}", enough, cwd=tmp_path).status == 0


@pytest.mark.parametrize("option", [("--max-metadata", "much"), ("--max-materialised", "0"), ("--max-opcodes", "0")])
def test_a_limit_that_is_none_is_a_usage_error(tmp_path, option):
    assert run("inspect", b.written(tmp_path / "f", b.torch_file(WEIGHTS)), *option, cwd=tmp_path).status == 2


@pytest.mark.parametrize("name", [*COMMANDS, *(f"map {name}" for name in MAP_COMMANDS)])
def test_every_command_that_reads_has_them(tmp_path, name):
    text = run(*name.split(), "--help", cwd=tmp_path).stdout
    found = [f"--max-{limit}" in text for limit in Limits._fields]
    assert found == [name != "schema"] * 4
