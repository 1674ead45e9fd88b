"""Real models through `resolve_target`: what is counted and tied, how they are built, what is said when they are not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from ckptdoctor.errors import (
    CkptDoctorError,
    MissingDependency,
    TargetError,
    TargetNotBuildable,
    TargetNotFound,
    UsageError,
)
from ckptdoctor.model import Manifest
from ckptdoctor.targets import parse_target_args, resolve_target
from ckptdoctor.targets.building.contents import manifest_of_module

ROOT = Path(__file__).parents[2]

Write = Callable[[str, str], None]


@pytest.fixture(autouse=True)
def _modules_forgotten(tmp_path: Path) -> Iterator[None]:
    yield
    for name, module in list(sys.modules.items()):
        attributes = getattr(module, "__dict__", {})
        if str(tmp_path) in f"{attributes.get('__file__')} {attributes.get('__path__')}":
            del sys.modules[name]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a file into the working directory, which is empty; Python files get the usual imports."""
    monkeypatch.chdir(tmp_path)

    def put(name: str, text: str) -> None:
        head = "import torch\nfrom torch import nn\n" if name.endswith(".py") and text else ""
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + text)

    return put


def shapes(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    return {key: spec.shape for key, spec in manifest.items()}


def not_buildable(reference: str, **arguments: object) -> TargetNotBuildable:
    with pytest.raises(TargetNotBuildable) as caught:
        resolve_target(reference, arguments=arguments)
    assert caught.value.reference == reference
    return caught.value


def not_found(reference: str) -> TargetNotFound:
    with pytest.raises(TargetNotFound) as caught:
        resolve_target(reference)
    assert caught.value.reference == reference
    return caught.value


NET = """
class Net(nn.Module):
    def __init__(self, depth=2, width=4, rate=0.1):
        super().__init__()
        self.rates = [x.item() for x in torch.linspace(0, rate, depth)]
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    @classmethod
    def small(cls, width=3):
        return cls(depth=1, width=width)

def factory(**sizes): return Net(**sizes)
ready = Net(depth=1)
weights = {"w": torch.zeros(2, 3), "step": 7}
answer = 42
"""


class TestWhatIsListed:
    def test_batch_norm_has_buffers_in_the_order_of_the_state_dict(self, write: Write) -> None:
        write("bn.py", "def make(): return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8))\n")
        manifest = resolve_target("bn.py:make")
        assert [(key, spec.kind, spec.dtype.name) for key, spec in manifest.items()] == [
            ("0.weight", "parameter", "float32"),
            ("1.weight", "parameter", "float32"),
            ("1.bias", "parameter", "float32"),
            ("1.running_mean", "buffer", "float32"),
            ("1.running_var", "buffer", "float32"),
            ("1.num_batches_tracked", "buffer", "int64"),
        ]
        assert manifest.parameters == 216 + 16
        assert manifest.buffers == 17

    def test_tied_parameters_count_once(self, write: Write) -> None:
        write(
            "tied.py",
            "class Net(nn.Module):\n"
            "    def __init__(self):\n"
            "        super().__init__()\n"
            "        self.embed = nn.Embedding(10, 4)\n"
            "        self.head = nn.Linear(4, 10, bias=False)\n"
            "        self.head.weight = self.embed.weight\n",
        )
        manifest = resolve_target("tied.py:Net")
        assert manifest["head.weight"].tied_to == "embed.weight"
        assert manifest["embed.weight"].tied_to is None
        assert manifest.parameters == 40

    @pytest.mark.parametrize("extra", ["", "        torch.zeros(1).item()\n"], ids=["meta", "real"])
    def test_ties_survive_both_ways_of_building(self, write: Write, extra: str) -> None:
        write(
            "tied.py",
            "class Net(nn.Module):\n"
            "    def __init__(self):\n"
            f"        super().__init__()\n{extra}"
            "        shared = nn.Parameter(torch.zeros(100, 100))\n"
            "        self.a, self.b = shared, shared\n"
            "        self.c = nn.Linear(100, 100, bias=False)\n"
            "        self.d = nn.Linear(100, 100, bias=False)\n"
            "        self.c.weight.data = self.d.weight.data\n",
        )
        manifest = resolve_target("tied.py:Net")
        assert {key: spec.tied_to for key, spec in manifest.items()} == {
            "a": None,
            "b": "a",
            "c.weight": None,
            "d.weight": "c.weight",
        }

    def test_untied_twins_are_not_tied(self, write: Write) -> None:
        write("twins.py", "def make(): return nn.ParameterList([nn.Parameter(torch.zeros(3)) for _ in range(2)])\n")
        assert all(spec.tied_to is None for spec in resolve_target("twins.py:make").values())

    def test_a_buffer_that_is_not_persistent_is_absent(self, write: Write) -> None:
        write(
            "buffers.py",
            "def make():\n"
            "    net = nn.Module()\n"
            "    net.register_buffer('kept', torch.arange(4))\n"
            "    net.register_buffer('gone', torch.zeros(4), persistent=False)\n"
            "    net.register_buffer('none', None)\n"
            "    return net\n",
        )
        manifest = resolve_target("buffers.py:make")
        assert list(manifest) == ["kept"]
        assert manifest["kept"].kind == "buffer"

    def test_a_hook_decides_the_keys_and_the_tensor_its_kind(self, write: Write) -> None:
        write(
            "hooked.py",
            "def rename(module, state, prefix, meta):\n"
            "    state['outer.w'] = state.pop('weight')\n"
            "    state['made_up'] = torch.zeros(5)\n"
            "def make():\n"
            "    net = nn.Linear(2, 3)\n"
            "    net._register_state_dict_hook(rename)\n"
            "    return net\n",
        )
        manifest = resolve_target("hooked.py:make")
        assert {key: spec.kind for key, spec in manifest.items()} == {
            "bias": "parameter",
            "outer.w": "parameter",
            "made_up": "unknown",
        }

    def test_an_own_state_dict_without_arguments(self, write: Write) -> None:
        write(
            "own.py",
            "class Net(nn.Linear):\n    def state_dict(self): return {'kernel': self.weight.detach()}\n"
            "def make(): return Net(2, 3)\n",
        )
        manifest = resolve_target("own.py:make")
        assert [(spec.key, spec.kind) for spec in manifest.values()] == [("kernel", "parameter")]

    def test_extra_state_is_left_out_and_named(self, write: Write) -> None:
        write(
            "extra.py",
            "class Net(nn.Linear):\n"
            "    def get_extra_state(self): return {'a': 1}\n"
            "    def set_extra_state(self, state): pass\n"
            "def make(): return nn.Sequential(Net(2, 3))\n",
        )
        manifest = resolve_target("extra.py:make")
        assert list(manifest) == ["0.weight", "0.bias"]
        assert any("0._extra_state" in note for note in manifest.origin.notes)

    def test_a_dict_of_tensors_is_a_state_dict(self, write: Write) -> None:
        write("net.py", NET)
        manifest = resolve_target("net.py:weights")
        assert [(spec.key, spec.shape, spec.kind) for spec in manifest.values()] == [("w", (2, 3), "unknown")]
        assert any("step" in note for note in manifest.origin.notes)

    def test_an_object_with_a_state_dict_will_do(self, write: Write) -> None:
        write("ema.py", "class EMA:\n    def state_dict(self): return {'w': torch.zeros(2)}\n")
        assert shapes(resolve_target("ema.py:EMA")) == {"w": (2,)}

    def test_dtypes_are_those_of_the_model(self, write: Write) -> None:
        write("half.py", "def make(): return nn.Linear(2, 2).to(torch.bfloat16)\n")
        assert {spec.dtype.name for spec in resolve_target("half.py:make").values()} == {"bfloat16"}

    def test_a_dtype_we_do_not_know_is_named(self, write: Write) -> None:
        write("odd.py", "def make(): return {'w': torch.empty(2, dtype=torch.qint8)}\n")
        assert "qint8" in not_buildable("odd.py:make").message

    def test_manifest_of_module_takes_a_real_module(self) -> None:
        manifest = manifest_of_module(torch.nn.Linear(2, 3))
        assert shapes(manifest) == {"weight": (3, 2), "bias": (3,)}
        assert manifest.origin.reference == "Linear"

    def test_a_lightning_module(self, write: Write) -> None:
        write(
            "lit.py",
            "import lightning as L\n"
            "class Lit(L.LightningModule):\n"
            "    def __init__(self, width=3):\n"
            "        super().__init__()\n"
            "        self.save_hyperparameters()\n"
            "        self.net = nn.Linear(width, width)\n"
            "        self.late = nn.BatchNorm1d(self.hparams.width)\n"
            "class Late(L.LightningModule):\n"
            "    def configure_model(self):\n"
            "        self.net = nn.Linear(2, 2)\n",
        )
        assert resolve_target("lit.py:Lit", arguments={"width": 5}).parameters == 30 + 10
        assert list(resolve_target("lit.py:Late")) == ["net.weight", "net.bias"]

    def test_a_lazy_module_is_refused_and_named(self, write: Write) -> None:
        write(
            "lazy.py",
            "def make(): return nn.Sequential(nn.LazyLinear(3))\n"
            "def run():\n    net = make()\n    net(torch.zeros(1, 7))\n    return net\n",
        )
        error = not_buildable("lazy.py:make")
        assert "0.weight" in error.message
        assert "batch" in (error.hint or "")
        assert shapes(resolve_target("lazy.py:run")) == {"0.weight": (3, 7), "0.bias": (3,)}


class TestWhatIsCalled:
    @pytest.mark.parametrize(
        ("name", "arguments", "parameters"),
        [
            ("Net", {}, 40),
            ("Net", {"depth": 3, "width": 2}, 18),
            ("Net.small", {}, 12),
            ("Net.small", {"width": 1}, 2),
            ("factory", {"depth": 1}, 20),
            ("ready", {}, 20),
            ("ready.blocks", {}, 20),
        ],
    )
    @pytest.mark.parametrize("form", ["net:{}", "net.py:{}"])
    def test_class_factory_method_and_instance(
        self, write: Write, form: str, name: str, arguments: dict[str, object], parameters: int
    ) -> None:
        write("net.py", NET)
        assert resolve_target(form.format(name), arguments=arguments).parameters == parameters

    def test_an_instance_takes_no_arguments(self, write: Write) -> None:
        write("net.py", NET)
        with pytest.raises(UsageError, match="instance"):
            resolve_target("net.py:ready", arguments={"depth": 3})

    def test_a_file_takes_no_arguments(self, write: Write) -> None:
        write("weights.json", json.dumps({"schema": "ckptdoctor/manifest/1", "tensors": []}))
        with pytest.raises(UsageError, match="no arguments"):
            resolve_target("weights.json", arguments={"depth": 3})

    def test_what_is_no_model_is_named_by_its_type(self, write: Write) -> None:
        write("net.py", NET + "def give(): return 7\ndef give_class(): return Net\nempty = {'a': 1}\n")
        assert "int" in not_buildable("net.py:answer").message
        assert "int" in not_buildable("net.py:give").message
        assert "the class Net" in not_buildable("net.py:give_class").message
        assert "no tensors" in not_buildable("net.py:empty").message

    def test_a_package_file_has_its_relative_imports(self, write: Write) -> None:
        write("proj/__init__.py", "")
        write("proj/layers.py", "class Layer(nn.Linear): pass\n")
        write("proj/net.py", "from .layers import Layer\ndef make(): return Layer(2, 2)\n")
        assert resolve_target("proj/net.py:make").parameters == 6
        assert resolve_target("proj.net:make").parameters == 6

    def test_neighbours_of_a_file_are_its_own(self, write: Write) -> None:
        for folder, width in (("old", 2), ("new", 3)):
            write(f"{folder}/layers.py", f"WIDTH = {width}\n")
            write(f"{folder}/net.py", "from layers import WIDTH\ndef make(): return nn.Linear(WIDTH, 1, bias=False)\n")
            write(f"{folder}/pack/__init__.py", f"WIDTH = {width}\n")
            write(f"{folder}/pack/net.py", "from . import WIDTH\ndef make(): return nn.Linear(WIDTH, 1, bias=False)\n")
        for name in ("net.py", "pack/net.py"):
            assert resolve_target(f"old/{name}:make").parameters == 2
            assert resolve_target(f"new/{name}:make").parameters == 3

    def test_a_file_that_changed_is_read_anew(self, write: Write) -> None:
        for width in (2, 30):
            write("net.py", f"def make(): return nn.Linear({width}, 1, bias=False)\n")
            assert resolve_target("net.py:make").parameters == width

    def test_dataclasses_in_the_file_find_their_module(self, write: Write) -> None:
        write(
            "net.py",
            "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom typing import ClassVar\n"
            "import torch\nfrom torch import nn\n@dataclass\nclass Sizes:\n    kind: ClassVar[int] = 1\n    n: int = 2\n"
            "def make(): return nn.Linear(Sizes().n, 1)\n",
        )
        (Path("net.py")).write_text(Path("net.py").read_text().split("\n", 2)[2])
        assert resolve_target("net.py:make").parameters == 3

    def test_the_search_path_is_importable(self, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write("project/searched_net.py", NET)
        write("elsewhere/keep", "")
        monkeypatch.chdir(tmp_path / "elsewhere")
        with pytest.raises(TargetNotFound):
            resolve_target("searched_net:Net")
        assert resolve_target("searched_net:Net", search_path=tmp_path / "project").parameters == 40


class TestConfigs:
    def test_hydra_with_nested_targets_and_positional_arguments(self, write: Write) -> None:
        write(
            "pieces.py",
            "class Net(nn.Module):\n"
            "    def __init__(self, stem, act, blocks, opt, *, names):\n"
            "        super().__init__()\n"
            "        self.stem, self.blocks = stem, nn.ModuleList(blocks)\n"
            "        assert isinstance(act, nn.GELU) and names == {'a': [1, 2]} and callable(opt)\n"
            "        names.clear()\n"
            "        self.scale = nn.Parameter(torch.linspace(0, 1, 4) * torch.zeros(4))\n",
        )
        write(
            "model.yaml",
            """
_target_: pieces.Net
_args_: [{_target_: torch.nn.Linear, in_features: 2, out_features: 3}]
act: {_target_: torch.nn.GELU}
opt: {_target_: torch.optim.AdamW, _partial_: true, lr: 1e-3}
blocks:
  - {_target_: torch.nn.Linear, _args_: [3, 3], bias: false}
  - {_target_: torch.nn.LayerNorm, normalized_shape: 3}
names: {a: [1, 2]}
""",
        )
        manifest = resolve_target("model.yaml")
        assert manifest.parameters == 9 + 9 + 6 + 4
        assert manifest.origin.kind == "config"

    @pytest.mark.parametrize("suffix", ["yaml", "json"])
    @pytest.mark.parametrize("nested", [False, True], ids=["top", "model"])
    @pytest.mark.parametrize("style", ["hydra", "lightning"])
    def test_both_styles_at_both_places_in_both_languages(
        self, write: Write, suffix: str, nested: bool, style: str
    ) -> None:
        write("net.py", NET)
        settings: dict[str, object] = {"_target_": "net.Net", "depth": 1}
        if style == "lightning":
            settings = {"class_path": "net.Net", "init_args": {"depth": 1}}
        write(f"c.{suffix}", json.dumps({"seed_everything": 1, "model": settings} if nested else settings))
        assert resolve_target(f"c.{suffix}").parameters == 20
        assert resolve_target(f"c.{suffix}", arguments={"depth": 2}).parameters == 40
        assert resolve_target(None, config=f"c.{suffix}").parameters == 20

    def test_nested_class_paths(self, write: Write) -> None:
        write(
            "net.py",
            "class Lit(nn.Module):\n    def __init__(self, net):\n        super().__init__()\n        self.net = net\n",
        )
        inner = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 2, "out_features": 2}}
        write("c.json", json.dumps({"model": {"class_path": "net.Lit", "init_args": {"net": inner}}}))
        assert list(resolve_target("c.json")) == ["net.weight", "net.bias"]

    def test_keyword_arguments_for_a_class_named_elsewhere(self, write: Write) -> None:
        write("net.py", NET)
        write("sizes.yaml", "depth: 3\nwidth: 2\n")
        write("saved.yaml", "trainer: {max_epochs: 1}\nmodel: {depth: 3, width: 2}\n")
        write("same.yaml", "_target_: net.Net\ndepth: 3\nwidth: 2\n")
        write("empty.yaml", "")
        for config in ("sizes.yaml", "saved.yaml", "same.yaml"):
            assert resolve_target("net:Net", config=config).parameters == 18
        assert resolve_target("net:Net", config=Path("sizes.yaml"), arguments={"depth": 1}).parameters == 6
        assert resolve_target("net:Net", config="empty.yaml").parameters == 40

    def test_a_config_that_names_another_class(self, write: Write) -> None:
        write("net.py", NET)
        write("other.yaml", "_target_: torch.nn.Linear\n")
        write("list.yaml", "- 1\n")
        with pytest.raises(UsageError, match="both name a class"):
            resolve_target("net:Net", config="other.yaml")
        with pytest.raises(UsageError, match="list"):
            resolve_target("net:Net", config="list.yaml")
        with pytest.raises(UsageError):
            resolve_target(None)

    @pytest.mark.parametrize(
        ("text", "error", "told"),
        [
            ("a: [1\n", TargetNotBuildable, "line 2"),
            ("a: 1\n", TargetNotBuildable, "_target_"),
            ("ckptdoctor: 1\nrules: []\n", TargetNotBuildable, "--map"),
            ("_target_: torch.nn.Linaer\n", TargetNotFound, "did you mean Linear"),
            ("_target_: torch.nnn.Linear\n", TargetNotFound, "did you mean nn"),
            ("_target_: no_such_package.Net\n", TargetNotFound, "no_such_package"),
            (
                "_target_: torch.nn.Linear\nin_features: ${data.width}\nout_features: 1\n",
                TargetNotBuildable,
                "--resolve",
            ),
            ("_target_: torch.pi\n", TargetNotBuildable, "float"),
            (
                "_target_: torch.nn.Linear\nin_feature: 1\nout_features: 1\n",
                TargetNotBuildable,
                "did you mean in_features",
            ),
            ("!!python/object/apply:os.system [ls]\n", TargetNotBuildable, "python/object"),
            ("", TargetNotBuildable, "_target_"),
            ("class_path: torch.nn.Linear\ninit_args: [1, 2]\n", TargetNotBuildable, "init_args"),
            ("_target_: torch.nn.Linear\n_args_: 3\n", TargetNotBuildable, "_target_"),
        ],
    )
    def test_what_is_wrong_with_a_config_is_said(
        self, write: Write, text: str, error: type[TargetError], told: str
    ) -> None:
        write("c.yaml", text)
        with pytest.raises(error) as caught:
            resolve_target("c.yaml")
        assert told in f"{caught.value.message} {caught.value.hint}"

    def test_namespace_packages_are_walked(self, write: Write) -> None:
        write("src_ns/models/deep.py", NET)
        write("c.yaml", "_target_: src_ns.models.deep.Net.small\n")
        assert resolve_target("c.yaml").parameters == 12


