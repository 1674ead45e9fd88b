"""`assert_loaded` where transformers loads: what `_init_weights` writes over (issue 46620 there), and the page's callback."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ckptdoctor
from ckptdoctor.errors import WeightsNotLoaded
from tests.flows.test_assert_loaded import remap, told

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "trainer.md"
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


@pytest.fixture
def start(tmp_path: Path, transformers: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a small Llama with tied embeddings, as remap writes it."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 50}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    torch.manual_seed(3)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads, tie_word_embeddings=True))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    model.save_pretrained(tmp_path / "base")
    monkeypatch.chdir(tmp_path)  # the page names "start"
    return remap(tmp_path / "base", str(tmp_path / "base"), tmp_path / "start")


@pytest.fixture
def callback(start: Path) -> Any:
    """The class on the page."""
    (block,) = [each for each in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "class " in each]
    names: dict[str, Any] = {}
    exec(compile(block, str(PAGE), "exec"), names)
    return names["LoadedWeights"]


def test_what_init_weights_writes_over_is_told(tmp_path: Path, transformers: Any) -> None:
    """The bias is new; so the whole layer is initialised after it was loaded, and `loading_info` does not say so."""

    class Config(transformers.PretrainedConfig):  # type: ignore[misc]
        model_type = "small"

    class Model(transformers.PreTrainedModel):  # type: ignore[misc]
        config_class = Config

        def __init__(self, config: Any, bias: bool = True) -> None:
            super().__init__(config)
            self.first, self.last = nn.Linear(4, 4, bias=bias), nn.Linear(4, 4)
            self.post_init()

        def _init_weights(self, module: nn.Module) -> None:
            if isinstance(module, nn.Linear):
                module.weight.data.normal_(0, 0.02)
                if module.bias is not None:
                    module.bias.data.zero_()

    base = Model(Config(), bias=False)
    nn.init.normal_(base.last.bias)
    base.save_pretrained(tmp_path / "base")
    torch.save(Model(Config()).state_dict(), tmp_path / "target.pt")
    (tmp_path / "map.yaml").write_text("ckptdoctor: 1\nfresh: [{keys: first.bias, why: new}]\n")
    out = remap(tmp_path / "base", str(tmp_path / "target.pt"), tmp_path / "start", "-m", str(tmp_path / "map.yaml"))
    model, said = Model.from_pretrained(out, output_loading_info=True)
    assert not said["unexpected_keys"] | said["mismatched_keys"]
    assert said["missing_keys"] == {"first.bias"}
    with pytest.raises(WeightsNotLoaded) as error:
        ckptdoctor.assert_loaded(model, out)
    assert told(error.value) == {"first.weight": "other values than in the file"}


class TestTheCallbackOfThePage:
    def start_of_training(self, transformers: Any, model: nn.Module, callback: Any, step: int = 0) -> None:
        """What the Trainer calls."""
        handler = transformers.trainer_callback.CallbackHandler([callback()], model, None, None, None)
        state = transformers.TrainerState(global_step=step)
        handler.on_train_begin(None, state, transformers.TrainerControl())

    def test_passes_and_tells(self, transformers: Any, callback: Any, capsys: pytest.CaptureFixture[str]) -> None:
        model = transformers.LlamaForCausalLM.from_pretrained("start")
        assert model.lm_head.weight is model.model.embed_tokens.weight
        self.start_of_training(transformers, model, callback)
        assert capsys.readouterr().out == "20 tensors in the model as written to start\n"
        with torch.no_grad():
            model.model.layers[1].mlp.up_proj.weight.mul_(2)
        with pytest.raises(WeightsNotLoaded) as error:
            self.start_of_training(transformers, model, callback)
        assert told(error.value) == {"model.layers.1.mlp.up_proj.weight": "other values than in the file"}
        self.start_of_training(transformers, model, callback, step=4)  # it goes on from its own checkpoint

    def test_a_model_of_the_backbone_alone(self, transformers: Any, start: Path) -> None:
        """The file has `model.layers...`, the model `layers...`, and the head is the embedding."""
        model = transformers.LlamaModel.from_pretrained(start)
        assert ckptdoctor.assert_loaded(model, start).tensors == 20

    def test_another_dtype_does_not_pass(self, transformers: Any, start: Path) -> None:
        model = transformers.LlamaForCausalLM.from_pretrained(start, dtype=torch.bfloat16)
        with pytest.raises(WeightsNotLoaded, match="float32 in the file, bfloat16 in the model") as error:
            ckptdoctor.assert_loaded(model, start)
        assert len(error.value.problems) == 20

    def test_in_a_real_trainer(self, transformers: Any, callback: Any, tmp_path: Path) -> None:
        data = [{"input_ids": torch.arange(8), "labels": torch.arange(8)} for _ in range(8)]

        def train(change: Callable[[nn.Module], Any], **more: Any) -> int:
            model = transformers.LlamaForCausalLM.from_pretrained("start")
            change(model)
            options = {"max_steps": 4, "save_steps": 2, "report_to": [], "use_cpu": True, "disable_tqdm": True}
            arguments = transformers.TrainingArguments(str(tmp_path / "out"), **options)
            run = transformers.Trainer(model, arguments, train_dataset=data, callbacks=[callback()])
            run.train(**more)
            return int(run.state.global_step)

        assert train(lambda model: None) == 4
        assert train(lambda model: None, resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2")) == 4
        with pytest.raises(WeightsNotLoaded):
            train(lambda model: nn.init.normal_(model.model.norm.weight))
