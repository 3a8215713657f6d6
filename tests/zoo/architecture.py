"""What an architecture of the zoo is, its inputs, and options that many share."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")

VOCABULARY = 19
Inputs = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        kind: What it is, for the table.
        model: Name of the model's class in transformers.
        config: Name of its configuration's class.
        options: The configuration's arguments.
        inputs: Returns keyword inputs with the leading dimensions it is given.
        pattern: What is generated where only a part is.
        single: Why it is compared in float32; empty where float64 goes through.
        eval_only: Why it is not run in training mode; empty if it is.
        fast: Whether the default test suite runs it.
    """

    kind: str
    model: str
    config: str
    options: dict[str, Any]
    inputs: Inputs
    pattern: str = "*.bias"
    single: str = ""
    eval_only: str = ""
    fast: bool = False

    @property
    def name(self) -> str:
        return self.model

    def make(self) -> nn.Module:
        """Build the model, with random weights."""
        import transformers

        torch.manual_seed(0)
        config = getattr(transformers, self.config)(**self.options)
        config._experts_implementation = "eager"  # the grouped product has no float64
        return without_dropout(getattr(transformers, self.model)(config))


def tokens(*lead: int, dtype: torch.dtype) -> dict[str, Any]:
    return {"input_ids": torch.randint(3, VOCABULARY, (*lead, 2, 5))}


def pairs(*lead: int, dtype: torch.dtype) -> dict[str, Any]:
    """Return inputs of an encoder and of a decoder."""
    made = torch.randint(3, VOCABULARY, (*lead, 2, 9))
    return {"input_ids": made[..., :5], "decoder_input_ids": made[..., 5:]}


def pixels(size: int = 16, channels: int = 3) -> Inputs:
    return lambda *lead, dtype: {
        "pixel_values": torch.randn(*lead, 2, channels, size, size, dtype=dtype)
    }


def audio(*lead: int, dtype: torch.dtype) -> dict[str, Any]:
    return {"input_values": torch.randn(*lead, 2, 400, dtype=dtype)}


def captions(size: int = 16) -> Inputs:
    def make(*lead: int, dtype: torch.dtype) -> dict[str, Any]:
        return {**tokens(*lead, dtype=dtype), **pixels(size)(*lead, dtype=dtype)}

    return make


ENCODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 20,
    "pad_token_id": 0,
}
DECODER: dict[str, Any] = {
    **ENCODER,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "use_cache": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SEQ2SEQ: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 12,
    "decoder_ffn_dim": 12,
    "max_position_embeddings": 20,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
    "use_cache": False,
}
IMAGE: dict[str, Any] = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "image_size": 16,
    "patch_size": 8,
}
SPEECH: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "conv_dim": (4, 4),
    "conv_stride": (5, 4),
    "conv_kernel": (10, 4),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.0,
    "apply_spec_augment": False,
    "layerdrop": 0.0,
}


def without_dropout(model: nn.Module) -> nn.Module:
    """Set every rate of dropout to 0: a loop would draw other numbers than a batch does."""
    for module in model.modules():
        for key, value in vars(module).items():
            if isinstance(value, float) and ("drop" in key or isinstance(module, nn.Dropout)):
                setattr(module, key, 0.0)
    return model
