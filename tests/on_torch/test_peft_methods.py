"""PEFT's other methods, and what stands for each here: equal in float64."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
import transformers
from torch import Tensor, nn

import hyperloom.torch as hl
from tests._support.on_torch import shaken
from tests.on_torch.peft_models import GROUPED

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.key, self.up = nn.Linear(5, 4), nn.Linear(4, 6, bias=False)
        self.norm, self.down = nn.LayerNorm(6), nn.Linear(6, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.norm(self.up(self.key(x))).tanh())


def block() -> nn.Module:
    torch.manual_seed(0)
    return Block().double()


def adapted_block(layout: Any, form: Any) -> hl.HyperNetwork:
    return shaken(hl.HyperNetwork(block(), condition=hl.Vector(3), layout=layout, form=form), 0.3)


X = torch.randn(7, 5, dtype=torch.float64)
CONDITION = torch.tensor([0.3, -1.0, 0.7], dtype=torch.float64)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("dora", [False, True])
def test_lora_and_dora(rslora: bool, dora: bool) -> None:
    config = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=["key", "down"], use_rslora=rslora, use_dora=dora
    )
    hnet = adapted_block(*hl.peft.choices(block(), config))
    theirs = peft.get_peft_model(block(), config)  # type: ignore[arg-type]
    loaded = peft.set_peft_model_state_dict(theirs, hl.peft.state_dict(hnet, CONDITION))
    assert not loaded.unexpected_keys
    torch.testing.assert_close(theirs(X), hnet(X, condition=CONDITION))


def test_ia3() -> None:
    form = {"up.weight": hl.Scale(), "down.weight": hl.Scale(inputs=True)}
    hnet = adapted_block(dict.fromkeys(form, hl.Full()), form)
    config = peft.IA3Config(target_modules=["up", "down"], feedforward_modules=["down"])
    theirs: Any = peft.get_peft_model(block(), config)  # type: ignore[arg-type]
    tensors, base = hnet.generate(CONDITION), dict(block().named_parameters())
    up, down = (tensors[name] / base[name] for name in form)
    with torch.no_grad():
        inner = theirs.base_model.model
        inner.up.ia3_l["default"].copy_(up[:, :1])
        inner.down.ia3_l["default"].copy_(down[:1])
    torch.testing.assert_close(theirs(X), hnet(X, condition=CONDITION))


def test_vera() -> None:
    model = block()
    config = peft.VeraConfig(r=3, target_modules=["key", "up"], save_projection=False)
    theirs: Any = peft.get_peft_model(block(), config)  # type: ignore[arg-type]
    vectors = {"key.d": (3,), "key.b": (4,), "up.d": (3,), "up.b": (6,)}
    scales = hl.HyperNetwork(hl.Shapes(vectors, torch.float64), condition=hl.Vector(3)).double()
    made = scales.generate(CONDITION)
    layers = theirs.base_model.model
    a, b = (layers.key.vera_A["default"].double(), layers.key.vera_B["default"].double())
    factors = {}
    for name, outputs, inputs in (("key", 4, 5), ("up", 6, 4)):
        d, scale = made[f"{name}.d"], made[f"{name}.b"]
        with torch.no_grad():
            layer = getattr(layers, name)
            layer.vera_lambda_d["default"].copy_(d)
            layer.vera_lambda_b["default"].copy_(scale)
        sides = d[:, None] * a[:, :inputs], scale[:, None] * b[:outputs]
        factors[f"{name}.weight"] = hl.Factors(*sides)
    runs = hl.HyperNetwork(
        model, condition=hl.Vector(3), layout=dict.fromkeys(factors, hl.Full()), form=hl.LoRA(3)
    )
    torch.testing.assert_close(runs.run(factors, X), theirs(X))


def test_norms_only() -> None:
    hnet = adapted_block({"norm.*": hl.Full()}, hl.Delta())
    theirs: Any = peft.get_peft_model(block(), peft.LNTuningConfig(target_modules=["norm"]))  # type: ignore[arg-type]
    with torch.no_grad():
        norm = theirs.base_model.model.norm.ln_tuning_layers["default"]
        for name, value in hnet.generate(CONDITION).items():
            getattr(norm, name.removeprefix("norm.")).copy_(value)
    torch.testing.assert_close(theirs(X), hnet(X, condition=CONDITION))


def test_biases_only() -> None:
    hnet = adapted_block({"*.bias": hl.Full()}, hl.Delta())
    model: Any = block()
    with torch.no_grad():
        for name, value in hnet.generate(CONDITION).items():
            model.get_parameter(name).copy_(value)
    torch.testing.assert_close(model(X), hnet(X, condition=CONDITION))


def llama() -> Any:
    torch.manual_seed(0)
    options: dict[str, Any] = {**GROUPED, "num_key_value_heads": 4}
    config = transformers.LlamaConfig(**options)
    return transformers.LlamaForCausalLM(config).double().eval()


IDS = torch.randint(3, 40, (2, 6))


def test_soft_prompts() -> None:
    prompts = hl.HyperNetwork(
        hl.Shapes({"prompt": (4, 16)}, torch.float64), condition=hl.Embedding(3, 4)
    )
    soft = prompts.double().generate(1)["prompt"]
    model = llama()
    words = model.get_input_embeddings()(IDS)
    ours = model(inputs_embeds=torch.cat([soft.expand(2, 4, 16), words], 1)).logits
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    theirs: Any = peft.get_peft_model(model, config)
    with torch.no_grad():
        theirs.prompt_encoder["default"].embedding.weight.data = soft.detach()
    got = theirs(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    torch.testing.assert_close(got, ours)


def test_prefixes() -> None:
    prefixes = hl.HyperNetwork(
        hl.Shapes({"prefix": (2, 2, 4, 4, 4)}, torch.float64), condition=hl.Embedding(3, 4)
    )
    prefix = prefixes.double().generate(1)["prefix"]  # layers, keys and values, heads, length
    model, cache = llama(), transformers.DynamicCache()
    for layer, pair in enumerate(prefix):
        key, value = pair.expand(2, 2, 4, 4, 4).unbind(1)
        cache.update(key, value, layer)
    ours = model(IDS, past_key_values=cache).logits
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    theirs: Any = peft.get_peft_model(model, config)
    with torch.no_grad():
        numbers = prefix.flatten(0, 1).permute(2, 0, 1, 3).reshape(4, -1)
        theirs.prompt_encoder["default"].embedding.weight.data = numbers.detach()
    got = theirs(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    torch.testing.assert_close(got, ours)
