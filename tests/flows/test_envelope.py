"""Everything in a torch file that is not the weights: it survives a remap, byte for byte or as an equal graph."""

from __future__ import annotations

import copy
import io
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ckptdoctor
from ckptdoctor.errors import CheckpointError, PlanError
from ckptdoctor.formats.base import WriteOptions
from ckptdoctor.keymap import parse_map
from tests import builders as b


def save(path: Path, value: Any, protocol: int = 2) -> Path:
    torch.save(value, path, pickle_protocol=protocol)
    return path


def remap(path: Path, rules: str = "", *, select: str | None = None, drop_optimizer: bool = False) -> Path:
    """The file as a map without a target makes it, beside the source."""
    maps = [parse_map(f"ckptdoctor: 1\n{rules}\n")] if rules else []
    plan = ckptdoctor.make_plan(ckptdoctor.read_manifest(path, selected=select), None, maps)
    out = path.with_name(f"new{path.suffix}")
    ckptdoctor.execute(plan, out, overwrite=True, options=WriteOptions(drop_optimizer=drop_optimizer))
    return out


def accepted(path: Path) -> bool:
    """Whether torch reads it without running code."""
    try:
        torch.load(path, weights_only=True)
    except Exception:
        return False
    return True


class Equality:
    """Whether two loaded checkpoints are equal: values, types, order, tensors with their layout, and what shares memory."""

    def __init__(self) -> None:
        self.seen: set[tuple[int, int]] = set()
        self.storages: dict[int, int] = {}

    def check(self, old: Any, new: Any, at: str = "") -> None:
        assert type(old) is type(new), at
        if (id(old), id(new)) in self.seen:
            return
        self.seen.add((id(old), id(new)))
        if isinstance(old, torch.Tensor):
            self._tensor(old, new, at)
        elif isinstance(old, Mapping):
            assert list(old) == list(new), at
            for key in old:
                self.check(old[key], new[key], f"{at}/{key}")
        elif isinstance(old, list | tuple):
            assert len(old) == len(new), at
            for number, (left, right) in enumerate(zip(old, new, strict=True)):
                self.check(left, right, f"{at}/{number}")
        elif not hasattr(old, "__dict__"):
            assert old == new, at
        if hasattr(old, "__dict__"):
            self.check(vars(old), vars(new), f"{at}.__dict__")

    def _tensor(self, old: torch.Tensor, new: torch.Tensor, at: str) -> None:
        for left, right in zip(*(self._look(tensor) for tensor in (old, new)), strict=True):
            assert left == right, at
        assert b.values_of(old) == b.values_of(new), at
        stored = self.storages.setdefault(old.untyped_storage()._cdata, new.untyped_storage()._cdata)
        assert stored == new.untyped_storage()._cdata, f"{at}: shares memory with something else than before"

    def _look(self, tensor: torch.Tensor) -> tuple[Any, ...]:
        layout = (tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.storage_offset())
        return (*layout, tensor.is_conj(), tensor.is_neg(), tensor.requires_grad)


def check_equal(old: Any, new: Any) -> None:
    Equality().check(old, new)


