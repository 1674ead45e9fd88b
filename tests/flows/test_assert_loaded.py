"""`assert_loaded`: what a job holds is what was written, in every form, and each way to get it wrong is told by name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ckptdoctor
from ckptdoctor.cli import main
from ckptdoctor.errors import CheckpointNotFound, CorruptCheckpoint, UsageError, WeightsNotLoaded
from ckptdoctor.receipt import Receipt, read_receipt, receipt_json, receipt_path
from tests.flows import proof_job as job

pytestmark = pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:ComplexHalf")
FLOATS = {
    *("embed.weight", "head.weight", "layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"),
    *("qkv.weight", "qkv.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"),
}
ALL = FLOATS | {"norm.num_batches_tracked"}
TOLD: dict[str, tuple[str, dict[str, str]]] = {
    "reinitialised": ("1 tensor is not as written", {"layers.0.weight": "other values than in the file"}),
    "swapped": (
        "2 tensors are not as written",
        {f"layers.{one}.weight": f"holds the values of layers.{1 - one}.weight" for one in (0, 1)},
    ),
    "another_file": ("none of the 13 tensors has the values of", dict.fromkeys(ALL, "other values than in the file")),
    "cast": (
        "12 tensors are not as written",
        dict.fromkeys(FLOATS, "float32 in the file, bfloat16 in the model"),
    ),
    "average": ("only 1 of the 13 tensors has the values of", dict.fromkeys(FLOATS, "other values than in the file")),
    "never_loaded": ("1 tensor is not as written", {"layers.1.bias": "other values than in the file"}),
}
Remap = Callable[..., Path]


def remap(source: Path, target: str, out: Path, *more: str) -> Path:
    """`ckptdoctor remap`, in this process."""
    words = ["ckptdoctor", "remap", str(source), target, "-q", "-o", str(out), *more]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code, words
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two old checkpoints and what the map makes of them, each with its receipt."""
    folder = tmp_path_factory.mktemp("proof")
    (folder / "map.yaml").write_text(job.MAP)
    for seed, name in ((1, "start.pt"), (2, "other.pt")):
        torch.save({"model": job.trained(seed).state_dict()}, folder / f"old{seed}.pt")
        remap(folder / f"old{seed}.pt", "tests.flows.proof_job:Net", folder / name, "-m", str(folder / "map.yaml"))
    return folder


