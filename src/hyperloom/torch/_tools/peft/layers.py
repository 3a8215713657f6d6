"""What PEFT and hyperloom call the same thing: layers, their tensors, and keys of adapters."""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor, nn

from hyperloom._core.backend.factors import as_matrix
from hyperloom._core.errors import message
from hyperloom._core.target.spec import TensorSpec

PREFIX = "base_model.model."
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
MAGNITUDE = "lora_magnitude_vector"


def need(name: str) -> Any:
    """Return PEFT's module of a name.

    Raises:
        ModuleNotFoundError: PEFT is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != "peft":
            raise
        way_out = "Install it: pip install 'hyperloom[peft]'."
        got = message("hyperloom.torch.peft", "no package peft", "PEFT", way_out)
        raise ModuleNotFoundError(got, name="peft") from error


def kind_of(module: nn.Module) -> str:
    """Return what a layer is to LoRA: `linear`, `transposed`, `embedding`, `conv`, or `""`."""
    if isinstance(module, nn.Embedding):
        return "embedding"
    if isinstance(module, nn.Linear):
        return "linear"
    if type(module).__name__ == "Conv1D" and not isinstance(module, nn.Conv1d):
        return "transposed"  # GPT-2's linear layer, whose weight is (inputs, outputs)
    if isinstance(module, _CONVOLUTIONS) and module.groups == 1:
        return "conv"
    return ""


def pair_keys(kind: str) -> tuple[str, str]:
    """Return the ends of the keys of A and B."""
    if kind == "embedding":
        return "lora_embedding_A", "lora_embedding_B"
    return "lora_A.weight", "lora_B.weight"


def to_peft(u: Tensor, v: Tensor, kind: str, tensor: TensorSpec) -> tuple[Tensor, Tensor]:
    """Return A and B of one condition as PEFT holds them.

    Args:
        u: `(rows, rank)` of the tensor as it is stored.
        v: `(rank, columns)`.
        kind: Of the layer.
        tensor: Its weight.
    """
    if kind in ("embedding", "transposed"):
        return u.mT, v.mT
    if kind == "conv":
        kernel = tensor.shape[2:]
        return v.reshape(-1, *tensor.shape[1:]), u.reshape(*u.shape, *(1,) * len(kernel))
    return v, u


def from_peft(a: Tensor, b: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Return `U` and `V`; see `to_peft`."""
    if kind in ("embedding", "transposed"):
        return a.mT, b.mT
    if kind == "conv":
        return b.reshape(b.shape[:2]), a.flatten(1)
    return b, a


def sizes_of(kind: str, tensor: TensorSpec) -> tuple[int, int]:
    """Return the outputs and inputs of a layer."""
    if kind == "transposed":
        return tensor.shape[1], tensor.shape[0]
    return as_matrix(tensor)


def refuse_lengths(argument: str, kind: str, tensor: TensorSpec) -> None:
    """Raise for DoRA on a tensor whose outputs are not where PEFT takes lengths."""
    axis = 1 if kind in ("embedding", "transposed") else 0
    if tensor.out_axes != (axis,):
        got, wanted = f"DoRA for {tensor.name!r}", "a layer whose outputs the spec knows, or LoRA"
        raise ValueError(message(argument, got, wanted))


def refuse_tied(argument: str, tensor: TensorSpec) -> None:
    """Raise for a tensor that stands in two places, of which PEFT would change one."""
    if tensor.aliases:
        places = " and ".join(map(repr, tensor.names))
        wanted = "a tensor that stands in one place: PEFT changes one of them, hyperloom all"
        way_out = "Leave it out, or untie the model (config.tie_word_embeddings=False)."
        raise ValueError(message(argument, f"the tied tensor {places}", wanted, way_out))
