"""Adapters of language models: factors are not formed, whatever the call is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from hyperloom.torch._run.call import Call
from hyperloom.torch._run.route import route
from tests._support.compare import close

transformers: Any = pytest.importorskip("transformers")

NUM, LENGTH, SIZE = 3, 5, 40
IDS = torch.arange(NUM)


def llama() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=SIZE,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=0,
    )
    return transformers.LlamaForCausalLM(config).double()


def adapted(target: nn.Module, rank: int = 2) -> Any:
    """Return a hypernetwork of low-rank changes of all linear layers but the last, in eval mode."""
    named = [(n, m) for n, m in target.named_modules() if not n.endswith("lm_head")]
    names = [f"{n}.weight" for n, m in named if isinstance(m, nn.Linear)]
    layout, form = dict.fromkeys(names, hl.PerCondition()), dict.fromkeys(names, hl.LoRA(rank))
    hnet = hl.HyperNetwork(target, condition=hl.Embedding(NUM, 1), layout=layout, form=form)
    hnet.double()
    with torch.no_grad():
        for parameter in hnet.heads.parameters():
            parameter.normal_(std=0.3)
    return hnet.eval()


def padded() -> dict[str, Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(1, SIZE, (NUM, LENGTH))
    mask = (torch.arange(LENGTH) >= torch.arange(NUM)[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def apart(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.unsqueeze(1) for name, value in inputs.items()}


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_padded_batch_runs_at_once(use_cache: bool) -> None:
    hnet, inputs = adapted(llama()), apart(padded())
    output = hnet(**inputs, condition=IDS, use_cache=use_cache)
    told = hnet.explain(**inputs, condition=IDS, use_cache=use_cache)
    assert told.strategy == "rows"
    assert {use.choice for use in told.used} == {"factors"}
    hnet.execution = hl.Execution(strategy="loop")
    wanted = hnet(**inputs, condition=IDS, use_cache=use_cache)
    close(output.logits, wanted.logits)
    if not use_cache:
        assert output.past_key_values is None
        return
    caches, alone = output.past_key_values, wanted.past_key_values
    assert len(caches) == len(alone) == NUM
    for ours, theirs in zip(caches, alone, strict=True):
        for layer, other in zip(ours.layers, theirs.layers, strict=True):
            close(layer.keys, other.keys)
            close(layer.values, other.values)


def test_one_condition_is_applied_by_its_factors() -> None:
    hnet, inputs = adapted(llama()), padded()
    one = {name: value[1:2] for name, value in inputs.items()}
    output = hnet(**one, condition=1)
    told = hnet.explain(**one, condition=1)
    assert told.strategy == "single"
    assert {use.choice for use in told.used} == {"factors"}
    close(output.logits, hnet.instantiate(1).eval()(**one).logits)
    gradient = torch.autograd.grad(output.logits.square().sum(), hnet.heads.parameters())
    with torch.enable_grad():
        tensors = hnet.generate(1)
        formed = hnet.run(tensors, **one).logits
    close(gradient, torch.autograd.grad(formed.square().sum(), hnet.heads.parameters()))


def test_layers_that_store_inputs_first_are_applied_by_their_factors() -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=SIZE, n_embd=16, n_layer=2, n_head=2, n_positions=16,
        attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, pad_token_id=0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).double()
    names = [f"{n}.weight" for n, m in model.named_modules() if type(m).__name__ == "Conv1D"]
    layout, form = dict.fromkeys(names, hl.PerCondition()), dict.fromkeys(names, hl.LoRA(2))
    hnet: Any = hl.HyperNetwork(model, condition=hl.Embedding(NUM, 1), layout=layout, form=form)
    hnet.double().eval()
    with torch.no_grad():
        for parameter in hnet.heads.parameters():
            parameter.normal_(std=0.3)
    inputs = padded()
    for strategy, condition, given in (
        ("single", 1, {name: value[1:2] for name, value in inputs.items()}),
        ("rows", IDS, apart(inputs)),
        ("loop", IDS, apart(inputs)),
    ):
        hnet.execution = hl.Execution(strategy="loop" if strategy == "loop" else "auto")
        told = hnet.explain(**given, condition=condition)
        assert told.strategy == strategy
        assert {use.choice for use in told.used} == {"factors"}
    one = {name: value[1:2] for name, value in inputs.items()}
    logits = hnet(**one, condition=1).logits
    close(logits, hnet.instantiate(1).eval()(**one).logits)
    gradient = torch.autograd.grad(logits.square().sum(), hnet.heads.parameters())
    formed = hnet.run(hnet.generate(1), **one).logits
    close(gradient, torch.autograd.grad(formed.square().sum(), hnet.heads.parameters()))


def test_the_loop_forms_no_factors() -> None:
    hnet, inputs = adapted(llama()), apart(padded())
    wanted = hnet(**inputs, condition=IDS).logits
    hnet.execution = hl.Execution(strategy="loop")
    told = hnet.explain(**inputs, condition=IDS)
    assert {use.choice for use in told.used} == {"factors"}
    close(hnet(**inputs, condition=IDS).logits, wanted)


class Scripted(nn.Module):
    """It uses its weight where no override reaches, after it has drawn and counted."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        noise = torch.rand(())
        return torch.ops.aten.linear(x, self.layer.weight, self.layer.bias) + noise + self.calls


def test_a_target_that_needs_tensors_gets_them_and_leaves_no_trace_of_the_try() -> None:
    target = Scripted().double()
    hnet, x = adapted(target), torch.randn(4, 3, dtype=torch.float64)
    weight = hnet.generate(1)["layer.weight"]
    for calls in (1, 2):
        torch.manual_seed(0)
        noise = torch.rand(())
        torch.manual_seed(0)
        y = hnet(x, condition=1)
        close(y, x @ weight.mT + target.layer.bias + noise + calls)


def test_a_base_that_checkpoints_activations_runs_at_once() -> None:
    target = llama()
    enable = getattr(
        target, "activation_checkpointing_enable", target.gradient_checkpointing_enable
    )
    enable({"use_reentrant": False})
    hnet, inputs = adapted(target), apart(padded())
    hnet.train()
    assert hnet.explain(**inputs, condition=IDS, use_cache=False).strategy == "rows"
    found = []
    for strategy in ("auto", "loop"):
        hnet.execution = hl.Execution(strategy=strategy)
        logits = hnet(**inputs, condition=IDS, use_cache=False).logits
        found.append(torch.autograd.grad(logits.square().sum(), hnet.heads.parameters()))
    close(*found)


def test_max_memory_counts_factors() -> None:
    hnet, inputs = adapted(llama()), apart(padded())
    wanted = hnet(**inputs, condition=IDS).logits
    numbers = hnet.plan.num_generated * 8
    assert numbers < hnet.plan.output_bytes(1, 8)
    for memory, parts in ((NUM * numbers, 1), (2 * numbers, 2), (1, 3)):
        hnet.execution = hl.Execution(max_memory=memory)
        close(hnet(**inputs, condition=IDS).logits, wanted)
        assert route_of(hnet, inputs).size == (None if parts == 1 else max(1, memory // numbers))


def route_of(hnet: Any, inputs: dict[str, Tensor]) -> Any:
    """Return the way of a call of all conditions."""
    call = Call(torch.Size([NUM]), (), inputs)
    return route(hnet, hnet._runner, hnet.encode(IDS), call)