@pytest.fixture(scope="module")
def answers(folder: Path) -> list[dict[str, Any]]:
    """What both ranks of a job under torchrun say, once for all tests."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.flows.proof_job", str(folder)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], timeout=300, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


class TestUnderTorchrun:
    """Two processes, gloo: DDP, compiled, FSDP of both kinds, and these on one another."""

    @pytest.mark.parametrize("form", job.FORMS)
    def test_a_right_load_passes(self, form: str, answers: list[dict[str, Any]]) -> None:
        assert [rank[form]["right"] for rank in answers] == [{"tensors": 13, "random": ["alpha"]}] * 2

    @pytest.mark.parametrize("fault", TOLD)
    @pytest.mark.parametrize("form", job.FORMS)
    def test_a_fault_is_told_by_name_on_both_ranks(self, form: str, fault: str, answers: list[dict[str, Any]]) -> None:
        title, wrong = TOLD[fault]
        for number, rank in enumerate(answers):
            said = rank[form][fault]
            assert said["error"] == "weights-not-loaded"
            assert {key: text for key, _, text in said["problems"]} == wrong
            assert len(said["problems"]) == len(wrong), "tied names too, once each"
            assert title in said["message"]
            assert f"(rank {number} of 2)" in said["message"]

    def test_a_copy_that_one_rank_has_changed_is_told_there(self, answers: list[dict[str, Any]]) -> None:
        first, second = (rank["ddp"]["on one rank"] for rank in answers)
        assert first == {"tensors": 13, "random": ["alpha"]}
        assert second["problems"] == [["qkv.weight", "values", "other values than in the file"]]

    def test_a_part_that_one_rank_has_changed_is_told_by_all(self, answers: list[dict[str, Any]]) -> None:
        for rank in answers:
            problems = rank["fsdp2"]["on one rank"]["problems"]
            assert problems == [["qkv.weight", "values", "other values than in the file"]]

    def test_what_a_forward_has_left_whole_is_read_all_the_same(self, answers: list[dict[str, Any]]) -> None:
        assert [rank["fsdp2"]["after a step"]["tensors"] for rank in answers] == [13, 13]

    def test_a_rank_without_a_receipt_keeps_no_other_waiting(self, answers: list[dict[str, Any]]) -> None:
        first, second = (rank["fsdp2"]["without receipt on one rank"] for rank in answers)
        assert first == {"tensors": 13, "random": ["alpha"]}
        assert second["error"] == "checkpoint-not-found"

    def test_one_tensor_at_a_time_is_whole(self, answers: list[dict[str, Any]]) -> None:
        assert [rank["most at once"] for rank in answers] == [1, 1]


def wrong(model: nn.Module, receipt: Any, **more: Any) -> WeightsNotLoaded:
    with pytest.raises(WeightsNotLoaded) as error:
        ckptdoctor.assert_loaded(model, receipt, **more)
    assert len(error.value.message) < 4000
    return error.value


def told(error: WeightsNotLoaded) -> dict[str, str]:
    assert len({problem.key for problem in error.problems}) == len(error.problems)
    return {problem.key: problem.text for problem in error.problems}


def holding(**tensors: torch.Tensor) -> nn.Module:
    """A module of buffers: `layer__weight` stands for `layer.weight`."""
    module = nn.Module()
    for name, value in tensors.items():
        *path, last = name.split("__")
        inner = module
        for part in path:
            if not hasattr(inner, part):
                inner.add_module(part, nn.Module())
            inner = getattr(inner, part)
        inner.register_buffer(last, value)
    return module


def written(tmp_path: Path, state: dict[str, torch.Tensor], *more: str) -> Path:
    """A checkpoint of these tensors that remap has written, with its receipt."""
    torch.save(state, tmp_path / "old.pt")
    (tmp_path / "new.pt").unlink(missing_ok=True)
    receipt_path(tmp_path / "new.pt").unlink(missing_ok=True)
    return remap(tmp_path / "old.pt", str(tmp_path / "old.pt"), tmp_path / "new.pt", *more)


class TestTheReceipt:
    def test_is_given_as_checkpoint_receipt_or_value(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model = job.loaded(folder)
        ways = (folder / "start.pt", str(receipt_path(folder / "start.pt")), read_receipt(folder / "start.pt"))
        for way in ways:
            proof = ckptdoctor.assert_loaded(model, way)
            assert (proof.tensors, proof.random) == (13, ("alpha",))
        assert str(proof) == f"13 tensors in the model as written to {folder}/start.pt; not from there: alpha"
        monkeypatch.chdir(folder)
        assert ckptdoctor.assert_loaded(model, "start.pt").path == "start.pt"

    def test_need_not_lie_beside_the_file(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "start.pt.receipt.json").write_bytes(receipt_path(folder / "start.pt").read_bytes())
        assert ckptdoctor.assert_loaded(job.loaded(folder), tmp_path / "start.pt").tensors == 13

    def test_that_is_not_there(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(CheckpointNotFound, match=r"there is no receipt .*old1\.pt\.receipt\.json") as error:
            ckptdoctor.assert_loaded(job.loaded(folder), folder / "old1.pt")
        assert error.value.hint is not None
        assert "remap" in error.value.hint

    @pytest.mark.parametrize("text", ["", "{}", "[1", '{"schema": "ckptdoctor/receipt/1"}', "\x80"])
    def test_that_is_broken(self, folder: Path, tmp_path: Path, text: str) -> None:
        (tmp_path / "new.pt.receipt.json").write_text(text)
        with pytest.raises(CorruptCheckpoint):
            ckptdoctor.assert_loaded(job.loaded(folder), tmp_path / "new.pt")

    def test_without_digests_proves_nothing(self, tmp_path: Path) -> None:
        out = written(tmp_path, {"a": torch.ones(3)}, "--no-digests")
        with pytest.raises(UsageError, match="no digests of 1 tensor, as a") as error:
            ckptdoctor.assert_loaded(holding(a=torch.ones(3)), out)
        assert error.value.hint == "write the file without --no-digests"

    def test_with_some_digests_proves_nothing(self, folder: Path) -> None:
        receipt = read_receipt(folder / "start.pt")
        rows = (*receipt.tensors[:-1], receipt.tensors[-1]._replace(sha256=None))
        with pytest.raises(UsageError, match="no digests of 1 tensor"):
            ckptdoctor.assert_loaded(job.loaded(folder), receipt._replace(tensors=rows))

    def test_without_tensors_proves_nothing(self, folder: Path) -> None:
        receipt = read_receipt(folder / "start.pt")._replace(tensors=(), random=())
        with pytest.raises(UsageError, match="has no tensors"):
            ckptdoctor.assert_loaded(nn.Module(), receipt)
        extra = read_receipt(folder / "start.pt").tensors[0]._replace(key="a._extra_state", target="a._extra_state")
        with pytest.raises(UsageError, match="has no tensors"):
            ckptdoctor.assert_loaded(nn.Module(), receipt._replace(tensors=(extra,)))


class TestWhatIsTold:
    def test_what_the_file_has_not_and_what_the_model_has_not(self, folder: Path) -> None:
        model = job.loaded(folder)
        model.adapter = nn.Linear(2, 2)
        del model.qkv
        error = wrong(model, folder / "start.pt")
        assert told(error) == {
            "adapter.weight": "not in the file, and not fresh: never loaded",
            "adapter.bias": "not in the file, and not fresh: never loaded",
            "qkv.weight": "in the file, not in the model",
            "qkv.bias": "in the file, not in the model",
        }
        assert "  adapter.{bias,weight}: not in the file, and not fresh: never loaded\n" in error.message
        assert error.hint == 'declare it in the map (fresh), or allow it: allow_random="..."'

    def test_what_is_allowed_may_be_there(self, folder: Path) -> None:
        model = job.loaded(folder)
        model.adapter = nn.Linear(2, 2)
        model.scale = nn.Parameter(torch.ones(1))
        proof = ckptdoctor.assert_loaded(model, folder / "start.pt", allow_random=["adapter.{p}", "scale"])
        assert proof.random == ("alpha", "scale", "adapter.weight", "adapter.bias")
        assert ckptdoctor.assert_loaded(model, folder / "start.pt", allow_random="{*any}").tensors == 13
        with pytest.raises(UsageError, match="pattern"):
            ckptdoctor.assert_loaded(model, folder / "start.pt", allow_random="{")

    def test_what_is_allowed_is_no_excuse_for_what_the_file_has(self, folder: Path) -> None:
        model = job.reinitialised(folder)
        assert told(wrong(model, folder / "start.pt", allow_random="{*any}")).keys() == {"layers.0.weight"}

    def test_a_model_that_shares_no_name(self, folder: Path) -> None:
        error = wrong(nn.Linear(2, 2), folder / "start.pt")
        assert error.message.startswith("Linear has none of the 13 tensors of")
        assert wrong(nn.Module(), folder / "start.pt").message.startswith("Module has none of the 13 tensors of")
        with pytest.raises(WeightsNotLoaded, match="none of the 13"):
            ckptdoctor.assert_loaded(nn.Linear(2, 2), folder / "start.pt", allow_random="{*any}")

    def test_shapes(self, tmp_path: Path) -> None:
        out = written(tmp_path, {"a": torch.ones(2, 3), "b": torch.ones(6)})
        error = wrong(holding(a=torch.ones(3, 2), b=torch.ones(6)), out)
        assert told(error) == {"a": "2x3 in the file, 3x2 in the model"}

    def test_a_reset_to_one_value_is_not_mistaken_for_another_tensor(self, tmp_path: Path) -> None:
        out = written(tmp_path, {"a": torch.rand(3), "b": torch.zeros(3), "c": torch.rand(3), "n": torch.tensor(5)})
        live = {"a": torch.zeros(3), "b": torch.zeros(3), "c": torch.full((3,), 0.5), "n": torch.tensor(0)}
        assert told(wrong(holding(**live), out)) == {
            "a": "0 everywhere, not as in the file",
            "c": "0.5 everywhere, not as in the file",
            "n": "other values than in the file",
        }

    def test_tensors_without_values(self, tmp_path: Path) -> None:
        names = ("meta", "sparse", "quantised", "lazy", "fresh", "good")
        out = written(tmp_path, {name: torch.rand(4, 4) for name in names})
        receipt = read_receipt(out)
        rows = tuple(row for row in receipt.tensors if row.key != "fresh")
        model = holding(good=torch.load(out)["good"], meta=torch.empty(4, 4, device="meta"))
        model.register_buffer("sparse", torch.eye(4).to_sparse())
        model.register_buffer("quantised", torch.quantize_per_tensor(torch.rand(4, 4), 0.1, 0, torch.qint8))
        model.register_buffer("fresh", torch.empty(4, 4, device="meta"))
        model.lazy = nn.parameter.UninitializedParameter()
        error = wrong(model, receipt._replace(tensors=rows, random=("fresh",)))
        assert told(error) == {
            "meta": "on the meta device, without values",
            "sparse": "not dense but sparse_coo, which is not compared",
            "quantised": "quantised (qint8), which is not compared",
            "lazy": "without a shape yet, in a lazy module",
            "fresh": "fresh, and on the meta device, without values",
        }
        assert {problem.kind for problem in error.problems} == {"unreadable"}

    def test_tensors_that_are_made_of_others(self, tmp_path: Path) -> None:
        from torch.testing._internal.two_tensor import TwoTensor

        out = written(tmp_path, {"a": torch.rand(2)})
        model = nn.Module()
        model.a = nn.Parameter(TwoTensor(torch.rand(2), torch.rand(2)))
        assert told(wrong(model, out)) == {"a": "a TwoTensor, which is not compared"}

    def test_many_names_are_a_short_message(self, tmp_path: Path) -> None:
        state = {f"layer{n * n}.{'x' * 300}{n}": torch.full((2,), float(n)) for n in range(500)}
        state |= {f"blocks.{n}.weight": torch.rand(2) for n in range(300)}
        out = written(tmp_path, state)
        error = wrong(holding(**{key.replace(".", "__"): torch.rand(2) for key in state}), out)
        assert len(error.problems) == 800
        assert len(error.message.splitlines()) < 15
        assert "none of the 800 tensors has the values of" in error.message
        mixed = {key: value if key.startswith("layer") else value + 1 for key, value in state.items()}
        error = wrong(holding(**{key.replace(".", "__"): value for key, value in mixed.items()}), out)
        assert "  blocks.{0..299}.weight: other values than in the file" in error.message

    def test_names_that_would_move_the_cursor_are_escaped(self, tmp_path: Path) -> None:
        out = written(tmp_path, {"a\x1b[2J": torch.rand(2), "b": torch.rand(2)})
        error = wrong(holding(**{"a\x1b[2J": torch.rand(2), "b": torch.load(out)["b"]}), out)
        assert "\x1b" not in error.message
        assert r"a\x1b[2J: other values" in error.message


class TestNames:
    STATE = staticmethod(lambda: {"body.weight": torch.rand(2, 2), "body.bias": torch.rand(2)})

    @pytest.mark.parametrize("in_file", ["", "net.", "module.", "module._orig_mod.", "model.net."])
    @pytest.mark.parametrize("in_model", ["", "net", "model", "module"])
    def test_wrappers_on_either_side(self, tmp_path: Path, in_file: str, in_model: str) -> None:
        out = written(tmp_path, {in_file + key: value for key, value in self.STATE().items()})
        inner = nn.Module()
        inner.body = nn.Linear(2, 2)
        inner.body.load_state_dict({key[-len(key.split(".")[-1]) :]: value for key, value in torch.load(out).items()})
        model = inner
        if in_model:
            model = nn.Module()
            model.add_module(in_model, inner)
        assert ckptdoctor.assert_loaded(model, out).tensors == 2
        inner.body.bias.data.add_(1)
        assert told(wrong(model, out)) == {
            f"{in_model}.body.bias".removeprefix("."): "other values than in the file"
        }, "by the name in the model"

    def test_a_segment_that_was_stripped_by_its_name(self, tmp_path: Path) -> None:
        torch.save({f"student.{key}": value for key, value in self.STATE().items()}, tmp_path / "old.pt")
        torch.save(
            {"body.weight": torch.ones(2, 2), "body.bias": torch.ones(2), "body.new": torch.ones(1)}, tmp_path / "t.pt"
        )
        (tmp_path / "map.yaml").write_text("ckptdoctor: 1\nfresh: [{keys: body.new, why: new}]\n")
        more = ("--strip", "student", "-m", str(tmp_path / "map.yaml"))
        out = remap(tmp_path / "old.pt", str(tmp_path / "t.pt"), tmp_path / "new.pt", *more)
        values = torch.load(out)
        inner = holding(
            body__weight=values["student.body.weight"], body__bias=values["student.body.bias"], body__new=torch.rand(1)
        )
        outer = nn.Module()
        outer.student = inner
        for model in (inner, outer):
            proof = ckptdoctor.assert_loaded(model, out)
            assert proof.tensors == 2
            assert proof.random == (("student." if model is outer else "") + "body.new",)

    def test_a_name_that_stands_for_two_is_compared_with_its_own(self, tmp_path: Path) -> None:
        """`net.a` without its front is `a`, and both are there."""
        state = {"a": torch.rand(2), "net.a": torch.rand(2), "net.net.a": torch.rand(2)}
        out = written(tmp_path, state)
        right = {key.replace(".", "__"): value for key, value in state.items()}
        assert ckptdoctor.assert_loaded(holding(**right), out).tensors == 3
        crossed = right | {"a": right["net__a"], "net__a": right["a"]}
        assert told(wrong(holding(**crossed), out)).keys() == {"a", "net.a"}

    def test_two_readings_that_agree_on_as_much_are_refused(self, folder: Path) -> None:
        receipt = read_receipt(folder / "start.pt")
        one, two = (row for row in receipt.tensors if row.key in ("layers.0.weight", "layers.1.weight"))
        crossed = (one._replace(key="x", target="y"), two._replace(key="y", target="x"))
        values = job.state_of(folder)
        model = holding(x=values["layers.0.weight"], y=values["layers.1.weight"])
        with pytest.raises(UsageError, match="in two ways"):
            ckptdoctor.assert_loaded(model, receipt._replace(tensors=crossed, random=()))

    def test_data_parallel_and_parts_that_are_compiled(self, folder: Path) -> None:
        model = job.loaded(folder)
        model.layers[0] = torch.compile(nn.DataParallel(model.layers[0]))
        assert ckptdoctor.assert_loaded(nn.DataParallel(torch.compile(model)), folder / "start.pt").tensors == 13
        model.layers[0]._orig_mod.module.bias.data.zero_()
        error = wrong(nn.DataParallel(torch.compile(model)), folder / "start.pt")
        assert told(error) == {"layers.0.bias": "0 everywhere, not as in the file"}
        assert error.message.startswith("Net does not hold the weights of")

    def test_a_module_under_two_names(self, tmp_path: Path) -> None:
        out = written(tmp_path, self.STATE())
        model = nn.Module()
        model.body = nn.Linear(2, 2)
        model.load_state_dict(torch.load(out))
        model.again = torch.compile(model.body)
        assert ckptdoctor.assert_loaded(model, out).tensors == 2


class TestTies:
    def test_a_tied_tensor_is_read_once(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from ckptdoctor.integrations import live

        digests: list[str] = []
        original = live.sha256_of
        monkeypatch.setattr(live, "sha256_of", lambda chunks: digests.append(original(chunks)) or digests[-1])
        assert ckptdoctor.assert_loaded(job.loaded(folder), folder / "start.pt").tensors == 13
        assert len(digests) == 13, "12 of the file, and alpha"

    def test_a_name_that_the_file_leaves_out_because_it_is_tied(self, tmp_path: Path) -> None:
        out = written(tmp_path, {"embed": torch.rand(3, 2)})
        value = torch.load(out)["embed"]
        assert ckptdoctor.assert_loaded(holding(embed=value, head=value), out).tensors == 1
        untied = holding(embed=value, head=value.clone())
        assert told(wrong(untied, out)) == {"head": "not in the file, and not fresh: never loaded"}

    def test_one_tensor_for_two_of_the_file(self, tmp_path: Path) -> None:
        out = written(tmp_path, {"embed": torch.rand(3, 2), "head": torch.rand(3, 2)})
        value = torch.load(out)["embed"]
        assert told(wrong(holding(embed=value, head=value), out)) == {"head": "holds the values of embed"}


class TestWhatTheModelIs:
    def test_values_of_every_sort(self, tmp_path: Path) -> None:
        from tests import builders as b

        tensors = b.awkward_tensors()
        torch.save(tensors, tmp_path / "old.pt")
        out = remap(tmp_path / "old.pt", str(tmp_path / "old.pt"), tmp_path / "new.pt")
        names = list(tensors)
        receipt = read_receipt(out)
        rows = tuple(
            row._replace(key=f"t{names.index(row.key)}", target=f"t{names.index(row.key)}", tied_to=None)
            for row in receipt.tensors
        )
        model = nn.Module()
        for number, key in enumerate(names):
            model.register_buffer(f"t{number}", tensors[key])
        assert ckptdoctor.assert_loaded(model, receipt._replace(tensors=rows)).tensors == len(tensors) > 20

    def test_what_no_file_holds_is_not_looked_at(self, folder: Path) -> None:
        class Extra(job.Net):
            def get_extra_state(self) -> torch.Tensor:
                return torch.rand(2)

            def set_extra_state(self, state: torch.Tensor) -> None:
                pass

        model = Extra()
        model.load_state_dict(job.loaded(folder).state_dict() | {"_extra_state": torch.rand(2)})
        assert ckptdoctor.assert_loaded(model, folder / "start.pt").tensors == 13

    def test_a_hook_that_shows_copies_hides_nothing(self, folder: Path) -> None:
        """The state dict says what was loaded; the model's own tensors say something else."""
        model, state = job.reinitialised(folder), job.state_of(folder)
        model.register_state_dict_post_hook(lambda *arguments: arguments[1].update(state))
        assert torch.equal(model.state_dict()["layers.0.weight"], state["layers.0.weight"])
        assert told(wrong(model, folder / "start.pt")).keys() == {"layers.0.weight"}

    def test_names_that_a_hook_gives(self, folder: Path) -> None:
        inner = job.loaded(folder)
        model = nn.Module()
        model.wrapped = inner

        def shorten(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
            for key in list(state):
                state[key.removeprefix("wrapped.")] = state.pop(key)

        model.register_state_dict_post_hook(shorten)
        assert ckptdoctor.assert_loaded(model, folder / "start.pt").tensors == 13
        inner.qkv.bias.data.add_(1)
        assert told(wrong(model, folder / "start.pt")).keys() == {"qkv.bias"}

    def test_a_part_that_the_state_dict_leaves_out_is_named_unless_allowed(self, folder: Path) -> None:
        class Hiding(job.Net):
            def __init__(self) -> None:
                super().__init__()
                self.teacher = nn.Linear(2, 2)

            def state_dict(self, *arguments: Any, **more: Any) -> Any:
                whole = super().state_dict(*arguments, **more)
                return {key: value for key, value in whole.items() if not key.startswith("teacher")}

        model = Hiding()
        model.load_state_dict(job.state_of(folder), strict=False)
        assert told(wrong(model, folder / "start.pt")).keys() == {"teacher.weight", "teacher.bias"}
        assert ckptdoctor.assert_loaded(model, folder / "start.pt", allow_random="teacher.{p}").tensors == 13

    def test_the_model_stays_as_it_was(self, folder: Path) -> None:
        model = job.loaded(folder).train()
        model.qkv.weight.requires_grad_(False)
        before = {name: (id(value), value.requires_grad) for name, value in model.named_parameters()}
        ckptdoctor.assert_loaded(model, folder / "start.pt")
        assert {name: (id(value), value.requires_grad) for name, value in model.named_parameters()} == before
        assert model.training
        assert all(value.untyped_storage().resizable() for value in model.parameters()), "FSDP resizes it"


def test_a_file_of_an_init_and_a_tie_and_a_cast(tmp_path: Path) -> None:
    """What a map makes itself stands in the receipt too."""
    torch.save({"a": torch.rand(3, 2)}, tmp_path / "old.pt")
    torch.save({"a": torch.rand(3, 2), "b": torch.rand(3, 2), "c": torch.rand(4)}, tmp_path / "target.pt")
    (tmp_path / "map.yaml").write_text(
        "ckptdoctor: 1\nrules: [{from: a, to: a, op: {cast: bfloat16}}]\ntie: [{keys: [a, b], why: shared}]\n"
        "fresh: [{keys: c, why: new, init: ones}]\n"
    )
    out = remap(tmp_path / "old.pt", str(tmp_path / "target.pt"), tmp_path / "new.pt", "-m", str(tmp_path / "map.yaml"))
    state = torch.load(out)
    assert state["a"].dtype == torch.bfloat16
    model = holding(**state)
    assert ckptdoctor.assert_loaded(model, out) == (str(out), 3, ())
    model.c.mul_(2)
    assert told(wrong(model, out)) == {"c": "2 everywhere, not as in the file"}


@pytest.mark.parametrize("model", [{}, nn.Linear, None])
def test_what_is_no_module_is_said(folder: Path, model: Any) -> None:
    with pytest.raises(UsageError, match="takes a module, not"):
        ckptdoctor.assert_loaded(model, folder / "start.pt")


def test_receipts_survive_their_file(folder: Path, tmp_path: Path) -> None:
    receipt: Receipt = read_receipt(folder / "start.pt")
    (tmp_path / "elsewhere.pt.receipt.json").write_text(receipt_json(receipt))
    assert ckptdoctor.assert_loaded(job.loaded(folder), tmp_path / "elsewhere.pt.receipt.json").tensors == 13
