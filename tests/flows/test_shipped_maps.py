"""The maps for other packages, against those packages: their own conversions where they have one, else outputs.

Random weights, small models, no downloads. Every remap goes through the command line, policy included. Compared with
transformers 5.23.0 and torch 2.13.0; timm is no dev dependency (it needs a torchvision built for the same torch), so
that its models are compared only where it is installed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ckptdoctor.cli import main
from tests.flows import shipped_models

MAPPINGS = Path(__file__).parents[2] / "mappings"
State: TypeAlias = dict[str, torch.Tensor]
Remap: TypeAlias = Callable[..., State]


@pytest.fixture
def remap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Remap:
    """`ckptdoctor remap SOURCE [TARGET] -m MAP ... -o OUT`: what was written. Files have the weights of states."""
    numbers = iter(range(1000))

    def run(source: State | Path, maps: str | Path | Sequence[str], target: State | None = None, *more: str) -> State:
        folder = tmp_path / f"remap{next(numbers)}"
        folder.mkdir()
        if not isinstance(source, Path):
            torch.save(source, folder / "source.pt")
            source = folder / "source.pt"
        words = ["ckptdoctor", "remap", str(source)]
        if target is not None:
            torch.save(target, folder / "target.pt")
            words.append(str(folder / "target.pt"))
        for each in [maps] if isinstance(maps, str | Path) else maps:
            words += ["--map", str(MAPPINGS / each)]
        out = folder / f"out{source.suffix}"
        monkeypatch.setattr(sys, "argv", [*words, *more, "-q", "-o", str(out)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return load_file(out) if out.suffix == ".safetensors" else torch.load(out, weights_only=True)

    return run


def random_weights(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter drawn anew, norms and biases too: none is equal to another, or of no effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return module.eval()


def assert_equal(made: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    """The same keys, and the same bits."""
    assert sorted(made) == sorted(wanted)
    for key, tensor in wanted.items():
        assert made[key].dtype == tensor.dtype
        assert torch.equal(made[key], tensor), key


def test_every_shipped_map_is_in_the_readme_and_in_a_test() -> None:
    tests = "".join(Path(__file__).with_name(name).read_text() for name in ("test_mappings.py", "test_shipped_maps.py"))
    readme = (MAPPINGS / "README.md").read_text()
    names = [path.name for path in MAPPINGS.glob("*.yaml")]
    assert [name for name in names if f'"{name}"' not in tests] == []
    assert [name for name in names if f"`{name}`" not in readme] == []


# Llama


def llama(transformers: Any, layers: int, heads: int, groups: int, head: int) -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=40,
        hidden_size=heads * head,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        intermediate_size=48,
    )
    return random_weights(transformers.LlamaForCausalLM(config))


def for_heads_of(size: int, name: str, folder: Path) -> Path:
    """The map with the one number changed that its comment says to change."""
    text = (MAPPINGS / name).read_text()
    assert text.count("sizes: {d: 64,") == 1
    path = folder / f"{size}-{name}"
    path.write_text(text.replace("sizes: {d: 64,", f"sizes: {{d: {size // 2},"))
    return path


LLAMAS = [(1, 2, 2, 128), (3, 4, 1, 128), (2, 4, 2, 64)]


@pytest.mark.parametrize(("layers", "heads", "groups", "head"), LLAMAS)
def test_llama_computes_with_metas_weights_what_it_computed_with_those_of_transformers(
    layers: int, heads: int, groups: int, head: int, transformers: Any, remap: Remap, tmp_path: Path
) -> None:
    """Logits in float32, within 1e-4 of the largest: RoPE on complex pairs, against LlamaForCausalLM."""
    model = llama(transformers, layers, heads, groups, head)
    meta = remap(model.state_dict(), for_heads_of(head, "llama-hf-to-meta.yaml", tmp_path))
    tokens = torch.randint(40, (2, 9), generator=torch.Generator().manual_seed(1))
    theta = model.config.rope_parameters["rope_theta"]
    with torch.no_grad():
        wanted = model(tokens).logits
        logits = shipped_models.meta_llama_logits(meta, tokens, head=head, eps=model.config.rms_norm_eps, theta=theta)
    assert wanted.abs().max() > 1
    torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize(("layers", "heads", "groups", "head"), LLAMAS)
def test_llama_from_meta_is_bit_for_bit_what_was_sent_to_meta(
    layers: int, heads: int, groups: int, head: int, transformers: Any, remap: Remap, tmp_path: Path
) -> None:
    state = llama(transformers, layers, heads, groups, head).state_dict()
    to_meta, to_hf = (for_heads_of(head, f"llama-{way}.yaml", tmp_path) for way in ("hf-to-meta", "meta-to-hf"))
    meta = remap(state, to_meta)
    assert_equal(remap(meta | {"rope.freqs": torch.ones(head // 2)}, to_hf, state), state)
    assert_equal(remap(remap(meta, to_hf), to_meta, meta), meta)


@pytest.mark.parametrize("heads", [1, 2, 6])
def test_llama_reorders_rows_as_the_rope_conversion_of_transformers(
    heads: int, transformers: Any, remap: Remap
) -> None:
    """Bit for bit `PermuteForRope` of transformers, for queries and for keys."""
    from transformers.core_model_loading import PermuteForRope

    query, key = torch.randn(128 * heads, 24), torch.randn(128, 24)
    made = remap(
        {
            "layers.0.attention.wq.weight": query,
            "layers.0.attention.wk.weight": key,
            "layers.0.attention.wv.weight": key,
            "layers.0.feed_forward.w1.weight": key,
            "layers.0.ffn_norm.weight": key[0],
            "norm.weight": key[0],
            "tok_embeddings.weight": key,
        },
        "llama-meta-to-hf.yaml",
    )
    for name, count, weight in (("q_proj", heads, query), ("k_proj", 1, key)):
        config = transformers.LlamaConfig(num_attention_heads=count, hidden_size=128 * count)
        wanted = PermuteForRope().convert({"w": weight}, ["w"], ["w"], config)["w"]
        assert torch.equal(made[f"model.layers.0.self_attn.{name}.weight"], wanted)


def test_llama_with_a_tied_head_goes_both_ways_without_it(transformers: Any, remap: Remap) -> None:
    state = llama(transformers, 1, 2, 2, 128).state_dict()
    del state["lm_head.weight"]
    meta = remap(state, "llama-hf-to-meta.yaml")
    assert "output.weight" not in meta
    assert_equal(remap(meta, "llama-meta-to-hf.yaml", state), state)


# GPT-2


def with_linears(model: nn.Module) -> nn.Module:
    """The model with an nn.Linear for each Conv1D, its weights left as they come."""
    from transformers.pytorch_utils import Conv1D

    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Conv1D):
                setattr(module, name, nn.Linear(*child.weight.shape, dtype=child.weight.dtype))
    return model


@pytest.mark.parametrize(("layers", "width", "cross"), [(1, 8, False), (3, 24, False), (2, 16, True)])
def test_gpt2_computes_the_same_with_linears_and_comes_back_bit_for_bit(
    layers: int, width: int, cross: bool, transformers: Any, remap: Remap
) -> None:
    """Logits in float64, within 1e-10: GPT2LMHeadModel with nn.Linear in place of Conv1D."""
    config = transformers.GPT2Config(
        vocab_size=40, n_embd=width, n_layer=layers, n_head=4, n_positions=16, add_cross_attention=cross
    )
    model = random_weights(transformers.GPT2LMHeadModel(config)).double()
    linear = with_linears(transformers.GPT2LMHeadModel(config).double()).eval()
    made = remap(model.state_dict(), "gpt2-conv1d-linear.yaml", linear.state_dict())
    linear.load_state_dict(made)
    inputs = {"input_ids": torch.arange(12).reshape(2, 6)}
    if cross:
        inputs["encoder_hidden_states"] = torch.randn(2, 5, width, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(linear(**inputs).logits, model(**inputs).logits, rtol=0, atol=1e-10)
    assert_equal(remap(made, "gpt2-conv1d-linear.yaml", model.state_dict()), model.state_dict())


def test_gpt2_without_a_head_is_served_too(transformers: Any, remap: Remap) -> None:
    config = transformers.GPT2Config(vocab_size=40, n_embd=8, n_layer=2, n_head=2, n_positions=16)
    state = random_weights(transformers.GPT2Model(config)).state_dict()
    made = remap(state, "gpt2-conv1d-linear.yaml")
    transposed = {
        key: tensor.t() if ".c_" in key and key.endswith("weight") else tensor for key, tensor in state.items()
    }
    assert_equal(made, transposed)


# BERT


def bert(transformers: Any, layers: int = 2, width: int = 16, kind: str = "BertModel") -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=3 * width,
        max_position_embeddings=20,
    )
    return random_weights(getattr(transformers, kind)(config))


def with_gamma(state: State) -> State:
    """As BERT's checkpoints were in 2018."""
    return {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor.clone()
        for key, tensor in state.items()
    }


