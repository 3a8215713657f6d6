"""Trunk objects built as modules: condition vector and slot embeddings -> features."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperloom._core.backend.checks import check_trunk_output, sees_slots
from hyperloom._core.choices.deconv import Deconv
from hyperloom._core.choices.slot_trunks import Perceiver, Transformer
from hyperloom._core.choices.trunks import MLP, CustomTrunk, Linear, Trunk
from hyperloom._core.errors import call_it, message, shown
from hyperloom.torch._generate.activations import ACTIVATIONS
from hyperloom.torch._generate.conditions import output_width
from hyperloom.torch._generate.deconv import DeconvTrunk
from hyperloom.torch._generate.norms import IdNorm
from hyperloom.torch._generate.slot_trunks import CustomSlotTrunk, PerceiverTrunk, TransformerTrunk
from hyperloom.torch._generate.slots import LinearTrunk, with_slots
from hyperloom.torch._target.arrays import TENSOR


class Layer(nn.Module):
    """One layer of an `MLP`: linear, norm, activation, dropout."""

    norm_mean: Tensor
    norm_var: Tensor

    def __init__(self, choice: MLP, fan_in: int, fan_out: int, num_ids: int | None = None) -> None:
        super().__init__()
        self.choice = choice
        self.activation: Callable[[Tensor], Tensor] = ACTIVATIONS[choice.activation]
        self.weight = nn.Parameter(torch.empty(fan_out, fan_in))
        self.bias = nn.Parameter(torch.empty(fan_out))
        bound = math.sqrt(3 * choice.gain / fan_in)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))
        if choice.norm in ("layer", "batch"):
            self.norm_weight = nn.Parameter(torch.ones(fan_out))
            self.norm_bias = nn.Parameter(torch.zeros(fan_out))
        if choice.per_condition:
            assert num_ids is not None
            self.by_id = IdNorm(num_ids, fan_out)
        elif choice.norm == "batch":
            self.register_buffer("norm_mean", torch.zeros(fan_out))
            self.register_buffer("norm_var", torch.ones(fan_out))

    def forward(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        return self.finish(F.linear(x, self.scaled_weight(), self.bias), ids)

    def scaled_weight(self) -> Tensor:
        """Return the weight, divided by its largest singular value where that is chosen."""
        if not self.choice.spectral:
            return self.weight
        return self.weight / torch.linalg.matrix_norm(self.weight, 2)

    def pair(self, vector: Tensor, slots: Tensor, ids: Tensor | None = None) -> Tensor:
        """`forward(with_slots(vector, slots))` without the pairs: one product for each side."""
        left, right = self.scaled_weight().split([vector.shape[-1], slots.shape[-1]], dim=1)
        x = F.linear(vector, left, self.bias).unsqueeze(-2) + F.linear(slots, right)
        return self.finish(x, ids)

    def finish(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        """Norm, activation, dropout."""
        choice = self.choice
        if choice.norm == "layer":
            # Not F.layer_norm: in torch 2.13 its second derivative inside vmap is wrong.
            var, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
            x = (x - mean) * (var + 1e-5).rsqrt() * self.norm_weight + self.norm_bias
        elif choice.per_condition:
            assert ids is not None
            x = self.by_id(x, ids) * self.norm_weight + self.norm_bias
        elif choice.norm == "batch":
            flat = F.batch_norm(
                x.reshape(-1, x.shape[-1]),
                self.norm_mean,
                self.norm_var,
                self.norm_weight,
                self.norm_bias,
                self.training,
            )
            x = flat.reshape(x.shape)
        x = self.activation(x)
        return F.dropout(x, choice.dropout, self.training) if choice.dropout else x


class MLPTrunk(nn.ModuleList):
    """`MLP`, built."""

    def __init__(self, choice: MLP, in_width: int, num_ids: int | None = None) -> None:
        fans = [in_width, *choice.widths]
        super().__init__(Layer(choice, a, b, num_ids) for a, b in pairwise(fans))
        self.choice = choice

    def forward(self, vector: Tensor, slots: Tensor | None, ids: Tensor | None = None) -> Tensor:
        layers = [layer for layer in self if isinstance(layer, Layer)]
        first = layers[0]
        x = first(vector, ids) if slots is None else first.pair(vector, slots, ids)
        for layer in layers[1:]:
            x = layer(x, ids)
        if self.choice.norm == "rms":
            x = x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        return x


class CustomTrunkModule(nn.Module):
    """A module of the user's own: `(rows, E + w)` -> `(rows, F)`."""

    def __init__(self, module: nn.Module, width: int) -> None:
        super().__init__()
        self.module = module
        self.width = width

    def forward(self, vector: Tensor, slots: Tensor | None) -> Tensor:
        x = with_slots(vector, slots)
        features = self.module(x.reshape(-1, x.shape[-1]))
        check_trunk_output(self.module, features, (math.prod(x.shape[:-1]), self.width), TENSOR)
        return features.reshape(*x.shape[:-1], self.width)


def neutral_trunk(choice: Any) -> Trunk:
    """Return the neutral object for a trunk object, a module or `None`."""
    if choice is None:
        return Linear()
    if isinstance(choice, Trunk):
        return choice
    if isinstance(choice, nn.Module):
        width = output_width("trunk", choice)
        size = sum(p.numel() for p in choice.parameters())
        return CustomTrunk(width, type(choice).__name__, size, sees_slots(choice))
    got = shown(choice)
    wanted = "None, MLP(*widths), Transformer(width), Deconv(image) or a torch.nn.Module"
    raise TypeError(message("trunk", got, wanted, call_it(choice)))


def build_trunk(
    choice: Any, in_width: int, num_ids: int | None = None, context: int = 0
) -> nn.Module:
    """Return the trunk as a module.

    Args:
        choice: The trunk object or module.
        in_width: Width of its inputs.
        num_ids: Ids of the condition, if it has any.
        context: Width of the elements of its context, if it has one.
    """
    if isinstance(choice, MLP):
        return MLPTrunk(choice, in_width, num_ids)
    if isinstance(choice, Deconv):
        return DeconvTrunk(choice, in_width)
    if isinstance(choice, Transformer):
        return TransformerTrunk(choice, in_width, context)
    if isinstance(choice, Perceiver):
        return PerceiverTrunk(choice, in_width, context)
    if isinstance(choice, nn.Module):
        width = output_width("trunk", choice)
        return (CustomSlotTrunk if sees_slots(choice) else CustomTrunkModule)(choice, width)
    return LinearTrunk()
