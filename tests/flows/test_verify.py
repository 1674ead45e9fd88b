"""What `verify` proves, and what it finds: every damage and every mix-up that a file can come to between remap and the job.

torch is the judge where it can be one: a tampered byte is shown to load silently before it is shown to be found.
"""

from __future__ import annotations

import hashlib
import json
import random
import struct
import subprocess
import sys
import zipfile
import zlib
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ckptdoctor import align, execute, load_map, make_plan, read_manifest, resolve_target, verify
from ckptdoctor.errors import CheckpointError, CheckpointNotFound, CorruptCheckpoint, TargetNotFound, UsageError
from ckptdoctor.execution.outputs import Fill
from ckptdoctor.formats import open_checkpoint
from ckptdoctor.formats.base import WriteOptions
from ckptdoctor.model import DTYPES, Manifest, TensorSpec
from ckptdoctor.receipt import receipt_path
from ckptdoctor.source import open_source
from ckptdoctor.verification import CHECKS, Verification, fitting, recomputing
from tests import builders as b
from tests.cli.helpers import run

torch = pytest.importorskip("torch")
st = pytest.importorskip("safetensors.torch")

RENAME = 'ckptdoctor: 1\nrules: [{from: "0.{p}", to: "first.{p}"}]\n'
COMPUTE = (
    "ckptdoctor: 1\n"
    "rules:\n"
    '  - {from: "0.{p}", to: "first.{p}"}\n'
    '  - {from: "1.weight", to: "1.turned", op: {transpose: [0, 1]}}\n'
)
SUFFIXES = ("ckpt", "safetensors")
both = pytest.mark.parametrize("suffix", SUFFIXES)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in a folder of its own, with the bare names that a user would type."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def base(weights: Mapping[str, Any] | None = None, path: str = "base.ckpt", **more: Any) -> Path:
    """A Lightning checkpoint of two linear layers, a batch norm, and a head that is tied to the first layer."""
    torch.manual_seed(0)
    weights = b.state_dict(width=3) if weights is None else weights
    if weights and all(value.is_floating_point() for value in weights.values()):
        weights = (
            {key: torch.rand_like(value) for key, value in weights.items()} if more.pop("rand", False) else weights
        )
    torch.save(b.lightning_like(weights, **more), path)
    return Path(path)


def remap(
    out: str = "out.ckpt",
    text: str | None = RENAME,
    *,
    source: str | Path = "base.ckpt",
    target: Manifest | None = None,
    strip: list[str] | None = None,
    **options: Any,
) -> Path:
    """Write `out` of the source through a map, with its receipt."""
    maps = []
    if text is not None:
        Path("map.yaml").write_text(text)
        maps = [load_map("map.yaml")]
    aligned = align(read_manifest(source), target, strip)
    written = {"digests": options.pop("digests", True), "drop_optimizer": True}
    execute(make_plan(aligned.source, aligned.target, maps), out, options=WriteOptions(**written), **options)
    return Path(out)


def results(verification: Verification) -> dict[str, str]:
    return {check.id: check.result for check in verification.checks}


def failed(verification: Verification) -> set[str]:
    return {check.id for check in verification.checks if check.result == "failed"}


def keys(verification: Verification, check: str) -> list[str]:
    return [problem.key for problem in verification[check].problems]


def read_all(path: Path) -> dict[str, bytes]:
    with open_source(path) as source:
        checkpoint, place = source.envelope
        return {key: b"".join(checkpoint.values(each)) for key, each in checkpoint.stored(place).items()}


