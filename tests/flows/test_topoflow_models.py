"""The worked example is what its README and the design say it is: counts, keys, functions, and the file it writes."""

import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from torch.overrides import TorchFunctionMode  # noqa: E402

EXAMPLE = Path(__file__).parents[2] / "examples" / "topoflow"
SMALL = EXAMPLE / "configs" / "small.yaml"
COUNTS = {"baseline": (119, 52_481_340), "first": (117, 51_300_158)}
COUNTS |= {"sequential": (121, 52_481_342), "fixed": (121, 52_481_342)}
ALLOCATIONS = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn}

ENDS = ("weight", "bias")
MLP_0 = {f"blocks.0.mlp.{layer}.{p}" for layer in (0, 2) for p in ENDS}
MLP_FC = {f"blocks.0.mlp.{layer}.{p}" for layer in ("fc1", "fc2") for p in ENDS}
HEAD_3 = {f"head.{layer}.{p}" for layer in (0, 2, 4) for p in ENDS}
SCALARS = {"blocks.0.attn.elevation_alpha", "blocks.0.attn.H_scale"}


class AllocateOnMeta(TorchFunctionMode):
    """Memory comes from the meta device; linspace, arange and tensor stay real, so that `.item()` works."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **{**(kwargs or {}), **({"device": "meta"} if func in ALLOCATIONS else {})})


@pytest.fixture(scope="module")
def model() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLE)
        yield importlib.import_module("topoflow.model")


def run_baseline(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-B", EXAMPLE / "baseline.py", "--config", SMALL, "--out", "small.ckpt", "--steps", "2"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("baseline")
    return folder / "small.ckpt", run_baseline(folder)


def small(cls: type, seed: int, noise: float = 0.0) -> Any:
    """A small network in eval mode; noise on all parameters makes it generic, as trained ones are (no zero biases)."""
    torch.manual_seed(seed)
    net = cls(**yaml.safe_load(SMALL.read_text())).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += noise * torch.randn(parameter.shape)
    return net


def weather(net: Any, batch: int = 2) -> tuple[Any, Any, Any]:
    """Fields, lead times in days and elevations in metres, at random."""
    generator = torch.Generator().manual_seed(7)
    fields = torch.randn(batch, net.in_variables, *net.img_size, generator=generator)
    elevation = 3000.0 * torch.rand(batch, *net.img_size, generator=generator)
    return fields, torch.arange(1.0, batch + 1), elevation


def full_on_meta(cls: type) -> Any:
    with AllocateOnMeta():
        return cls()


@pytest.mark.parametrize("variant", COUNTS)
def test_full_size_counts(model: ModuleType, variant: str) -> None:
    net = full_on_meta(model.VARIANTS[variant])
    parameters = dict(net.named_parameters())
    assert all(parameter.is_meta for parameter in parameters.values())
    assert (len(parameters), sum(p.numel() for p in parameters.values())) == COUNTS[variant]
    assert list(net.state_dict()) == list(parameters)  # no buffers


def test_baseline_keys(model: ModuleType) -> None:
    layers = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    expected = {"var_embed", "var_query", "pos_embed", *HEAD_3}
    expected |= {f"token_embeds.{v}.proj.{p}" for v in range(15) for p in ENDS}
    expected |= {f"var_agg.{k}" for k in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")}
    expected |= {f"{layer}.{p}" for layer in ("lead_time_embed", "norm") for p in ENDS}
    expected |= {f"blocks.{i}.{layer}.{p}" for i in range(6) for layer in layers for p in ENDS}
    state = full_on_meta(model.Baseline).state_dict()
    assert state.keys() == expected
    assert (state["pos_embed"].shape, state["head.4.weight"].shape) == ((1, 8192, 768), (60, 768))


def test_how_the_targets_keys_differ(model: ModuleType) -> None:
    baseline, first, sequential, fixed = (set(full_on_meta(cls).state_dict()) for cls in model.VARIANTS.values())
    assert fixed == baseline | SCALARS
    assert sequential == fixed - MLP_FC | MLP_0
    assert first == sequential - HEAD_3 | {"head.weight", "head.bias"}


def test_full_config_states_the_defaults(model: ModuleType) -> None:
    defaults = {name: p.default for name, p in inspect.signature(model.TopoFlow).parameters.items()}
    config = yaml.safe_load((EXAMPLE / "configs" / "full.yaml").read_text())
    assert config | {"img_size": tuple(config["img_size"])} == defaults


def test_meta_device_alone_cannot_build_it(model: ModuleType) -> None:
    with pytest.raises(RuntimeError, match="item"), torch.device("meta"):
        model.Baseline()


@torch.no_grad()
def test_topoflow_starts_as_the_baselines_function(model: ModuleType) -> None:
    baseline, target = small(model.Baseline, seed=0, noise=0.1), small(model.TopoFlow, seed=1)
    missing, unexpected = target.load_state_dict(baseline.state_dict(), strict=False)
    assert (set(missing), unexpected) == (SCALARS, [])
    ours, theirs = target(*weather(target)), baseline(*weather(baseline))
    assert ours.shape == (2, 15, 16, 32)
    # Not torch.equal: with a bias, even one of zeros, attention may take another kernel, which sums in another order.
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_rename_makes_sequential_the_same_function(model: ModuleType) -> None:
    fixed, target = small(model.TopoFlow, seed=0, noise=0.1), small(model.TopoFlowSequential, seed=1)
    names = {old: old.replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.2") for old in MLP_FC}
    target.load_state_dict({names.get(key, key): value for key, value in fixed.state_dict().items()})
    assert torch.equal(target(*weather(target)), fixed(*weather(fixed)))  # the same operations in the same order


def test_the_new_scalars_can_learn(model: ModuleType) -> None:
    net = small(model.TopoFlow, seed=0, noise=0.1)
    alpha, scale = net.blocks[0].attn.elevation_alpha, net.blocks[0].attn.H_scale
    for start in (0.0, 0.1, -0.1):  # wherever it is, and above all where it begins
        net.zero_grad()
        alpha.data.fill_(start)
        net(*weather(net)).square().mean().backward()
        assert alpha.grad.isfinite()
        assert alpha.grad != 0
        assert bool(scale.grad == 0) is (start == 0)  # at first there is nothing to scale


def test_elevation_bias(model: ModuleType) -> None:
    attn = small(model.TopoFlow, seed=0).blocks[0].attn
    assert (attn.elevation_alpha.item(), attn.H_scale.item()) == (0.0, 1000.0)
    attn.elevation_alpha.data.fill_(2.0)
    bias = attn.elevation_bias(torch.tensor([[0.0, 500.0, 9000.0]]))
    # rows ask, columns are looked at: uphill costs 2 per kilometre, 10 at most; downhill is free
    assert bias.tolist() == [[[[0.0, -1.0, -10.0], [0.0, 0.0, -10.0], [0.0, 0.0, 0.0]]]]
    attn.elevation_alpha.data.fill_(-2.0)
    assert attn.elevation_bias(torch.tensor([[0.0, 500.0, 9000.0]])).equal(-bias)


@torch.no_grad()
def test_heights_are_in_the_order_of_the_tokens(model: ModuleType) -> None:
    net, seen = small(model.TopoFlow, seed=0), []
    net.blocks[0].attn.elevation_bias = seen.append  # returns None: no bias
    fields, lead_time, elevation = weather(net, batch=1)
    elevation.zero_()[0, 5, 9] = 400.0  # a peak on one of the four pixels of the patch in row 2, column 4
    net(fields, lead_time, elevation)
    assert seen[0].nonzero().tolist() == [[0, 2 * 16 + 4]]
    assert seen[0].max() == 100.0


def test_baseline_script_writes_one_lightning_checkpoint(written: tuple[Path, Any]) -> None:
    path, process = written
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith("small.ckpt: 71 tensors, 40,860 parameters")
    assert process.stdout.count("\n") == 1
    assert [p.name for p in path.parent.iterdir()] == ["small.ckpt"]
    checkpoint = torch.load(path, weights_only=True)
    assert [key[:4] for key in checkpoint["state_dict"]] == ["net."] * 71
    assert checkpoint["global_step"] == 2
    (optimizer,) = checkpoint["optimizer_states"]
    assert [set(state) for state in optimizer["state"].values()] == [{"step", "exp_avg", "exp_avg_sq"}] * 71
    assert checkpoint["hyper_parameters"]["network"] == yaml.safe_load(SMALL.read_text())


def test_baseline_script_is_deterministic(written: tuple[Path, Any], tmp_path: Path) -> None:
    assert run_baseline(tmp_path).returncode == 0
    first, second = (torch.load(p, weights_only=True) for p in (written[0], tmp_path / "small.ckpt"))
    assert all(torch.equal(second["state_dict"][key], value) for key, value in first["state_dict"].items())


@pytest.mark.parametrize(("variant", "missing", "unused"), [("fixed", 2, 0), ("sequential", 6, 4), ("first", 8, 10)])
def test_start_job_says_what_is_random(
    model: ModuleType, written: tuple[Path, Any], capsys: Any, variant: str, missing: int, unused: int
) -> None:
    start_job = importlib.import_module("start_job")
    arguments = [str(written[0]), "--variant", variant, "--config", str(SMALL)]
    assert start_job.main(arguments) == 0
    out = capsys.readouterr().out
    assert f"missing: {missing} keys\n  net." in out
    assert f"unexpected: {unused} keys\n" in out
    assert start_job.main([*arguments, "--max-missing", "2"]) == (0 if variant == "fixed" else 1)