class TestArguments:
    def test_values_are_yaml(self) -> None:
        given = ["depth=6", "name=x", "dims=[1, 2]", "rate=1e-5", "flag=true", "none=null", "empty=", "eq=a=b"]
        assert parse_target_args(given) == {
            "depth": 6,
            "name": "x",
            "dims": [1, 2],
            "rate": 1e-5,
            "flag": True,
            "none": None,
            "empty": None,
            "eq": "a=b",
        }

    @pytest.mark.parametrize("text", ["depth", "=6", "a b=6", "a.b=6", "dims=[1", "x={", "x=!!python/name:os.system"])
    def test_what_is_malformed_is_a_usage_error(self, text: str) -> None:
        with pytest.raises(UsageError) as caught:
            parse_target_args([text])
        assert caught.value.hint

    def test_twice_is_a_usage_error(self) -> None:
        with pytest.raises(UsageError, match="twice"):
            parse_target_args(["a=1", "a=2"])

    def test_an_unknown_argument_names_the_near_and_the_accepted(self, write: Write) -> None:
        write("net.py", NET)
        error = not_buildable("net.py:Net", dpeth=3)
        assert (error.hint or "").startswith("did you mean depth")
        assert (error.hint or "").endswith("? it takes depth, width, rate")
        assert "dpeth" in error.message
        assert "TypeError" in error.traceback

    def test_a_missing_argument_is_asked_for(self) -> None:
        error = not_buildable("torch.nn:Linear", in_features=2)
        assert (error.hint or "").startswith("give out_features; it takes in_features, out_features")

    def test_a_type_error_from_inside_is_no_matter_of_arguments(self, write: Write) -> None:
        write("net.py", "def make(depth=1): return 1 + 'a'\n")
        error = not_buildable("net.py:make")
        assert error.hint is None
        assert "net.py" in error.traceback


