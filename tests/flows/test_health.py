"""The health of whole checkpoints: what `survey` finds in files of all sorts, what `verify` says ops have made of the numbers,
and that neither takes memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ckptdoctor import align, execute, load_map, make_plan, read_manifest, verify
from ckptdoctor.formats.base import WriteOptions
from ckptdoctor.health import Health, Loss, health_of, narrower, survey
from ckptdoctor.model import DTYPES
from ckptdoctor.source import open_source
from ckptdoctor.verification import Verification
from tests import builders as b

torch = pytest.importorskip("torch")
st = pytest.importorskip("safetensors.torch")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def surveyed(path: str | Path) -> Health:
    with open_source(path) as source:
        return survey(source, source.manifest)


def remapped(rules: str, weights: dict[str, Any], **options: Any) -> Verification:
    """What is said of the output of a map."""
    torch.save(weights, "base.ckpt")
    Path("map.yaml").write_text(f"ckptdoctor: 1\nrules:\n{rules}")
    aligned = align(read_manifest("base.ckpt"), None, None)
    plan = make_plan(aligned.source, None, [load_map("map.yaml")])
    execute(plan, "out.ckpt", options=WriteOptions(), overwrite=True, **options)
    return verify("out.ckpt")


# ---- whole files ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["a.pt", "legacy.pt", "a.safetensors"])
def test_a_tensor_is_judged_by_its_values_however_it_lies(name: str) -> None:
    torch.manual_seed(0)
    weights = {key: value for key, value in b.awkward_tensors().items() if value.layout is torch.strided}
    plain = {key: value.detach().resolve_conj().resolve_neg().contiguous() for key, value in weights.items()}
    if name.endswith("safetensors"):
        weights = {
            key: value.clone() for key, value in plain.items() if value.dtype not in (torch.complex128, torch.complex32)
        }
        st.save_file(weights, name)
    else:
        torch.save(weights, name, _use_new_zipfile_serialization=not name.startswith("legacy"))
    found = surveyed(name).tensors
    assert found.keys() == weights.keys()
    assert len(found) > 20
    for key, health in found.items():
        dtype = DTYPES[str(plain[key].dtype).removeprefix("torch.")]
        raw = bytes(plain[key].reshape(-1).view(torch.uint8).tolist()) if plain[key].numel() else b""
        assert health == health_of(dtype, [raw], narrower(dtype)), key


def test_a_folder_of_shards_is_one_checkpoint() -> None:
    Path("shards").mkdir()
    st.save_file({"a": torch.arange(8.0), "z": torch.zeros(4)}, "shards/model-00001-of-00002.safetensors")
    st.save_file(
        {"b": torch.arange(8.0), "nan": torch.full((2,), float("nan"))}, "shards/model-00002-of-00002.safetensors"
    )
    names = {
        key: f"model-0000{n}-of-00002.safetensors" for n, keys in ((1, "a z"), (2, "b nan")) for key in keys.split()
    }
    Path("shards/model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    found = surveyed("shards")
    assert found.identical == (("a", "b"),)
    assert {key: (each.constant, each.specials.nan) for key, each in found.tensors.items()} == {
        **{"a": (None, 0), "b": (None, 0), "z": ("0", 0), "nan": ("nan", 2)},
    }


def test_the_same_bytes_in_several_places() -> None:
    values = torch.rand(3, 4)
    both = torch.rand(2, 12)
    weights = {
        "first": values,
        "tied": values,
        "a copy": values.clone(),
        "of another shape": values.reshape(-1).clone(),
        "of another dtype": values.clone().view(torch.int32),
        "another view of the first": values.view(12),
        "ones": torch.ones(12),
        "ones again": torch.ones(12),
        "a number": torch.tensor(3.5),
        "a number again": torch.tensor(3.5),
        "nothing": torch.empty(0),
        "nothing again": torch.empty(0),
        "one half": both[0],
        "a copy of one half": both[0].clone(),
        "the other half": both[1],
    }
    torch.save(weights, "a.pt")
    assert surveyed("a.pt").identical == (
        ("first", "a copy", "of another shape", "of another dtype"),
        ("one half", "a copy of one half"),
    )


# ---- what ops have made of the numbers ----------------------------------------------------------------------------------


def test_what_a_cast_lost_is_counted_against_the_source() -> None:
    torch.manual_seed(0)
    weights = {f"{name}.w": torch.randn(50, 40) * 10.0 ** -(4 + number) for number, name in enumerate("qkv")}
    weights |= {"zero": torch.zeros(7), "kept": torch.rand(9) + 1e-3}
    rules = (
        '  - {from: "{q,k,v}.w", to: "qkv.w", op: [{concat: 0}, {transpose: [0, 1]}, {cast: float16}]}\n'
        '  - {from: "zero", to: "zero", op: {cast: float16}}\n'
        '  - {from: "kept", to: "kept", op: {cast: bfloat16}}\n'
    )
    proof = remapped(rules, weights)
    before = torch.cat([weights[f"{name}.w"] for name in "qkv"])
    gone = int(((before != 0) & (before.half() == 0)).sum())
    assert 0 < gone < before.numel()
    assert proof.passed
    assert proof.health.remarks == (f"{gone} numbers became 0 in the cast to float16, in 1 tensor: qkv.w",)
    assert {key: each.losses for key, each in proof.health.tensors.items()} == {
        "qkv.w": {DTYPES["float16"]: Loss(0, gone)},
        "zero": {DTYPES["float16"]: Loss(0, 0)},
        "kept": {DTYPES["bfloat16"]: Loss(0, 0)},
    }
    Path("base.ckpt").unlink()
    assert verify("out.ckpt").health.remarks == (), "without the source nobody knows"


def test_a_cast_to_eight_bits_is_counted_too() -> None:
    values = torch.tensor([1.0, 2.0**-10, 2.0**-9, -1e-7, 0.0, 448.0])
    proof = remapped('  - {from: "a", to: "a", op: {cast: float8_e4m3fn}}\n', {"a": values})
    assert proof.health.remarks == ("2 numbers became 0 in the cast to float8_e4m3fn, in 1 tensor: a",)


def test_where_a_part_is_taken_or_numbers_change_nothing_is_said_of_the_cast() -> None:
    weights = {"a": torch.full((4,), 1e-9), "b": torch.tensor([1e-9, 2e-9, 3e-9])}
    rules = '  - {from: "a", to: "a", op: [{slice: {dim: 0, start: 0, stop: 2}}, {cast: float16}]}\n'
    rules += '  - {from: "b", to: "b", op: [{scale: 2.0}, {cast: float16}]}\n'
    proof = remapped(rules, weights)
    assert not any(each.losses for each in proof.health.tensors.values())
    assert proof.health.remarks == ("b: all 0 after scale(2.0), cast(float16), and not so in the source",)


def test_one_value_is_worth_a_word_where_an_op_has_made_it() -> None:
    padded = torch.cat([torch.rand(2, 3), torch.zeros(2, 3)])
    weights = {"padded": padded, "other": padded.clone(), "ones": torch.ones(2, 3), "zeros": torch.zeros(5)}
    rules = (
        '  - {from: "{padded,other}", to: "{padded,other}", op: {slice: {dim: 0, start: 2, stop: 4}}}\n'
        '  - {from: "ones", to: "turned", op: {transpose: [0, 1]}}\n'
    )
    proof = remapped(rules, weights)
    (remark,) = proof.health.remarks
    assert remark.startswith("padded, other: all 0 after slice(")
    assert remark.endswith(", and not so in the source")
    assert {key: each.constant for key, each in proof.health.tensors.items()} == {
        **{"padded": "0", "other": "0", "turned": "1", "zeros": "0"},
    }
    assert proof.passed


def test_a_source_that_is_damaged_is_no_reason_to_stop() -> None:
    weights = {"a": torch.tensor([1.0, 1e-9, 3.0]), "b": torch.tensor([1.0, 2.0])}
    remapped('  - {from: "{a,b}", to: "{a,b}", op: {cast: float16}}\n', weights)
    data = bytearray(Path("base.ckpt").read_bytes())
    raw = weights["a"].numpy().tobytes()
    data[data.index(raw)] ^= 1
    Path("base.ckpt").write_bytes(data)
    proof = verify("out.ckpt")
    assert not proof.passed
    assert not proof.health.tensors["a"].losses
    assert proof.health.tensors["b"].losses == {DTYPES["float16"]: Loss(0, 0)}


# ---- what it costs ----------------------------------------------------------------------------------------------------

INSPECT = """
import resource
from ckptdoctor.cli import main
try:
    main()
finally:
    import sys
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, file=sys.stderr)
"""


def peak_of_stats(path: Path, tensors: int, size: int) -> int:
    """The peak of memory of `inspect --stats` on a sparse file of tensors of so many bytes, each with one number and zeros."""
    spans = [(n * size, (n + 1) * size) for n in range(tensors)]
    header = {f"w.{n}": {"dtype": "F32", "shape": [size // 4], "data_offsets": span} for n, span in enumerate(spans)}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + tensors * size)
        for number, (begin, _) in enumerate(spans):
            file.seek(8 + len(text) + begin)
            file.write(torch.tensor([float(number + 1)]).numpy().tobytes())
    command = [sys.executable, "-c", INSPECT, "inspect", str(path), "--stats", "-q"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("no NaN and no infinity")
    return int(done.stderr.split()[-1])


def test_half_a_gigabyte_takes_no_more_memory_than_a_megabyte(folder: Path) -> None:
    small = peak_of_stats(folder / "small.safetensors", 2, 1 << 19)
    large = peak_of_stats(folder / "large.safetensors", 2, 1 << 28)
    assert large - small < 16 << 20
