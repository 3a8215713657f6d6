"""Adapters of language models: factors are not formed, whatever the call is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl
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