class TestHowItIsBuilt:
    def notes(self, write: Write, body: str) -> str:
        write("net.py", f"class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n{body}")
        return " ".join(resolve_target("net.py:Net").origin.notes)

    @pytest.mark.parametrize(
        "line",
        [
            "self.w = nn.Parameter(torch.rand(4, 4, device='cuda'))",
            "self.w = nn.Linear(4, 4, device='cuda')",
            "self.w = nn.Linear(4, 4).cuda()",
            "self.w = nn.Linear(4, 4).to('cuda', torch.float16)",
            "self.w = nn.Linear(4, 4).to(torch.device('cuda', 1))",
            "self.register_buffer('w', torch.arange(4, device='cuda'))",
            "self.w = nn.Parameter(torch.zeros(4, pin_memory=True).to(0))",
            "self.w = nn.Parameter(torch.randn(4, generator=torch.Generator().manual_seed(1)))",
            "self.w = nn.Parameter(torch.normal(0.0, 1.0, (4,)))",
            "self.w = nn.Parameter(torch.normal(torch.arange(4.0), 1.0))",
            "self.w = nn.Parameter(torch.empty(9).uniform_(-1, 1))",
            "self.w = nn.Parameter(torch.Tensor(4, 4)); nn.init.xavier_uniform_(self.w)",
            "self.w = nn.Parameter(torch.FloatTensor(4).uniform_())",
            "self.w = nn.Parameter(torch.zeros(4)); self.w.data.copy_(torch.arange(4.0))",
            "self.w = nn.Parameter(torch.zeros_like(torch.arange(4.0)))",
            "self.w = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))",
            "self.w = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))",
            "self.w = nn.MultiheadAttention(8, 2); self.v = nn.LSTM(4, 4)",
            "self.w = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2), 2)",
            "self.w = nn.Parameter(torch.tensor([1.0, 2.0])); assert self.w.sum().item() == 3",
            "self.w = nn.Linear(4, 4); self.load_state_dict(nn.Linear(4, 4).state_dict(prefix='w.'))",
            "with torch.device('meta'): self.w = nn.Linear(4, 4)",
            "self.register_buffer('w', torch.meshgrid(torch.arange(3), torch.arange(2), indexing='ij')[0])",
        ],
    )
    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_without_memory(self, write: Write, line: str) -> None:
        assert "real memory" not in self.notes(write, f"        {line}\n")

    @pytest.mark.parametrize(
        "line",
        [
            "self.w = nn.Parameter(torch.linspace(0, 1, 8) * torch.ones(8))",
            "self.w = nn.Linear(4, int(torch.randint(1, 9, (1,))))",
            "self.w = nn.Parameter(torch.ones(3)); assert self.w.sum() == 3",
            "w = torch.zeros(3); w[1] = 1; self.w = nn.Parameter(w); self.n = w.tolist()",
            "import numpy; self.w = nn.Parameter(torch.from_numpy(torch.ones(9).numpy()))",
            "self.w = nn.Parameter(torch.arange(8.).cuda() * torch.ones(8, device='cuda'))",
        ],
    )
    def test_tensor_by_tensor_where_values_are_looked_at(self, write: Write, line: str) -> None:
        assert "one tensor at a time" in self.notes(write, f"        {line}\n")

    def test_for_real_where_a_large_parameter_is_looked_at(self, write: Write) -> None:
        notes = self.notes(write, "        self.w = nn.Parameter(torch.ones(99, 99)); assert self.w.sum().item() > 1\n")
        assert notes.startswith("built in real memory: ")

    def test_the_fallback_gives_the_same_manifest(self, write: Write) -> None:
        body = (
            "class Net(nn.Sequential):\n    def __init__(self, look):\n"
            "        super().__init__(nn.Linear(99, 99), nn.BatchNorm1d(99), nn.Embedding(99, 99))\n"
            "        if look: torch.zeros(1).item()\n"
        )
        write("net.py", body)
        plain, looked = (resolve_target("net.py:Net", arguments={"look": look}) for look in (False, True))
        assert list(plain.values()) == list(looked.values())
        assert plain.origin.notes == ()
        assert looked.origin.notes != ()

    def test_constructors_see_fresh_arguments_each_time(self, write: Write) -> None:
        write(
            "net.py", "def make(sizes):\n    n = sizes.pop()\n    torch.zeros(1).item()\n    return nn.Linear(n, 1)\n"
        )
        assert resolve_target("net.py:make", arguments={"sizes": [5]}).parameters == 6

    def test_globals_are_put_back(self, write: Write) -> None:
        write(
            "net.py",
            "import sys, random, numpy\n"
            "def make():\n"
            "    torch.set_default_dtype(torch.float64); torch.manual_seed(1); random.seed(1); numpy.random.seed(1)\n"
            "    sys.path.insert(0, '/nowhere')\n"
            "    return nn.Linear(2, 2)\n",
        )
        before = torch.get_rng_state()
        assert resolve_target("net.py:make")["weight"].dtype.name == "float64"
        assert torch.get_default_dtype() is torch.float32
        assert torch.equal(before, torch.get_rng_state())
        assert "/nowhere" not in sys.path
        assert torch.zeros(1).device.type == "cpu"

    def test_what_user_code_prints_goes_to_stderr(self, write: Write, capsys: pytest.CaptureFixture[str]) -> None:
        write("net.py", "print('at import')\ndef make():\n    print('at call')\n    return nn.Linear(1, 1)\n")
        resolve_target("net.py:make")
        said = capsys.readouterr()
        assert said.out == ""
        assert "at import" in said.err
        assert "at call" in said.err

    def test_ten_billion_parameters_take_no_memory(self, write: Write) -> None:
        write(
            "big.py",
            "class Big(nn.Module):\n"
            "    def __init__(self, depth=50):\n"
            "        super().__init__()\n"
            "        self.rates = [x.item() for x in torch.linspace(0, 0.1, depth)]\n"
            "        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(4096, 32, 16384) for _ in range(depth))\n"
            "        self.legacy = nn.Parameter(torch.Tensor(8192, 8192)); nn.init.xavier_uniform_(self.legacy)\n",
        )
        manifest, seconds, megabytes = measured("big.py:Big")
        assert manifest > 10_000_000_000
        assert seconds < 1
        assert megabytes < 300

    def test_the_fallback_holds_one_module_at_a_time(self, write: Write) -> None:
        write(
            "big.py",
            "class Big(nn.Module):\n"
            "    def __init__(self):\n"
            "        super().__init__()\n"
            "        torch.zeros(1).item()\n"
            "        self.blocks = nn.ModuleList(nn.Linear(4096, 4096) for _ in range(20))\n",
        )
        parameters, _, megabytes = measured("big.py:Big")
        assert parameters * 4 > 1_300_000_000
        assert megabytes < 300


