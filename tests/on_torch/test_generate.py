"""`generate()` of transformers for rows of many conditions at once: the tokens of one by one."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import hyperloom.torch as hl
from tests._support.on_torch import shaken

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers: Any = pytest.importorskip("transformers")

WORDS = 40
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
USUAL = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    **SPECIAL,
}
GROUPED = {**USUAL, "num_key_value_heads": 1}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "vocab_size": WORDS}
BART = {
    "d_model": 16,
    **{f"{half}_layers": 1 for half in ("encoder", "decoder")},
    **{f"{half}_attention_heads": 2 for half in ("encoder", "decoder")},
    **{f"{half}_ffn_dim": 24 for half in ("encoder", "decoder")},
}
# Model, configuration, its options, dtype. The experts of Mixtral know no float64.
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", GROUPED),
    "mistral": ("MistralForCausalLM", "MistralConfig", GROUPED),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {**GROUPED, "num_local_experts": 3}),
    "qwen": ("Qwen3ForCausalLM", "Qwen3Config", {**GROUPED, "head_dim": 8}),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", {**GROUPED, "head_dim": 8}),
    "phi": ("PhiForCausalLM", "PhiConfig", USUAL),
    "neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", USUAL),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {
            "n_embd": 16,
            "n_layer": 1,
            "n_head": 2,
            "vocab_size": WORDS,
            "n_positions": 32,
            **SPECIAL,
        },
    ),
    "opt": (
        "OPTForCausalLM",
        "OPTConfig",
        {**USUAL, "ffn_dim": 24, "word_embed_proj_dim": 16},
    ),
    "bloom": (
        "BloomForCausalLM",
        "BloomConfig",
        {"hidden_size": 16, "n_layer": 1, "n_head": 2, "vocab_size": WORDS, **SPECIAL},
    ),
    "mamba": ("MambaForCausalLM", "MambaConfig", {**USUAL, "state_size": 4}),
    "t5": ("T5ForConditionalGeneration", "T5Config", {**T5, "decoder_start_token_id": 0}),
    "bart": (
        "BartForConditionalGeneration",
        "BartConfig",
        {**BART, "vocab_size": WORDS, "max_position_embeddings": 32, **SPECIAL}
        | {"decoder_start_token_id": 2, "forced_eos_token_id": None},
    ),
}
CONDITIONS = torch.tensor([3, 1, 2])
INDEX = torch.tensor([1, 0, 2, 1])


def network(family: str, form: hl.LoRA | None = None) -> hl.HyperNetwork:
    kind, config, options = FAMILIES[family]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**options))
    model = model.float() if family == "mixtral" else model.double()
    named = [n for n, p in model.named_parameters() if p.ndim == 2 and min(p.shape) > 4]
    hnet = hl.HyperNetwork(
        model.eval(),
        condition=hl.Embedding(5, 4),
        layout=dict.fromkeys(named, hl.Full()),
        form=form or hl.LoRA(2),
    )
    return shaken(hnet, 0.2).eval()


def prompts() -> dict[str, Tensor]:
    """Prompts with padding on the left."""
    ids = torch.randint(3, WORDS, (4, 5))
    mask = torch.ones_like(ids)
    mask[0, :2] = mask[2, :1] = 0
    return {"input_ids": ids, "attention_mask": mask}


def of_row(values: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    return {name: value[row : row + 1] for name, value in values.items()}


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_tokens_are_those_of_one_by_one(family: str) -> None:
    hnet, given = network(family), prompts()
    plain: list[Any] = [hnet.instantiate(c) for c in CONDITIONS[INDEX]]
    length = {"max_new_tokens": 5, "min_new_tokens": 5}
    net = hnet.bind(CONDITIONS, rows=INDEX)
    greedy = net.generate(**given, **length, do_sample=False)
    options = {**length, "do_sample": False, "num_beams": 3, "num_return_sequences": 2}
    beams = net.generate(**given, **options)
    torch.manual_seed(5)
    drawn = net.generate(**given, **length, do_sample=True)
    for row, one in enumerate(plain):
        alone = of_row(given, row)
        assert torch.equal(greedy[row], one.generate(**alone, **length, do_sample=False)[0])
        assert torch.equal(beams[2 * row : 2 * row + 2], one.generate(**alone, **options))
        torch.manual_seed(5)  # a row draws by its place in the batch
        assert torch.equal(drawn[row], one.generate(**given, **length, do_sample=True)[row])
    assert {found.why for found in hnet._runner.memory.rows.values()} == {""}
    assert len({tuple(row.tolist()) for row in greedy}) > 1


@torch.no_grad()
def test_the_cache_of_a_call_is_given_back() -> None:
    hnet, given = network("llama"), prompts()
    net = hnet.bind(CONDITIONS, rows=INDEX)
    ids, mask = given["input_ids"], torch.ones_like(given["input_ids"])
    first = net(input_ids=ids[:, :3], attention_mask=mask[:, :3], use_cache=True)
    second = net(input_ids=ids[:, 3:], attention_mask=mask, past_key_values=first.past_key_values)
    whole = net(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(second.logits, whole[:, 3:], rtol=1e-9, atol=1e-9)
    y = hnet(input_ids=ids, attention_mask=mask, condition=CONDITIONS, rows=INDEX)
    torch.testing.assert_close(y.logits, whole, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_one_condition_and_a_batch_in_one_call() -> None:
    hnet, given = network("gpt2"), prompts()
    options: dict[str, Any] = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    one = hnet.bind(CONDITIONS[1]).generate(**given, **options)
    plain: Any = hnet.instantiate(CONDITIONS[1])
    assert torch.equal(one, plain.generate(**given, **options))
    called = hnet(**given, **options, condition=CONDITIONS[1], method="generate")
    assert torch.equal(called, one)
    every = hnet(**given, **options, condition=CONDITIONS, rows=INDEX, method="generate")
    assert torch.equal(every, hnet.bind(CONDITIONS, rows=INDEX).generate(**given, **options))


def test_gradients_of_a_language_model() -> None:
    hnet, given = network("llama"), prompts()

    def loss(run: Callable[..., Any], **options: Any) -> Tensor:
        logits = run(**given, **options, use_cache=False).logits[:, :-1]
        wanted = given["input_ids"][:, 1:]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())

    parameters = [p for n, p in hnet.named_parameters() if not n.startswith("bases")]
    ours = torch.autograd.grad(loss(hnet, condition=CONDITIONS, rows=INDEX), parameters)
    hnet.execution = hl.Execution(strategy="loop")
    theirs = torch.autograd.grad(loss(hnet, condition=CONDITIONS, rows=INDEX), parameters)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)
