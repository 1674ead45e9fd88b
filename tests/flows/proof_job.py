"""A job for torchrun: in each form that a model can have in it, a right load and each way to get one wrong.

    torchrun --standalone --nproc-per-node 2 -m tests.flows.proof_job FOLDER

Each rank writes what `assert_loaded` said of each form and fault to FOLDER/rank{N}.json. test_assert_loaded.py makes the
folder, starts this and reads the answers; it also uses the models.
"""

from __future__ import annotations

import json
import os
import sys
import weakref
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.parallel import DistributedDataParallel

import ckptdoctor
from ckptdoctor.errors import CkptDoctorError

MAP = """ckptdoctor: 1
rules:
  - {from: "fc{n}.{p}", to: "layers.{n}.{p}"}
  - {from: "{q,k,v}.{p}", to: "qkv.{p}", op: {concat: {dim: 0}}}
fresh:
  - {keys: alpha, why: new}
"""
State = dict[str, torch.Tensor]


class Old(nn.Module):
    """What was trained."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.fc0, self.fc1, self.q, self.k, self.v = (nn.Linear(4, 4) for _ in range(5))
        self.norm = nn.BatchNorm1d(4)


class Net(nn.Module):
    """What the job trains: layers in a list, q, k and v in one, something new, and a buffer that no file has."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.qkv = nn.Linear(4, 12)
        self.norm = nn.BatchNorm1d(4)
        self.alpha = nn.Parameter(torch.rand(2))
        self.register_buffer("cache", torch.rand(3), persistent=False)


def trained(seed: int) -> Old:
    """A model in which no tensor is what a constructor gives."""
    torch.manual_seed(seed)
    model = Old()
    for value in model.state_dict().values():
        value.normal_() if value.is_floating_point() else value.fill_(seed)
    return model


def loaded(folder: Path, file: str = "start.pt") -> Net:
    """The model as a job loads it."""
    model = Net()
    missing, unexpected = model.load_state_dict(state_of(folder, file), strict=False)
    assert (missing, unexpected) == (["alpha"], [])
    return model


def state_of(folder: Path, file: str = "start.pt") -> State:
    state: State = torch.load(folder / file, weights_only=True)["model"]
    return state


# ---- ways to get it wrong, before anything is wrapped ---------------------------------------------------------------


def right(folder: Path) -> Net:
    return loaded(folder)


def reinitialised(folder: Path) -> Net:
    model = loaded(folder)
    nn.init.xavier_uniform_(model.layers[0].weight)
    return model


def swapped(folder: Path) -> Net:
    model, state = loaded(folder), state_of(folder)
    for one, other in ((0, 1), (1, 0)):
        model.layers[one].weight.data.copy_(state[f"layers.{other}.weight"])
    return model


def another_file(folder: Path) -> Net:
    return loaded(folder, "other.pt")


def cast(folder: Path) -> Net:
    return loaded(folder).bfloat16()


def average(folder: Path) -> Net:
    model, other = loaded(folder), state_of(folder, "other.pt")
    for name, value in model.state_dict().items():
        if value.is_floating_point() and name in other and name != "head.weight":
            value.mul_(0.9).add_(other[name], alpha=0.1)
    return model


def never_loaded(folder: Path) -> Net:
    state = state_of(folder)
    state["layers.1.biases"] = state.pop("layers.1.bias")
    model = Net()
    model.load_state_dict(state, strict=False)
    return model


FAULTS = {make.__name__: make for make in (right, reinitialised, swapped, another_file, cast, average, never_loaded)}


# ---- forms -----------------------------------------------------------------------------------------------------------