def many(count: int) -> dict[str, Any]:
    """A state dict with so many weights and an optimizer that has two tensors for each."""
    weights = OrderedDict((f"layers.{i}.weight", torch.full((2,), float(i))) for i in range(count))
    states = {i: {"exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2)} for i in range(count)}
    return {"state_dict": weights, "optimizer_states": [{"state": states, "param_groups": [{"params": list(states)}]}]}


def with_names(first: bool) -> dict[str, Any]:
    """The state dict's own texts elsewhere: as values, as keys, in tuples and sets, before and after the weights."""
    weights = b.state_dict()
    keys = list(weights)
    elsewhere = {
        "names": keys,
        "by_name": dict.fromkeys(keys, 1e-3),
        "pair": (keys[0], [keys[0]]),
        "chosen": {keys[1]},
        "modules": list(weights._metadata),  # type: ignore[attr-defined]
    }
    return elsewhere | {"state_dict": weights} if first else {"state_dict": weights} | elsewhere


def nested() -> dict[str, Any]:
    inner = {"student": {"net": b.state_dict()}, "notes": [{"deep": [1, (2, {"x": torch.ones(2)})]}]}
    return {"run": inner, "step": 3}


def endless() -> dict[str, Any]:
    """Values that contain themselves."""
    loop: list[Any] = [1]
    loop.append(loop)
    mapping: dict[str, Any] = {"loop": loop}
    mapping["itself"] = mapping
    return {"state_dict": b.state_dict(), "loop": loop, "mapping": mapping}


FILES: dict[str, Callable[[], Any]] = {
    "plain dict": lambda: dict(b.state_dict()),
    "state dict": b.state_dict,
    "lightning": lambda: b.lightning_like(b.state_dict()),
    "lightning without _metadata": lambda: b.lightning_like(dict(b.state_dict())),
    "nested": nested,
    "names after": lambda: with_names(first=False),
    "names before": lambda: with_names(first=True),
    "parameters": lambda: {"state_dict": b.awkward_parameters()},
    "views": lambda: {"state_dict": b.awkward_tensors(), "again": list(b.awkward_views().values())},
    "endless": endless,
}
RENAMES = {
    "parameters": {"weight": "body.weight", "alias": "weight"},
    "views": {"base": "body.base", "tied": "a.b.c", "conj_turned": "conj", "conj": "conj_turned", "empty": "e"},
}
USUAL = {
    **{"0.weight": "encoder.first.weight", "0.bias": "encoder.first.bias"},
    **{"1.weight": "0.weight", "1.bias": "0.bias", "head.weight": "1.weight"},
}
pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf", "ignore:Detected pickle protocol")
SELECT = {"nested": "run/student/net"}
ONE_OBJECT_TWICE = ("parameters", "views")  # these are written anew, with the frames of protocol 4 left out
protocols = pytest.mark.parametrize("protocol", [2, 4])
files = pytest.mark.parametrize("name", FILES)


def renames(name: str) -> dict[str, str]:
    return RENAMES.get(name, USUAL)


def rules_for(mapping: Mapping[str, str]) -> str:
    return "rules: [" + ", ".join(f'{{from: "{old}", to: "{new}"}}' for old, new in mapping.items()) + "]"


def weights_of(name: str, loaded: Any) -> tuple[Any, Any]:
    """The mapping that holds the state dict, and its key; (None, None) where it is the whole file."""
    if name == "nested":
        return loaded["run"]["student"], "net"
    return (loaded, "state_dict") if "state_dict" in loaded else (None, None)


@protocols
@files
def test_without_a_change_the_file_is_the_same_byte_for_byte(name: str, protocol: int, tmp_path: Path) -> None:
    path = save(tmp_path / "old.ckpt", FILES[name](), protocol)
    out = remap(path, select=SELECT.get(name))
    if protocol > 2 and name in ONE_OBJECT_TWICE:
        check_equal(*(torch.load(file, weights_only=False) for file in (path, out)))
    else:
        assert out.read_bytes() == path.read_bytes()


@protocols
@files
def test_a_rename_changes_the_keys_and_nothing_else(name: str, protocol: int, tmp_path: Path) -> None:
    path = save(tmp_path / "old.ckpt", FILES[name](), protocol)
    out = remap(path, rules_for(renames(name)), select=SELECT.get(name))
    old, new = (torch.load(file, weights_only=False) for file in (path, out))
    holder, key = weights_of(name, old)
    before = old if holder is None else holder[key]
    renamed = type(before)((renames(name).get(each, each), value) for each, value in before.items())
    if hasattr(before, "_metadata"):
        renamed._metadata = OrderedDict((MODULES.get(each, each), of) for each, of in before._metadata.items())
    if holder is None:
        old = renamed
    else:
        holder[key] = renamed
    check_equal(old, new)
    assert accepted(out) or not accepted(path)


MODULES = {"0": "encoder.first", "1": "0", "head": "1"}


@files
def test_a_drop_leaves_the_rest_as_it_was(name: str, tmp_path: Path) -> None:
    path = save(tmp_path / "old.ckpt", FILES[name]())
    gone = next(iter(renames(name)))
    out = remap(path, f'drop: [{{keys: "{gone}", why: "test"}}]', select=SELECT.get(name), drop_optimizer=True)
    old, new = (torch.load(file, weights_only=False) for file in (path, out))
    if "optimizer_states" in old:
        old |= {"optimizer_states": [], "lr_schedulers": []}
    holder, key = weights_of(name, old)
    del (old if holder is None else holder[key])[gone]
    check_equal(old, new)
    assert accepted(out) or not accepted(path)


def test_a_protocol_2_file_is_accepted_without_running_code(tmp_path: Path) -> None:
    for name in ("state dict", "lightning", "nested", "names before"):
        assert accepted(save(tmp_path / "old.ckpt", FILES[name]())), name


def test_14_000_tensors_of_weights_and_optimizer(tmp_path: Path) -> None:
    count = 4_700
    path = save(tmp_path / "old.ckpt", many(count))
    out = remap(path, f'rules: [{{from: "layers.{{i}}.{{p}}", to: "blocks.{{i}}.mlp.{{p}}", expect: {count}}}]')
    old, new = (torch.load(file, weights_only=True) for file in (path, out))
    assert list(new["state_dict"]) == [f"blocks.{i}.mlp.weight" for i in range(count)]
    assert all(map(torch.equal, new["state_dict"].values(), old["state_dict"].values()))
    check_equal(old["optimizer_states"], new["optimizer_states"])


def test_dropped_optimizer_states_leave_empty_lists(tmp_path: Path) -> None:
    path = save(tmp_path / "old.ckpt", b.lightning_like(b.state_dict()))
    old = torch.load(path, weights_only=True)
    new = torch.load(remap(path, drop_optimizer=True), weights_only=True)
    check_equal(old | {"optimizer_states": [], "lr_schedulers": []}, new)


def test_the_pickle_of_a_rename_differs_in_the_keys_alone(tmp_path: Path) -> None:
    """Where nothing else reads a key's text, the bytes around it are the source's own."""
    path = save(tmp_path / "old.ckpt", b.lightning_like(OrderedDict(a=torch.ones(2), b=torch.ones(3))))
    out = remap(path, rules_for({"a": "encoder.a"}))
    old, new = (zipfile.ZipFile(file).read("old/data.pkl") for file in (path, out))
    assert new == old.replace(b"X\x01\0\0\0a", b"X\x09\0\0\0encoder.a")


class TestMetadata:
    def metadata(self, path: Path, rules: str) -> list[str]:
        return list(torch.load(remap(path, rules), weights_only=True)._metadata)

    def test_module_paths_follow_the_keys_below_them(self, tmp_path: Path) -> None:
        path = save(tmp_path / "old.pt", b.state_dict())
        assert list(torch.load(path)._metadata) == ["", "0", "1", "norm", "head"]
        rules = 'rules: [{from: "{i:int}.{p}", to: "stem.{i}.{p}"}, {from: "norm.{p}", to: "n.o.{p}"}]'
        assert self.metadata(path, rules) == ["", "stem.0", "stem.1", "n.o", "head"]

    def test_a_swap_swaps(self, tmp_path: Path) -> None:
        path = save(tmp_path / "old.pt", b.state_dict())
        assert self.metadata(path, 'rules: [{from: "{0,1}.{p}", to: "{1,0}.{p}"}]') == ["", "1", "0", "norm", "head"]

    def test_a_strict_load_finds_the_version_of_the_renamed_module(self, tmp_path: Path) -> None:
        """Batch norm adds its counter to a state dict of version 1 and complains of its absence in one of version 2."""
        weights = b.state_dict()
        del weights["norm.num_batches_tracked"]
        target = torch.nn.Module()
        target.n = torch.nn.BatchNorm1d(3)
        rules = 'rules: [{from: "norm.{p}", to: "n.{p}"}]\ndrop: [{keys: ["{i:int}.{p}", "head.{p}"], why: "test"}]'
        loaded = torch.load(remap(save(tmp_path / "old.pt", weights), rules), weights_only=True)
        with pytest.raises(RuntimeError, match=r"Missing key\(s\).*num_batches_tracked"):
            target.load_state_dict(loaded)
        del loaded._metadata
        target.load_state_dict(loaded)


def test_extra_states_follow_their_modules(tmp_path: Path) -> None:
    state = OrderedDict([("fc.weight", torch.ones(2)), ("fc._extra_state", {"scale": 3})])
    new = torch.load(remap(save(tmp_path / "old.pt", state), 'rules: [{from: "fc.weight", to: "x.weight"}]'))
    assert list(new) == ["x.weight", "x._extra_state"]
    assert new["x._extra_state"] == {"scale": 3}


def test_metadata_that_another_state_dict_shares_keeps_its_paths_there(tmp_path: Path) -> None:
    weights = nn.Sequential(OrderedDict(fc=nn.Linear(2, 2))).state_dict()
    old = save(tmp_path / "old.pt", {"state_dict": weights, "teacher": copy.copy(weights)})
    new = torch.load(remap(old, 'rules: [{from: "fc.{p}", to: "x.{p}"}]'), weights_only=True)
    assert list(new["state_dict"]._metadata) == ["", "x"]
    assert list(new["teacher"]._metadata) == ["", "fc"]


def test_optimizer_states_around_a_nested_place_are_seen(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    old = save(tmp_path / "old.pt", {"run": {"model": model.state_dict(), "optimizer": optimizer.state_dict()}})
    with pytest.raises(CheckpointError, match="optimizer states"):
        remap(old, 'drop: [{keys: bias, why: "gone"}]', select="run/model")


class TestEdits:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        parameters = {
            "kind": "old",
            "depth": 6,
            "rate": 0.5,
            "on": True,
            "none": None,
            "sizes": [1, 2],
            "betas": (0.9, 1),
        }
        parameters |= {"deep": {"a": {"b": 1}}, "object": OrderedDict(x=1), "tensor": torch.ones(2)}
        return save(tmp_path / "old.ckpt", b.lightning_like(b.state_dict(), hyper_parameters=parameters))

    def edited(self, path: Path, envelope: str) -> Any:
        new = torch.load(remap(path, f"envelope: {envelope}"), weights_only=True)
        old = torch.load(path, weights_only=True)
        check_equal(old["state_dict"], new["state_dict"])
        return new

    def test_set_add_and_drop(self, path: Path) -> None:
        envelope = (
            "{set: {hyper_parameters/kind: new, hyper_parameters/sizes: [3, {x: 1.5}], hyper_parameters/none: no, epoch: 0,"
            " hyper_parameters/deep/a: null},"
            " add: {hyper_parameters/width: 8, made_by: {ckptdoctor: [true]}},"
            " drop: [hyper_parameters/object, hyper_parameters/tensor, callbacks]}"
        )
        new, old = self.edited(path, envelope), torch.load(path, weights_only=True)
        wanted = old["hyper_parameters"]
        del wanted["object"], wanted["tensor"], old["callbacks"]
        wanted |= {"kind": "new", "sizes": [3, {"x": 1.5}], "none": False, "width": 8}
        wanted["deep"]["a"] = None
        old |= {"epoch": 0, "made_by": {"ckptdoctor": [True]}}
        check_equal(old, new)

    def test_together_with_a_rename(self, path: Path) -> None:
        out = remap(path, rules_for({"0.weight": "first.weight"}) + "\nenvelope: {set: {hyper_parameters/kind: new}}")
        new = torch.load(out, weights_only=True)
        assert next(iter(new["state_dict"])) == "first.weight"
        assert new["hyper_parameters"]["kind"] == "new"

    def test_through_lists(self, path: Path) -> None:
        new = self.edited(path, "{set: {lr_schedulers/0/last_epoch: 0, optimizer_states/0/param_groups/0/lr: 0.1}}")
        assert new["lr_schedulers"][0]["last_epoch"] == 0
        assert new["optimizer_states"][0]["param_groups"][0]["lr"] == 0.1

    @pytest.mark.parametrize(
        ("envelope", "message"),
        [
            ("{set: {hyper_parameters/kinds: 1}}", "the checkpoint has no hyper_parameters/kinds"),
            ("{set: {hyper_parameter/kind: 1}}", "the checkpoint has no hyper_parameter"),
            ("{drop: [hyper_parameters/deep/b]}", "the checkpoint has no hyper_parameters/deep/b"),
            ("{drop: [lr_schedulers/7/x]}", "lr_schedulers"),
            ("{add: {hyper_parameters/kind: 1}}", "hyper_parameters/kind is there already"),
            ("{set: {hyper_parameters/kind/x: 1}}", "hyper_parameters/kind is no mapping"),
            ("{set: {hyper_parameters/object: 1}}", "is no plain value but an object of collections.OrderedDict"),
            ("{set: {hyper_parameters/tensor: 1}}", "is no plain value but an object of torch._utils"),
            ("{set: {state_dict: {}}}", "state_dict is at, above or among the weights"),
            ("{drop: [state_dict]}", "state_dict is at, above or among the weights"),
            ("{set: {state_dict/0.weight: 1}}", "state_dict/0.weight"),
            ("{drop: [state_dict/0.weight]}", "state_dict/0.weight"),
            ("{add: {state_dict/new: 1}}", "state_dict/new"),
        ],
    )
    def test_an_edit_that_makes_no_sense_writes_nothing(self, path: Path, envelope: str, message: str) -> None:
        with pytest.raises(PlanError) as error:
            remap(path, f"envelope: {envelope}")
        assert message in str(error.value)
        assert error.value.rule is not None
        assert error.value.rule.line == 2
        assert [file.name for file in path.parent.iterdir()] == ["old.ckpt"]

    @pytest.mark.parametrize("edit", ["{drop: [run]}", "{drop: [run/student]}", "{set: {run: 1}}"])
    def test_what_contains_the_weights_cannot_go(self, edit: str, tmp_path: Path) -> None:
        path = save(tmp_path / "old.ckpt", nested())
        with pytest.raises(PlanError):
            remap(path, f"envelope: {edit}", select="run/student/net")
        assert [file.name for file in tmp_path.iterdir()] == ["old.ckpt"]

    def test_a_file_without_an_envelope(self, tmp_path: Path) -> None:
        from safetensors.torch import save_file

        save_file({"a": torch.ones(2)}, tmp_path / "old.safetensors")
        with pytest.raises(PlanError, match="holds nothing but weights"):
            remap(tmp_path / "old.safetensors", "envelope: {add: {x: 1}}")


class Opaque:
    """An object of a class of the user's; unpickling it is noticed."""

    unpickled = 0

    def __init__(self, value: int) -> None:
        self.value = value

    def __setstate__(self, state: dict[str, Any]) -> None:
        Opaque.unpickled += 1
        self.__dict__ |= state


@pytest.mark.parametrize("change", ["rename", "drop"])
def test_objects_of_unknown_classes_survive_unopened(change: str, tmp_path: Path) -> None:
    shared = Opaque(3)
    path = save(tmp_path / "old.ckpt", {"state_dict": b.state_dict(), "hparams": {"a": shared, "b": [shared]}})
    Opaque.unpickled = 0
    out = remap(path, rules_for(USUAL) if change == "rename" else 'drop: [{keys: "0.bias", why: "test"}]')
    assert Opaque.unpickled == 0
    hparams = torch.load(out, weights_only=False)["hparams"]
    assert hparams["a"].value == 3
    assert hparams["a"] is hparams["b"][0]


def test_a_file_object_of_torch_save_has_another_folder_in_it(tmp_path: Path) -> None:
    """torch.save to a buffer calls the folder `archive`; whatever it is called, it stays."""
    buffer = io.BytesIO()
    torch.save(b.state_dict(), buffer)
    path = tmp_path / "old.pt"
    path.write_bytes(buffer.getvalue())
    assert remap(path).read_bytes() == path.read_bytes()
    assert all(name.startswith("archive/") for name in zipfile.ZipFile(remap(path, rules_for(USUAL))).namelist())