def flip(path: Path, at: int, bit: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= bit
    path.write_bytes(data)


def place_of(path: Path, key: str) -> int:
    """Where the first byte of a tensor's storage lies in the file."""
    with open_source(path) as source:
        return source.envelope.source.stored(source.envelope.place)[key].start()


def with_honest_crcs(path: Path) -> None:
    """Write every CRC of a zip file anew, as whoever tampers on purpose would."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = info.filename.encode()
            header = info.header_offset
            lengths = struct.unpack_from("<HH", data, header + 26)
            start = header + 30 + sum(lengths)
            crc = struct.pack("<I", zlib.crc32(data[start : start + info.file_size]))
            if info.file_size:
                data[start + info.file_size + 4 : start + info.file_size + 8] = crc
            central = data.rindex(b"PK\x01\x02", 0, data.rindex(name) + 1)
            data[central + 16 : central + 20] = crc
    path.write_bytes(data)


# ---- nothing is wrong -----------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("text", [None, RENAME, COMPUTE])
def test_what_remap_wrote_is_proven(suffix: str, text: str | None) -> None:
    base()
    proof = verify(remap(f"out.{suffix}", text))
    assert list(results(proof)) == list(CHECKS)
    assert results(proof) == dict.fromkeys(CHECKS, "passed") | {"load": "skipped"}
    assert proof.passed
    assert "base.ckpt" in proof["source"].text
    assert ("computed again" in proof["source"].text) == (text == COMPUTE)
    assert proof["ties"].text.startswith("2 tensors share memory as before")


@both
def test_every_sort_of_tensor_is(suffix: str) -> None:
    weights = b.awkward_tensors() | b.awkward_parameters()
    if suffix == "safetensors":
        weights = {
            key: value for key, value in weights.items() if value.dtype not in (torch.complex32, torch.complex128)
        }
    torch.save({"state_dict": weights, "epoch": 1}, "base.ckpt")
    proof = verify(remap(f"out.{suffix}", None, strip=[]))
    assert failed(proof) == set()
    assert proof["digests"].checked == proof["source"].checked == len(weights)


@pytest.mark.parametrize("out", SUFFIXES)
def test_from_safetensors_too(out: str) -> None:
    st.save_file({key: value.clone() for key, value in b.state_dict(width=3).items()}, "base.safetensors")
    proof = verify(remap(f"out.{out}", COMPUTE, source="base.safetensors"))
    assert results(proof) == dict.fromkeys(CHECKS, "passed") | {"load": "skipped"}


def test_the_wrappers_of_the_source_are_no_hindrance() -> None:
    base({f"module.net.{key}": value for key, value in b.state_dict(width=3).items()})
    proof = verify(remap("out.ckpt", COMPUTE, strip=["module", "net"]))
    assert results(proof) == dict.fromkeys(CHECKS, "passed") | {"load": "skipped"}
    assert "module.net.first.weight" in proof.output


def test_two_maps_one_after_the_other() -> None:
    base()
    Path("one.yaml").write_text(RENAME)
    Path("two.yaml").write_text(
        'ckptdoctor: 1\nrules: [{from: "first.weight", to: "w", op: [{transpose: [0, 1]}, {cast: {to: float16}}]}]\n'
    )
    plan = make_plan(read_manifest("base.ckpt"), None, [load_map("one.yaml"), load_map("two.yaml")])
    execute(plan, "out.ckpt", options=WriteOptions(drop_optimizer=True))
    proof = verify("out.ckpt")
    assert failed(proof) == set()
    assert "computed again" in proof["source"].text


def test_what_is_computed_for_a_target_with_fresh_keys_is_computed_again() -> None:
    base()
    specs = [*read_manifest("base.ckpt").values(), TensorSpec("new", (7,), DTYPES["float32"])]
    text = COMPUTE.replace("1.turned", "1.weight") + 'fresh: [{keys: new, why: "new"}]\n'
    text = text.replace('  - {from: "0.{p}", to: "first.{p}"}\n', "")
    proof = verify(remap("out.ckpt", text, target=Manifest(specs)))
    assert failed(proof) == set()
    copies = len(proof.output) - 1
    assert proof["source"].text == f"{copies} tensors with the bytes of base.ckpt, 1 computed again from it"


def test_values_that_filled_a_gap_are_compared_by_digest() -> None:
    base()
    specs = [*read_manifest("base.ckpt").values(), TensorSpec("new", (2,), DTYPES["float32"])]
    out = remap("out.ckpt", None, target=Manifest(specs), fill=Fill({"new": torch.ones(2)}, "init(seed=0)"))
    proof = verify(out)
    assert failed(proof) == set()
    assert "1 filled by init(seed=0) by digest only" in proof["source"].text
    flip(out, place_of(out, "new"))
    with_honest_crcs(out)
    assert keys(verify(out), "digests") == ["new"]


def test_a_plain_checkpoint_is_read_through_though_nothing_else_can_be_said() -> None:
    proof = verify(base())
    assert proof.passed
    assert {name for name, result in results(proof).items() if result == "passed"} == {"container", "finite"}
    assert "there is no base.ckpt.receipt.json" in proof["digests"].text


def test_a_file_from_before_torch_1_6() -> None:
    torch.save(b.state_dict(width=3), "old.pt", _use_new_zipfile_serialization=False)
    proof = verify("old.pt")
    assert proof.passed
    assert "records no checksums" in proof["container"].text
    proof = verify(remap("out.ckpt", COMPUTE, source="old.pt"))
    assert failed(proof) == set()


def test_a_receipt_beside_what_a_link_leads_to_is_found() -> None:
    base()
    Path("runs").mkdir()
    Path("best.ckpt").symlink_to(remap("runs/out.ckpt"))
    assert results(verify("best.ckpt"))["digests"] == "passed"


# ---- damage -----------------------------------------------------------------------------------------------------------


def test_a_byte_of_a_storage_that_torch_would_load_silently() -> None:
    base()
    out = remap()
    flip(out, place_of(out, "1.weight") + 5)
    loaded = torch.load(out, weights_only=True)["state_dict"]
    assert not torch.equal(loaded["1.weight"], torch.load("base.ckpt", weights_only=True)["state_dict"]["1.weight"])
    proof = verify(out)
    assert not proof.passed
    assert failed(proof) == {"container", "digests", "source"}
    assert keys(proof, "digests") == keys(proof, "source") == ["1.weight"]
    ((record, text),) = proof["container"].problems
    assert record.startswith("data/")
    assert text == "does not match its CRC; it holds 1.weight"
    with_honest_crcs(out)
    proof = verify(out)
    assert failed(proof) == {"digests", "source"}, "the digest finds what a new CRC hides"


def test_a_byte_of_a_safetensors_file() -> None:
    base()
    out = remap("out.safetensors")
    flip(out, place_of(out, "first.bias"))
    assert "first.bias" in st.load_file(out), "safetensors sees nothing"
    proof = verify(out)
    assert failed(proof) == {"digests", "source"}
    assert keys(proof, "digests") == keys(proof, "source") == ["first.bias"]


def test_a_byte_of_a_tied_tensor_is_one_of_all_that_share_it() -> None:
    base()
    out = remap()
    flip(out, place_of(out, "head.weight"))
    assert keys(verify(out), "digests") == ["first.weight", "head.weight"]


def test_a_byte_outside_the_weights_is_found_by_its_crc() -> None:
    base()
    plan = make_plan(read_manifest("base.ckpt"))
    execute(plan, "out.ckpt")
    with open_checkpoint("out.ckpt") as checkpoint:
        inner = ("optimizer_states", "0", "state", "0")
        at = checkpoint.stored(inner)["exp_avg"].start()
    flip(Path("out.ckpt"), at)
    proof = verify("out.ckpt")
    assert failed(proof) == {"container"}
    ((_, text),) = proof["container"].problems
    assert text == "does not match its CRC; it holds nothing of the weights"


def test_without_crcs_the_digests_still_tell() -> None:
    torch.utils.serialization.config.save.compute_crc32 = False
    try:
        base()
    finally:
        torch.utils.serialization.config.save.compute_crc32 = True
    out = remap(digests=False)
    proof = verify(out)
    assert proof.passed
    assert "without a recorded CRC" in proof["container"].text
    flip(out, place_of(out, "1.weight"))
    proof = verify(out)
    assert failed(proof) == {"source"}, "neither CRC nor digest is on record, the source is there"
    Path("base.ckpt").unlink()
    proof = verify(out)
    assert proof.passed
    assert "--no-digests" in proof["digests"].text


@both
def test_a_file_that_is_cut_off_is_no_finding_but_an_error(suffix: str) -> None:
    base()
    out = remap(f"out.{suffix}")
    whole = out.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 9, 1):
        out.write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            verify(out)
    out.write_bytes(whole[: len(whole) - 40])
    with pytest.raises(CorruptCheckpoint, match="out") as caught:
        verify(out)
    assert "truncated" in (caught.value.hint or caught.value.message)


@both
def test_no_byte_can_turn_over_without_the_values_being_the_same_or_verify_saying_so(suffix: str) -> None:
    base()
    out = remap(f"out.{suffix}", COMPUTE)
    whole, values = out.read_bytes(), read_all(out)
    places = random.Random(3).sample(range(len(whole)), 150)
    noticed = 0
    for at in places:
        out.write_bytes(whole)
        flip(out, at, 1 << at % 8)
        try:
            proof = verify(out)
        except CheckpointError:
            noticed += 1
            continue
        noticed += not proof.passed
        assert not proof.passed or read_all(out) == values, at
    assert noticed > len(places) // 4


# ---- the receipt ------------------------------------------------------------------------------------------------------


def edited(out: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = receipt_path(out)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[2].update(key="other"), "1.weight is in the file, and not in the receipt"),
        (lambda rows: rows.pop(1), "first.bias is in the file, and not in the receipt"),
        (
            lambda rows: rows.insert(0, rows[0] | {"key": "x", "target": "x"}),
            "x is in the receipt, and not in the file",
        ),
        (lambda rows: rows[2].update(shape=[9]), "1.weight is 9 float32 in the receipt, 3x3 float32 in the file"),
        (lambda rows: rows[1].update(dtype="int32"), "first.bias is 3 int32 in the receipt, 3 float32 in the file"),
    ],
)
def test_a_receipt_of_another_file_names_the_first_difference(change: Callable[[Any], None], said: str) -> None:
    base()
    out = remap()
    edited(out, lambda document: change(document["tensors"]))
    proof = verify(out)
    assert failed(proof) == {"receipt"}
    assert proof["receipt"].text == f"a receipt of another file: {said}"
    assert {results(proof)[name] for name in ("digests", "source", "ties")} == {"skipped"}
    assert "the receipt is not of this file" in proof["digests"].text


def test_one_of_another_format() -> None:
    base()
    out = remap()
    receipt_path(remap("out.safetensors")).replace(receipt_path(out))
    assert "of the format safetensors, this is torch" in verify(out)["receipt"].text


def test_one_of_a_file_with_the_same_tensors_and_other_values() -> None:
    base()
    out = remap()
    other = {key: value + 1 for key, value in b.state_dict(width=3).items()}
    base(other, "other.ckpt")
    receipt_path(remap("of_other.ckpt", source="other.ckpt")).replace(receipt_path(out))
    proof = verify(out)
    assert failed(proof) >= {"digests", "source"}
    assert len(keys(proof, "digests")) == len(other)


@pytest.mark.parametrize("raw", [b"", b"PK\x03\x04", b"{]", b"[]", b'{"schema": "ckptdoctor/manifest/1"}', b"\xff"])
def test_one_that_is_none(raw: bytes) -> None:
    base()
    out = remap()
    receipt_path(out).write_bytes(raw)
    proof = verify(out)
    assert failed(proof) == {"receipt"}
    assert "out.ckpt.receipt.json is no receipt" in proof["receipt"].text


def test_one_that_is_gone() -> None:
    base()
    out = remap()
    receipt_path(out).unlink()
    proof = verify(out)
    assert proof.passed
    assert results(proof)["receipt"] == results(proof)["source"] == "skipped"


def test_a_file_that_was_saved_again_is_told_apart_though_its_tensors_are_the_same() -> None:
    base()
    out = remap()
    torch.save(torch.load(out, weights_only=True) | {"more": list(range(1000))}, out)
    proof = verify(out)
    assert proof.passed
    assert "saved again since" in proof["receipt"].notes[0]


# ---- the source -------------------------------------------------------------------------------------------------------


def test_a_source_that_is_gone() -> None:
    base()
    out = remap("out.ckpt", COMPUTE)
    Path("base.ckpt").rename("moved.ckpt")
    proof = verify(out)
    assert proof.passed
    assert proof["source"].text == "base.ckpt is gone; compared with the receipt alone"
    assert proof["ties"].passed
    assert proof.source is None
    proof = verify(out, against="moved.ckpt")
    assert results(proof) == dict.fromkeys(CHECKS, "passed") | {"load": "skipped"}
    assert proof["source"].text.endswith("with the bytes of moved.ckpt, 1 computed again from it")
    assert not proof["source"].notes


def test_a_source_beside_the_output_is_found_from_everywhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base()
    remap("out.ckpt", COMPUTE)
    (folder / "deep").mkdir()
    monkeypatch.chdir("deep")
    proof = verify("../out.ckpt")
    assert results(proof)["source"] == "passed"
    assert "computed again" in proof["source"].text


def test_a_source_that_is_another_file_now() -> None:
    base()
    out = remap()
    base({"x": torch.ones(3)})
    proof = verify(out)
    assert proof.passed
    assert proof["source"].text == "base.ckpt is another file now; compared with the receipt alone"
    Path("base.ckpt").write_bytes(b"PK\x03\x04 nonsense")
    assert "base.ckpt cannot be used any more" in verify(out)["source"].text
    Path("base.ckpt").unlink()
    Path("base.ckpt").mkdir()
    assert "base.ckpt cannot be used any more" in verify(out)["source"].text


def test_a_source_with_the_same_keys_and_size_and_newer_values() -> None:
    weights = b.state_dict(width=3)
    base(weights)
    out = remap()
    size = Path("base.ckpt").stat().st_size
    base({key: value + 1 for key, value in weights.items()})
    weights["0.bias"] += 1
    base(weights)
    assert Path("base.ckpt").stat().st_size == size
    proof = verify(out)
    assert failed(proof) == {"source"}
    assert keys(proof, "source") == ["first.bias"]
    assert "the digests agree with the receipt, so look at the source first" in proof["source"].text


def test_a_source_of_another_format_will_do() -> None:
    weights = b.state_dict(width=3)
    base(weights)
    out = remap("out.ckpt", COMPUTE)
    st.save_file({key: value.clone() for key, value in weights.items()}, "copy.safetensors")
    proof = verify(out, against="copy.safetensors")
    assert results(proof)["source"] == "passed"
    assert "not the very file of the receipt" in proof["source"].notes[0]


def test_a_source_that_is_damaged_itself() -> None:
    base()
    out = remap()
    flip(Path("base.ckpt"), place_of(Path("base.ckpt"), "1.weight"))
    proof = verify(out)
    assert failed(proof) == {"source"}
    (problem,) = proof["source"].problems
    assert problem.key == "1.weight"
    assert "base.ckpt is damaged" in problem.text


def test_against_something_else() -> None:
    base()
    out = remap("out.ckpt", COMPUTE)
    base({"0.weight": torch.ones(3, 3), "1.weight": torch.ones(2, 3)}, "other.ckpt")
    proof = verify(out, against="other.ckpt")
    assert failed(proof) == {"source"}
    texts = {problem.key: problem.text for problem in proof["source"].problems}
    assert texts["first.weight"] == "has other values than 0.weight has in the source"
    assert texts["1.bias"] == "comes of 1.bias, which the source does not have"


def test_what_against_cannot_be() -> None:
    base()
    out = remap()
    with pytest.raises(CheckpointNotFound, match=r"no file bose\.ckpt"):
        verify(out, against="bose.ckpt")
    with pytest.raises(UsageError, match="is the output itself"):
        verify(out, against=out)
    b.written(Path("m.json"), b'{"schema": "ckptdoctor/manifest/1", "tensors": []}')
    with pytest.raises(CheckpointError, match="is a manifest"):
        verify(out, against="m.json")
    receipt_path(out).write_text("nonsense")
    assert failed(verify(out, against="base.ckpt")) == {"receipt"}
    receipt_path(out).unlink()
    with pytest.raises(UsageError, match=r"there is no out\.ckpt\.receipt\.json"):
        verify(out, against="base.ckpt")


def test_computed_values_that_a_forged_receipt_covers() -> None:
    base()
    out = remap("out.ckpt", COMPUTE)
    flip(out, place_of(out, "1.turned"))
    with_honest_crcs(out)
    assert keys(verify(out), "digests") == ["1.turned"]
    forged = hashlib.sha256(read_all(out)["1.turned"]).hexdigest()

    def forge(document: dict[str, Any]) -> None:
        next(row for row in document["tensors"] if row["key"] == "1.turned")["sha256"] = forged

    edited(out, forge)
    proof = verify(out)
    assert failed(proof) == {"source"}
    assert proof["source"].problems[0] == ("1.turned", "has other values than transpose(0, 1) makes")


def test_computed_values_without_what_they_could_be_computed_with(monkeypatch: pytest.MonkeyPatch) -> None:
    base()
    out = remap("out.ckpt", COMPUTE)
    Path("map.yaml").write_text(COMPUTE + "# another comment\n")
    assert "1 computed ones by digest only: map.yaml is another map now" in verify(out)["source"].text
    Path("map.yaml").unlink()
    assert "1 computed ones by digest only: map.yaml is gone" in verify(out)["source"].text
    Path("map.yaml").write_text(COMPUTE)
    assert "computed again" in verify(out)["source"].text
    monkeypatch.setattr(recomputing, "find_spec", lambda name: None)
    assert "1 computed ones by digest only: torch is not installed" in verify(out)["source"].text
    remap("out.ckpt", COMPUTE, digests=False, overwrite=True)
    assert "1 computed ones not at all: torch is not installed" in verify(out)["source"].text


# ---- ties -------------------------------------------------------------------------------------------------------------


def test_a_tie_that_was_lost() -> None:
    base()
    out = remap()
    checkpoint = torch.load(out, weights_only=True)
    checkpoint["state_dict"] = {key: value.clone() for key, value in checkpoint["state_dict"].items()}
    torch.save(checkpoint, out)
    proof = verify(out)
    assert failed(proof) == {"ties"}
    assert proof["ties"].problems == (("head.weight", "no longer shares memory with first.weight"),)
    Path("base.ckpt").unlink()
    assert failed(verify(out)) == {"ties"}, "the receipt knows of it, too"


def test_a_tie_that_was_lost_in_safetensors() -> None:
    base()
    out = remap("out.safetensors")
    st.save_file(
        {key: value.clone() for key, value in st.load_file(out).items()} | {"head.weight": torch.ones(3, 3)}, out
    )
    values = st.load_file(out)
    values["head.weight"] = values["first.weight"].clone()
    st.save_file(values, out)
    proof = verify(out)
    assert failed(proof) == {"ties"}


def test_a_tie_that_was_made() -> None:
    weights = {"a": torch.ones(3), "b": torch.ones(3), "c": torch.zeros(3)}
    base(weights)
    out = remap("out.ckpt", None)
    checkpoint = torch.load(out, weights_only=True)
    checkpoint["state_dict"]["b"] = checkpoint["state_dict"]["a"]
    torch.save(checkpoint, out)
    proof = verify(out)
    assert failed(proof) == {"ties"}
    assert proof["ties"].problems == (("b", "shares memory with a, and did not before"),)


def test_parts_of_one_storage_belong_together_in_torch_files() -> None:
    whole = torch.arange(6.0)
    base({"a": whole[:3], "b": whole[3:], "c": torch.ones(2)})
    out = remap("out.ckpt", None)
    assert "2 tensors share memory" in verify(out)["ties"].text
    checkpoint = torch.load(out, weights_only=True)
    checkpoint["state_dict"] = {key: value.clone() for key, value in checkpoint["state_dict"].items()}
    torch.save(checkpoint, out)
    assert keys(verify(out), "ties") == ["b"]
    assert verify(remap("out.safetensors", None))["ties"].passed, "safetensors has no parts of storages"


# ---- numbers that are none --------------------------------------------------------------------------------------------


def test_what_the_source_has_may_stay() -> None:
    weights = b.state_dict(width=3) | {
        "mask": torch.full((4,), float("-inf")),
        "odd": torch.tensor([1.0, float("nan")]),
    }
    base(weights)
    out = remap()
    for _ in range(2):
        proof = verify(out)
        assert failed(proof) == set()
        assert proof["finite"].notes == (
            "mask holds 4 infinite, as in the source",
            "odd holds 1 NaN, as in the source",
        )
        Path("base.ckpt").unlink(missing_ok=True)  # then the digest, taken when it was copied, is the proof
    receipt_path(out).unlink()
    proof = verify(out)
    assert failed(proof) == {"finite"}
    assert keys(proof, "finite") == ["mask", "odd"]
    assert "whether the source has these too is not known" in proof["finite"].text


def test_what_was_computed_may_not_have_any() -> None:
    base({"1.weight": torch.tensor([[1.0, float("inf")], [float("nan"), 2.0]])})
    proof = verify(remap("out.ckpt", COMPUTE.replace('  - {from: "0.{p}", to: "first.{p}"}\n', "")))
    assert failed(proof) == {"finite"}
    assert proof["finite"].problems == (("1.turned", "holds 1 NaN, 1 infinite"),)


def test_nor_what_was_tampered_with() -> None:
    base({"a": torch.ones(4), "b": torch.full((2,), float("nan"))})
    out = remap("out.ckpt", None)
    at = place_of(out, "a")
    data = bytearray(out.read_bytes())
    data[at : at + 4] = struct.pack("<f", float("nan"))
    out.write_bytes(data)
    proof = verify(out)
    assert failed(proof) == {"container", "digests", "source", "finite"}
    assert keys(proof, "finite") == ["a"]


# ---- a target ---------------------------------------------------------------------------------------------------------

MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=3, tie=True, extra=False):
        super().__init__()
        self.first = nn.Linear(width, width)
        self.add_module("1", nn.Linear(width, width))
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, width, bias=False)
        if tie:
            self.head.weight = self.first.weight
        if extra:
            self.alpha = nn.Parameter(torch.ones(()))

class Loud(Net):
    def load_state_dict(self, *args, **kwargs):
        print("on stdout")
        return super().load_state_dict(*args, **kwargs)

class Picky(Net):
    def load_state_dict(self, state_dict, strict=True, assign=False):
        raise RuntimeError("Error(s) in loading: I do not like it")

class Curious(Net):
    def load_state_dict(self, *args, **kwargs):
        print(self.first.weight.sum().item())
        return super().load_state_dict(*args, **kwargs)

class Plain(Net):
    def load_state_dict(self, state_dict, strict=True):
        return super().load_state_dict(state_dict, strict)

class Stateful(Net):
    class Part(nn.Module):
        def get_extra_state(self):
            return 1
        def set_extra_state(self, state):
            pass

    def get_extra_state(self):
        return {"version": 3}
    def set_extra_state(self, state):
        assert state == {"version": 3}, state

class Meta(Net):
    def __init__(self):
        super().__init__()
        self.meta = Stateful.Part()

instance = Net()
a_dict = Net().state_dict()
not_a_module = type("Holder", (), {"state_dict": lambda self: Net().state_dict()})()
"""


@pytest.fixture
def model(folder: Path) -> str:
    (folder / "model.py").write_text(MODEL)
    return "model.py"


@both
@pytest.mark.parametrize("name", ["Net", "Loud", "instance"])
def test_a_model_takes_what_was_written_for_it(
    suffix: str, name: str, model: str, capfd: pytest.CaptureFixture[str]
) -> None:
    base()
    proof = verify(remap(f"out.{suffix}"), f"{model}:{name}")
    assert results(proof) == dict.fromkeys(CHECKS, "passed")
    assert "load_state_dict(strict=True) took them" in proof["load"].text
    assert proof.target is not None
    assert proof.target.origin.reference == f"{model}:{name}"
    assert "on stdout" not in capfd.readouterr().out


def test_an_instance_that_somebody_uses_keeps_its_own_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    base()
    out = remap()
    (folder / "used_model.py").write_text(MODEL)
    monkeypatch.syspath_prepend(folder)
    import used_model

    before = {key: (value.data_ptr(), value.clone()) for key, value in used_model.instance.state_dict().items()}
    assert "took them" in verify(out, "used_model:instance")["load"].text
    after = used_model.instance.state_dict()
    assert all(after[key].data_ptr() == at and torch.equal(after[key], value) for key, (at, value) in before.items())
    assert used_model.instance.head.weight is used_model.instance.first.weight


@pytest.mark.parametrize("kind", ["manifest", "checkpoint", "resolved", "a_dict", "not_a_module"])
def test_targets_that_are_no_modules_are_compared_by_their_lists(kind: str, model: str) -> None:
    base()
    out = remap()
    target: Any = f"{model}:{kind}"
    if kind == "resolved":
        target = resolve_target(f"{model}:Net")
    elif kind == "checkpoint":
        target = remap("same.ckpt")
    elif kind == "manifest":
        from ckptdoctor.formats.manifest import manifest_json

        Path("same.json").write_text(manifest_json(resolve_target(f"{model}:Net")))
        target = "same.json"
    proof = verify(out, target)
    assert results(proof)["load"] == "passed"
    assert "took them" not in proof["load"].text
    assert "fit" in proof["load"].text


def test_keys_and_shapes_that_do_not_fit(model: str) -> None:
    weights = b.state_dict(width=3)
    weights["norm.weight"] = torch.ones(5)
    weights["old.bias"] = weights.pop("1.bias")
    base(weights)
    proof = verify(remap(), f"{model}:Net")
    assert failed(proof) == {"load"}
    assert dict(proof["load"].problems) == {
        "1.bias": "missing key: the target wants 3",
        "norm.weight": "size mismatch: 5 in the checkpoint, 3 in the target",
        "old.bias": "unexpected key",
    }
    assert proof["load"].text == "model.py:Net would refuse it: 1 missing key, 1 unexpected key, 1 size mismatch"


def test_what_the_receipt_calls_random_is_not_missing(model: str) -> None:
    base()
    target = resolve_target(f"{model}:Net", arguments={"extra": True})
    out = remap("out.ckpt", RENAME + 'fresh: [{keys: alpha, why: "new"}]\n', target=target)
    proof = verify(out, f"{model}:Net", target_arguments={"extra": True})
    assert results(proof) == dict.fromkeys(CHECKS, "passed")
    assert "load_state_dict(strict=False) took them" in proof["load"].text
    assert proof["load"].notes == ("left random, as the receipt says: alpha",)
    receipt_path(out).unlink()
    proof = verify(out, f"{model}:Net", target_arguments={"extra": True})
    assert keys(proof, "load") == ["alpha"], "without the receipt nothing says so"


def test_wrapper_segments_on_either_side_are_taken_out(model: str) -> None:
    base({f"module._orig_mod.{key}": value for key, value in b.state_dict(width=3).items()})
    proof = verify(remap(strip=["module", "_orig_mod"]), f"{model}:Net")
    assert results(proof) == dict.fromkeys(CHECKS, "passed")
    assert "took them" in proof["load"].text
    proof = verify("out.ckpt", f"{model}:Net", strip=[])
    assert failed(proof) == {"load"}, "with --strip '' they are part of the names"


def test_what_the_target_ties_and_the_file_leaves_out(model: str) -> None:
    weights = b.state_dict(width=3)
    del weights["head.weight"]
    base(weights)
    proof = verify(remap(), f"{model}:Net")
    assert results(proof)["load"] == "passed"
    assert "filled through the memory they share" in proof["load"].notes[0]
    assert "strict=False" in proof["load"].text


def test_another_dtype_is_a_note(model: str) -> None:
    base({key: value.half() if value.is_floating_point() else value for key, value in b.state_dict(width=3).items()})
    proof = verify(remap(), f"{model}:Net")
    assert results(proof)["load"] == "passed"
    assert "of another dtype than the target's" in proof["load"].notes[0]


def test_a_model_that_refuses(model: str) -> None:
    base()
    proof = verify(remap(), f"{model}:Picky")
    assert failed(proof) == {"load"}
    assert "I do not like it" in proof["load"].problems[0].text
    proof = verify("out.ckpt", f"{model}:Plain")
    assert results(proof)["load"] == "passed"
    assert "not loaded for real: TypeError" in proof["load"].notes[0]
    proof = verify("out.ckpt", f"{model}:Curious")
    assert results(proof)["load"] == "passed"
    assert "not loaded for real: " in proof["load"].notes[0]


def test_entries_that_are_no_tensors_are_handed_on(model: str) -> None:
    weights: Any = b.state_dict(width=3)
    base(weights)
    assert failed(verify(remap(), f"{model}:Stateful")) == {"load"}
    proof = verify("out.ckpt", f"{model}:Meta")
    assert "meta._extra_state" in proof["load"].problems[0].text, "a name is no excuse"
    weights["_extra_state"] = {"version": 2}
    torch.save({"state_dict": weights}, "base.ckpt")
    proof = verify(remap("out.ckpt", overwrite=True), f"{model}:Stateful")
    assert failed(proof) == {"load"}, "the model says so itself"
    assert "AssertionError" in proof["load"].problems[0].text
    weights["_extra_state"] = {"version": 3}
    torch.save({"state_dict": weights}, "base.ckpt")
    proof = verify(remap("out.ckpt", overwrite=True), f"{model}:Stateful")
    assert "load_state_dict(strict=True) took them" in proof["load"].text


def test_a_file_that_torch_would_not_load_without_running_code(model: str) -> None:
    base(hyper_parameters=Namespace(lr=1))
    proof = verify(remap(), f"{model}:Net")
    assert results(proof)["load"] == "passed"
    assert proof["load"].notes == ("not loaded for real: torch.load(weights_only=True) refuses argparse.Namespace",)


def test_a_model_that_is_too_large_to_try(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base()
    monkeypatch.setattr(fitting, "LARGEST", 10)
    proof = verify(remap(), f"{model}:Net")
    assert results(proof)["load"] == "passed"
    assert "too large" in proof["load"].notes[0]
    assert "took them" not in proof["load"].text


def test_a_target_that_is_not_there_is_told_before_anything_is_read(model: str) -> None:
    base()
    out = remap()
    seen: list[int] = []
    with pytest.raises(TargetNotFound) as caught:
        verify(out, f"{model}:Nett", progress=seen.append)
    assert "Net" in (caught.value.hint or "")
    assert not seen
    with pytest.raises(CheckpointNotFound, match=r"no file ouy\.ckpt"):
        verify("ouy.ckpt", f"{model}:Nett")


def test_an_output_that_is_a_manifest_holds_nothing_to_prove() -> None:
    b.written(Path("m.json"), b'{"schema": "ckptdoctor/manifest/1", "tensors": []}')
    with pytest.raises(CheckpointError, match="is a manifest"):
        verify("m.json")


def test_every_byte_that_is_read_can_be_watched() -> None:
    base()
    out = remap()
    seen: list[int] = []
    verify(out, progress=seen.append)
    assert sum(seen) > 3 * sum(map(len, read_all(out).values())) - 100, (
        "for the CRCs, for the values, and in the source"
    )


# ---- what it costs ----------------------------------------------------------------------------------------------------

MEASURE = """
import re, sys
from ckptdoctor.cli import main
sys.argv = ["ckptdoctor", *sys.argv[1:]]
try:
    main()
finally:
    peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) // 1024
    print(peak, "torch" in sys.modules, "numpy" in sys.modules, "safetensors" in sys.modules, file=sys.stderr)
"""


@both
def test_a_300_mb_file_is_verified_in_little_memory_and_without_torch(suffix: str, folder: Path) -> None:
    weights = {f"0.{i}.weight": torch.full((2048, 2048), float(i)) for i in range(18)}
    torch.save({"state_dict": weights}, "base.ckpt")
    assert Path("base.ckpt").stat().st_size > 300_000_000
    out = remap(f"out.{suffix}", RENAME.replace("{p}", "{*p}"))
    result = subprocess.run([sys.executable, "-c", MEASURE, "verify", out], cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "18 tensors agree with the receipt and with base.ckpt" in result.stdout
    peak, *imported = result.stderr.splitlines()[-1].split()
    assert int(peak) < 150
    assert imported == ["False"] * 3


DEEP = b")" + b"\x85" * 300_000
DOUBLED = b"K\1\x85" + b"".join(b"q%c0h%ch%c\x86" % (number, number, number) for number in range(60))


@pytest.mark.parametrize("key", [DEEP, DOUBLED], ids=["deep", "doubled"])
@pytest.mark.parametrize("holder", [b"}(%bNu", b"\x8f(%b\x90", b"(%b\x91"], ids=["dict", "set", "frozenset"])
def test_keys_on_which_torch_dies_or_hangs_are_not_given_to_it(tmp_path: Path, key: bytes, holder: bytes) -> None:
    stream = b.pickled(b.dict_({"state_dict": b.dict_({"w": b.tensor()}), "x": holder % key}), protocol=4)
    path = b.written(tmp_path / "f.pt", b.torch_file(stream))
    (tmp_path / "net.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.w = torch.nn.Parameter(torch.zeros(4))\n"
    )
    done = run("verify", path, "net.py:Net", cwd=tmp_path)
    assert done.status == 0, done.stderr
    assert "on which torch.load dies or hangs" in done.stdout + done.stderr