def fsdp2(model: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    mesh = distributed.init_device_mesh("cpu", (distributed.get_world_size(),))
    fully_shard(model.layers[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def fsdp1(model: nn.Module, *, use_orig_params: bool) -> nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel

    def wrap(part: nn.Module) -> nn.Module:
        return FullyShardedDataParallel(part, use_orig_params=use_orig_params, device_id=torch.device("cpu"))

    model.layers[0] = wrap(model.layers[0])
    return wrap(model)


def with_activation_checkpoints(model: nn.Module) -> nn.Module:
    model.layers[1] = checkpoint_wrapper(model.layers[1])
    model.qkv = checkpoint_wrapper(model.qkv)
    return model


def with_parts(model: nn.Module) -> nn.Module:
    model.layers[0] = torch.compile(DistributedDataParallel(model.layers[0]))
    model.norm = DistributedDataParallel(model.norm)
    return model


FORMS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "plain": lambda model: model,
    "ddp": DistributedDataParallel,
    "compiled": torch.compile,
    "compiled ddp": lambda model: torch.compile(DistributedDataParallel(model)),
    "ddp of compiled": lambda model: DistributedDataParallel(torch.compile(model)),
    "parts": with_parts,
    "fsdp2": fsdp2,
    "compiled fsdp2": lambda model: torch.compile(fsdp2(model)),
    "fsdp2 with activation checkpoints": lambda model: fsdp2(with_activation_checkpoints(model)),
    "fsdp1": lambda model: fsdp1(model, use_orig_params=True),
    "fsdp1 flat": lambda model: fsdp1(model, use_orig_params=False),
}


# ---- the job ---------------------------------------------------------------------------------------------------------


def said(model: nn.Module, receipt: Path) -> dict[str, Any]:
    """What `assert_loaded` says, as JSON."""
    try:
        proof = ckptdoctor.assert_loaded(model, receipt)
    except CkptDoctorError as error:
        problems = [list(problem) for problem in getattr(error, "problems", ())]
        return {"error": error.code, "message": error.message, "problems": problems}
    return {"tensors": proof.tensors, "random": proof.random}


def on_one_rank(folder: Path, form: str) -> dict[str, Any]:
    """One tensor (of a sharded one: the part here) is changed on rank 1 alone, after all is wrapped."""
    model = FORMS[form](loaded(folder))
    if distributed.get_rank() == 1:
        parameter = next(value for name, value in model.named_parameters() if name.endswith("qkv.weight"))
        local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
        local.data.add_(1)
    return said(model, folder / "start.pt")


def after_a_step(folder: Path) -> dict[str, Any]:
    """A forward leaves what FSDP2 does not shard again whole: it is read all the same."""
    model = fsdp2(loaded(folder))
    model.forward = lambda tokens: model.qkv(model.layers[0](model.embed(tokens))).sum()
    model(torch.tensor([1, 2]))
    return said(model, folder / "start.pt")


def without_receipt_on_one_rank(folder: Path) -> dict[str, Any]:
    """As where a node does not see the folder: the other rank is not left waiting."""
    return said(fsdp2(loaded(folder)), folder / ("start.pt" if distributed.get_rank() == 0 else "none.pt"))


def most_at_once(folder: Path) -> int:
    """How many whole tensors there are at one time while a sharded model is read."""
    from torch.distributed.tensor import DTensor

    model, alive, most, original = fsdp2(loaded(folder)), set[int](), 0, DTensor.full_tensor

    def counting(tensor: DTensor, **options: Any) -> torch.Tensor:
        nonlocal most
        whole = original(tensor, **options)
        alive.add(id(whole))
        most = max(most, len(alive))
        weakref.finalize(whole, alive.discard, id(whole))
        return whole

    DTensor.full_tensor = counting  # type: ignore[method-assign]
    try:
        ckptdoctor.assert_loaded(model, folder / "start.pt")
    finally:
        DTensor.full_tensor = original  # type: ignore[method-assign]
    return most


def main(folder: Path) -> None:
    distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
    answers: dict[str, Any] = {
        form: {fault: said(wrap(make(folder)), folder / "start.pt") for fault, make in FAULTS.items()}
        for form, wrap in FORMS.items()
    }
    for form in ("ddp", "fsdp2"):
        answers[form]["on one rank"] = on_one_rank(folder, form)
    answers["fsdp2"]["after a step"] = after_a_step(folder)
    answers["fsdp2"]["without receipt on one rank"] = without_receipt_on_one_rank(folder)
    answers["most at once"] = most_at_once(folder)
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(answers))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