@pytest.mark.parametrize(("kind", "layers"), [("BertModel", 1), ("BertForMaskedLM", 3)])
def test_bert_with_gamma_and_beta_becomes_what_transformers_loads(
    kind: str, layers: int, transformers: Any, remap: Remap, tmp_path: Path
) -> None:
    """Bit for bit what `from_pretrained` of transformers makes of the same file."""
    model = bert(transformers, layers, kind=kind)
    model.config.save_pretrained(tmp_path / "old")
    save_file(with_gamma(model.state_dict()), tmp_path / "old" / "model.safetensors", {"format": "pt"})
    loaded, info = type(model).from_pretrained(tmp_path / "old", output_loading_info=True)
    assert not info["missing_keys"]
    made = remap(tmp_path / "old" / "model.safetensors", "bert-gamma-beta.yaml", loaded.state_dict())
    assert_equal(made, loaded.state_dict())


class WithTorchEncoder(nn.Module):
    """The embeddings and the pooler of a BertModel around an encoder of torch."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        size = model.config
        layer = nn.TransformerEncoderLayer(
            size.hidden_size,
            size.num_attention_heads,
            size.intermediate_size,
            activation="gelu",
            layer_norm_eps=size.layer_norm_eps,
            batch_first=True,
        )
        self.embeddings, self.pooler = type(model.embeddings)(size), type(model.pooler)(size)
        self.encoder = nn.TransformerEncoder(layer, size.num_hidden_layers, enable_nested_tensor=False)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.encoder(self.embeddings(tokens), src_key_padding_mask=mask == 0)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(("layers", "width"), [(1, 8), (3, 24)])
def test_bert_computes_the_same_with_the_encoder_of_torch(
    layers: int, width: int, old: bool, transformers: Any, remap: Remap
) -> None:
    """Hidden states in float64, within 1e-10, with padding; `old` with gamma and beta, through two maps."""
    model = bert(transformers, layers, width).double()
    module = WithTorchEncoder(model).double().eval()
    maps = [*(["bert-gamma-beta.yaml"] if old else []), "bert-to-torch-encoder.yaml"]
    source = with_gamma(model.state_dict()) if old else model.state_dict()
    module.load_state_dict(remap(source, maps, module.state_dict()))
    tokens = torch.arange(14).reshape(2, 7)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    with torch.no_grad():
        wanted = model(tokens, attention_mask=mask).last_hidden_state
        made = module(tokens, mask)
    torch.testing.assert_close(made[mask == 1], wanted[mask == 1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["BertModel", "BertForMaskedLM"])
def test_bert_comes_back_from_the_encoder_of_torch_bit_for_bit(kind: str, transformers: Any, remap: Remap) -> None:
    state = bert(transformers, kind=kind).state_dict()
    made = remap(state, "bert-to-torch-encoder.yaml")
    assert not any(".layer." in key for key in made)
    assert_equal(remap(made, "bert-from-torch-encoder.yaml", state), state)
    assert_equal(remap(made, "bert-from-torch-encoder.yaml"), state)


# ViT


def written_vit(classes: int, **size: int) -> nn.Module:
    return shipped_models.TimmViT(classes=classes, **size)


def timm_vit(classes: int, *, width: int, depth: int, heads: int, image: int, patch: int) -> nn.Module:
    timm = pytest.importorskip("timm", exc_type=Exception)
    model: nn.Module = timm.models.vision_transformer.VisionTransformer(
        img_size=image, patch_size=patch, embed_dim=width, depth=depth, num_heads=heads, num_classes=classes
    )
    return model


def hf_vit(transformers: Any, classes: int, *, width: int, depth: int, heads: int, image: int, patch: int) -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        image_size=image,
        patch_size=patch,
        layer_norm_eps=1e-6,
        num_labels=classes or 2,
    )
    if classes:
        return transformers.ViTForImageClassification(config).eval()
    return transformers.ViTModel(config, add_pooling_layer=False).eval()


VITS = [
    {"width": 8, "depth": 1, "heads": 2, "image": 8, "patch": 4},
    {"width": 24, "depth": 3, "heads": 3, "image": 12, "patch": 4},
]


@pytest.mark.parametrize("size", VITS)
@pytest.mark.parametrize("build", [written_vit, timm_vit])
def test_vit_of_timm_computes_the_same_in_transformers(
    build: Callable[..., nn.Module], size: dict[str, int], transformers: Any, remap: Remap
) -> None:
    """Logits, and hidden states of the bare model, in float64, within 1e-10, against ViT of transformers."""
    images = torch.randn(2, 3, size["image"], size["image"], dtype=torch.float64)
    timm = random_weights(build(5, **size)).double()
    whole, bare = (hf_vit(transformers, classes, **size).double() for classes in (5, 0))
    whole.load_state_dict(remap(timm.state_dict(), "vit-timm-to-hf.yaml", whole.state_dict()))
    bare.load_state_dict(remap(timm.state_dict(), "vit-timm-to-hf-backbone.yaml", bare.state_dict()))
    with torch.no_grad():
        torch.testing.assert_close(whole(images).logits, timm(images), rtol=0, atol=1e-10)
        hidden = bare(images).last_hidden_state
        torch.testing.assert_close(hidden, timm.forward_features(images), rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", VITS)
@pytest.mark.parametrize("classes", [5, 0])
def test_vit_comes_back_to_timm_bit_for_bit_in_both_spellings_of_transformers(
    classes: int, size: dict[str, int], transformers: Any, remap: Remap, tmp_path: Path
) -> None:
    """The spelling of modules, and that of files, which `save_pretrained` of transformers writes by its own table."""
    there, back = (
        ("vit-timm-to-hf.yaml", "vit-hf-to-timm.yaml")
        if classes
        else ("vit-timm-to-hf-backbone.yaml", "vit-hf-backbone-to-timm.yaml")
    )
    state = random_weights(written_vit(classes, **size)).state_dict()
    made = remap(state, there)
    assert_equal(remap(made, back, state), state)
    model = hf_vit(transformers, classes, **size)
    model.load_state_dict(made)
    model.save_pretrained(tmp_path / "saved")
    assert any("attention.query" in key for key in load_file(tmp_path / "saved" / "model.safetensors"))
    assert_equal(remap(tmp_path / "saved" / "model.safetensors", back, state), state)


def test_vit_of_timm_is_read_by_from_pretrained(transformers: Any, remap: Remap, tmp_path: Path) -> None:
    made = remap(random_weights(written_vit(5, **VITS[0])).state_dict(), "vit-timm-to-hf.yaml")
    model = hf_vit(transformers, 5, **VITS[0])
    model.config.save_pretrained(tmp_path / "new")
    save_file(made, tmp_path / "new" / "model.safetensors", {"format": "pt"})
    assert_equal(type(model).from_pretrained(tmp_path / "new").state_dict(), made)


# Mixtures of experts


def mixtral(transformers: Any, layers: int, experts: int) -> nn.Module:
    config = transformers.MixtralConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=24,
        num_local_experts=experts,
    )
    return random_weights(transformers.MixtralForCausalLM(config))


def qwen2_moe(transformers: Any, layers: int, experts: int) -> nn.Module:
    config = transformers.Qwen2MoeConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=24,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=12,
        num_experts=experts,
        mlp_only_layers=[0] if layers > 1 else [],
    )
    return random_weights(transformers.Qwen2MoeForCausalLM(config))


@pytest.mark.parametrize(("layers", "experts"), [(1, 2), (2, 11)])
@pytest.mark.parametrize(
    ("build", "stack", "unstack"),
    [
        (mixtral, "mixtral-experts-to-stacked.yaml", "mixtral-experts-from-stacked.yaml"),
        (qwen2_moe, "qwen-moe-experts-to-stacked.yaml", "qwen-moe-experts-from-stacked.yaml"),
    ],
)
def test_experts_are_stacked_and_parted_as_transformers_does_on_load_and_save(
    build: Callable[..., nn.Module],
    stack: str,
    unstack: str,
    layers: int,
    experts: int,
    transformers: Any,
    remap: Remap,
    tmp_path: Path,
) -> None:
    """Bit for bit: `save_pretrained` of transformers parts the experts, `from_pretrained` stacks them."""
    model = build(transformers, layers, experts)
    model.save_pretrained(tmp_path / "saved")
    file = tmp_path / "saved" / "model.safetensors"
    published = load_file(file)
    assert any(f"experts.{experts - 1}." in key for key in published)
    loaded = type(model).from_pretrained(tmp_path / "saved").state_dict()
    assert_equal(remap(file, stack, loaded), loaded)
    assert_equal(remap(file, stack), loaded)
    assert_equal(remap(dict(loaded), unstack, published), published)
    assert_equal(remap(dict(loaded), unstack), published)


def test_a_missing_expert_is_an_error(transformers: Any, remap: Remap, tmp_path: Path, capsys: Any) -> None:
    mixtral(transformers, 1, 3).save_pretrained(tmp_path / "saved")
    published = load_file(tmp_path / "saved" / "model.safetensors")
    del published["model.layers.0.block_sparse_moe.experts.1.w3.weight"]
    with pytest.raises(AssertionError):
        remap(published, "mixtral-experts-to-stacked.yaml")
    assert "no model.layers.0.block_sparse_moe.experts.1.w3.weight" in " ".join(capsys.readouterr().err.split())


# Weight norm


def normalised(norm: Callable[..., Any]) -> nn.Module:
    """Layers of several kinds, two deep, normalised along several dimensions."""
    recurrent = nn.LSTM(4, 4)
    for name in ("weight_ih_l0", "weight_hh_l0"):
        norm(recurrent, name)
    convolutions = nn.Sequential(norm(nn.ConvTranspose1d(3, 4, 3), dim=1), norm(nn.Conv2d(4, 2, 3)))
    return nn.ModuleDict({"conv": convolutions, "linear": norm(nn.Linear(4, 6)), "recurrent": recurrent})


@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
def test_old_weight_norm_becomes_what_the_load_hook_of_torch_makes_of_it(remap: Remap) -> None:
    """Bit for bit `parametrizations.weight_norm`, whose hook takes old checkpoints on load; and back."""
    old = random_weights(normalised(nn.utils.weight_norm)).state_dict()
    new = normalised(nn.utils.parametrizations.weight_norm)
    new.load_state_dict(old)
    made = remap(old, "weight-norm-to-parametrizations.yaml", new.state_dict())
    assert_equal(made, new.state_dict())
    assert_equal(remap(made, "weight-norm-from-parametrizations.yaml", old), old)


# ClimaX


@pytest.mark.parametrize(("variables", "width", "patch"), [(2, 8, 2), (12, 6, 4)])
def test_climax_computes_the_same_with_one_tensor_for_all_variables(
    variables: int, width: int, patch: int, remap: Remap
) -> None:
    """Tokens in float64, within 1e-12: a convolution for each variable against a grouped one; back bit for bit."""
    single = random_weights(shipped_models.VariableEmbeds(variables, width, patch)).double()
    stacked = shipped_models.ParallelEmbeds(variables, width, patch).double()
    made = remap(single.state_dict(), "climax-variables-to-stacked.yaml", stacked.state_dict())
    stacked.load_state_dict(made)
    fields = torch.randn(2, variables, 8, 16, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(stacked(fields), single(fields), rtol=0, atol=1e-12)
    for target in (None, single.state_dict()):
        assert_equal(remap(made, "climax-stacked-to-variables.yaml", target), single.state_dict())