def measured(reference: str) -> tuple[int, float, float]:
    """Parameters, seconds, and megabytes above what importing torch takes, in a process of its own."""
    program = (
        "import json, resource, sys, time, torch\n"
        "from ckptdoctor.targets import resolve_target\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "before, start = peak(), time.perf_counter()\n"
        "manifest = resolve_target(sys.argv[1])\n"
        "print(json.dumps([manifest.parameters, time.perf_counter() - start, peak() - before]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, reference],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    parameters, seconds, megabytes = json.loads(done.stdout)
    return parameters, seconds, megabytes


class TestWhatIsSaidWhenItFails:
    def test_the_constructors_own_traceback(self, write: Write) -> None:
        write("net.py", "def inner():\n    raise ValueError('depth must\\nbe even')\ndef make(): inner()\n")
        error = not_buildable("net.py:make")
        assert error.message == "net.py:make: it cannot be built: ValueError: depth must"
        assert "ckptdoctor/" not in error.traceback
        first, second = [line for line in error.traceback.splitlines() if line.lstrip().startswith("File")]
        assert "in make" in first
        assert "in inner" in second
        assert error.traceback.rstrip().endswith("be even")

    def test_the_last_attempt_is_the_one_that_is_told(self, write: Write) -> None:
        write("net.py", "def make():\n    if torch.zeros(2).sum().item() == 0: raise KeyError('after looking')\n")
        assert "after looking" in not_buildable("net.py:make").message

    @pytest.mark.parametrize("place", ["import", "call"])
    def test_sys_exit_is_no_way_out(self, write: Write, place: str) -> None:
        body = "    raise SystemExit(3)\n"
        write("net.py", f"if True:\n{body}" if place == "import" else f"def make():\n{body}")
        assert "sys.exit(3)" in not_buildable("net.py:make").message

    @pytest.mark.parametrize("place", ["import", "call"])
    def test_an_interrupt_is_one(self, write: Write, place: str) -> None:
        body = "    raise KeyboardInterrupt\n"
        write("net.py", f"if True:\n{body}" if place == "import" else f"def make():\n{body}")
        with pytest.raises(KeyboardInterrupt):
            resolve_target("net.py:make")
        assert torch.zeros(1).device.type == "cpu"

    def test_a_syntax_error(self, write: Write) -> None:
        write("net.py", "def make(:\n")
        error = not_buildable("net.py:make")
        assert "SyntaxError" in error.message
        assert "def make(:" in error.traceback

    def test_an_import_that_is_missing_inside(self, write: Write) -> None:
        write("needs.py", "import no_such_thing_at_all\n")
        for reference in ("needs.py:Net", "needs:Net"):
            error = not_buildable(reference)
            assert "no_such_thing_at_all" in (error.hint or "")
            assert "needs.py" in error.traceback

    def test_a_state_dict_that_raises(self, write: Write) -> None:
        write("net.py", "class Net(nn.Module):\n    def state_dict(self, **_): raise ValueError('not now')\n")
        assert "not now" in not_buildable("net.py:Net").message

    @pytest.mark.parametrize(
        ("reference", "told"),
        [
            ("net:Nte", "did you mean net:Net?"),
            ("net.py:Nte", "did you mean net.py:Net?"),
            ("net.py:Net.smal", "did you mean net.py:Net.small?"),
            ("net.py:Unlike", "it defines Net, factory"),
            ("nett:Net", "did you mean net:Net"),
            ("pack.lyers:Net", "did you mean pack.layers:Net?"),
            ("pakc.layers:Net", "did you mean pack.layers:Net?"),
            ("nett.py:Net", "did you mean net.py"),
            ("pack/lyers.py:Net", "did you mean pack/layers.py"),
            ("nowhere/net.py:Net", "there is no folder nowhere"),
            ("net.py", "as in net.py:Net"),
            ("net.py:", "as in net.py:Net"),
            ("net.Net", "did you mean net:Net?"),
            ("pack", "pack:Name"),
            ("wieghts.ckpt", "did you mean weights.ckpt"),
            ("nothing-like-it.bin", "pkg.mod:Name"),
            ("modle.yaml", "did you mean model.yaml"),
            ("modle.json", "did you mean model.json"),
            ("", "a target is one of"),
        ],
    )
    def test_what_may_have_been_meant(self, write: Write, reference: str, told: str) -> None:
        write("net.py", NET)
        write("pack/__init__.py", "")
        write("pack/layers.py", NET)
        for name in ("weights.ckpt", "model.yaml", "model.json"):
            write(name, "{}")
        error = not_found(reference)
        assert told in f"{error.message} {error.hint}"

    def test_a_config_file_that_is_missing(self, write: Write) -> None:
        write("sizes.yaml", "depth: 1\n")
        with pytest.raises(TargetNotFound, match=r"no file size\.yaml") as caught:
            resolve_target("torch.nn:Linear", config="size.yaml")
        assert caught.value.hint == "did you mean sizes.yaml?"

    def test_without_torch(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        write("net.py", NET)
        program = (
            "import sys; sys.modules['torch'] = None\n"
            "from ckptdoctor.errors import MissingDependency\n"
            "from ckptdoctor.targets import resolve_target\n"
            "try: resolve_target('net.py:Net')\n"
            "except MissingDependency as error: print(error.hint)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)}
        )
        assert done.stdout.strip() == "pip install 'ckptdoctor[torch]'"
        assert issubclass(MissingDependency, CkptDoctorError)
