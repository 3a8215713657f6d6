"""Tiny models with random weights, by the families that adapters are made for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import Tensor, nn

VOCABULARY = 40
USUAL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
GROUPED = {**USUAL, "num_key_value_heads": 2, "head_dim": 4}


def tokens(num: int) -> dict[str, Tensor]:
    """Return inputs of a language model, `(num, 2, 6)`, the second row of each padded."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCABULARY, (num, 2, 6), generator=generator)
    mask = torch.ones(num, 2, 6, dtype=torch.int64)
    mask[:, 1, 4:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def pairs(num: int) -> dict[str, Tensor]:
    """Return inputs of an encoder and a decoder."""
    inputs = tokens(num)
    return {**inputs, "decoder_input_ids": inputs["input_ids"][..., :3]}


def images(num: int) -> dict[str, Tensor]:
    """Return images `(num, 2, 3, 8, 8)`."""
    generator = torch.Generator().manual_seed(1)
    return {"pixel_values": torch.randn(num, 2, 3, 8, 8, generator=generator)}


def spectra(num: int) -> dict[str, Tensor]:
    """Return log-mel spectra and what the decoder has written so far."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(num, 2, 8, 32, generator=generator)
    return {"input_features": features, "decoder_input_ids": tokens(num)["input_ids"][..., :3]}


@dataclass(frozen=True)
class Family:
    """A class of models, how one is made, what it is fed, and where LoRA goes."""

    model: str
    options: dict[str, Any]
    targets: Any
    inputs: Callable[[int], dict[str, Tensor]] = tokens
    more: dict[str, Any] = field(default_factory=dict)

    def make(self) -> nn.Module:
        """Make the model, in evaluation mode."""
        torch.manual_seed(0)
        cls = getattr(transformers, self.model)
        config = cls.config_class(**self.options)
        config._attn_implementation = "eager"
        return cls(config).eval()


ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
FAMILIES = {
    "llama": Family(
        "LlamaForCausalLM",
        GROUPED,
        "all-linear",
        more={
            "rank_pattern": {"q_proj": 3, "layers.1.mlp.up_proj": 1},
            "alpha_pattern": {"v_proj": 5},
        },
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM", GROUPED, r".*\.(q|v)_proj", more={"use_rslora": True, "r": 4}
    ),
    "gemma2": Family("Gemma2ForCausalLM", GROUPED, ATTENTION, more={"layers_to_transform": [1]}),
    "gemma3": Family("Gemma3ForCausalLM", GROUPED, ATTENTION),
    "mistral": Family(
        "MistralForCausalLM",
        GROUPED,
        ["q_proj", "embed_tokens"],
        more={"modules_to_save": ["norm"]},
    ),
    "phi3": Family("Phi3ForCausalLM", GROUPED, ["qkv_proj", "gate_up_proj", "down_proj"]),
    "gpt2": Family(
        "GPT2LMHeadModel",
        {
            "vocab_size": VOCABULARY,
            "n_embd": 16,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 32,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        ["c_attn", "c_proj", "c_fc"],
        more={"fan_in_fan_out": True},
    ),
    "t5": Family(
        "T5ForConditionalGeneration",
        {
            "vocab_size": VOCABULARY,
            "d_model": 16,
            "d_kv": 4,
            "d_ff": 24,
            "num_layers": 2,
            "num_heads": 4,
            "pad_token_id": 0,
            "decoder_start_token_id": 0,
        },
        ["q", "v", "wo"],
        pairs,
    ),
    "bert": Family("BertForSequenceClassification", USUAL, ["query", "value", "dense"]),
    "vit": Family(
        "ViTForImageClassification",
        {**USUAL, "image_size": 8, "patch_size": 4},
        ["q_proj", "v_proj", "projection"],
        images,
        {"modules_to_save": ["classifier"]},
    ),
    "whisper": Family(
        "WhisperForConditionalGeneration",
        {
            "vocab_size": VOCABULARY,
            "d_model": 16,
            "num_mel_bins": 8,
            "pad_token_id": 0,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 24,
            "decoder_ffn_dim": 24,
            "max_source_positions": 16,
            "max_target_positions": 8,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
        },
        ["q_proj", "v_proj", "fc1"],
        spectra,
    ),
    "mixtral": Family("MixtralForCausalLM", {**GROUPED, "num_local_experts": 3}, ATTENTION),
}
DORA = {"llama", "gpt2", "whisper", "vit"}
