"""Trunk objects built as modules: condition vector and slot embeddings -> features."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from hyperloom._core.backend.checks import check_trunk_output, sees_slots
from hyperloom._core.choices.deconv import Deconv
from hyperloom._core.choices.slot_trunks import Perceiver, Transformer
from hyperloom._core.choices.trunks import MLP, CustomTrunk, Linear, Trunk
from hyperloom._core.errors import call_it, message
from hyperloom.jax._generate.activations import ACTIVATIONS
from hyperloom.jax._generate.conditions import num_learned, output_width
from hyperloom.jax._generate.deconv import DeconvTrunk
from hyperloom.jax._generate.draws import Start
from hyperloom.jax._generate.linen import class_name
from hyperloom.jax._generate.norms import IdNorm, make_statistics, over_rows, standard
from hyperloom.jax._generate.slot_trunks import CustomSlotTrunk, PerceiverTrunk, TransformerTrunk
from hyperloom.jax._generate.slots import LinearTrunk, with_slots
from hyperloom.jax._target.arrays import ARRAY


class Layer(nnx.Module):
    """One layer of an `MLP`: linear, norm, activation, dropout."""

    def __init__(
        self, choice: MLP, fan_in: int, fan_out: int, num_ids: int | None, start: Start
    ) -> None:
        self.choice = choice
        weight = start.uniform((fan_out, fan_in), math.sqrt(choice.gain / fan_in))
        self.weight = nnx.Param(start.array(weight))
        self.bias = nnx.Param(start.array(start.uniform((fan_out,), 1 / math.sqrt(3 * fan_in))))
        self.deterministic = False
        if choice.norm in ("layer", "batch"):
            self.norm_weight = nnx.Param(start.ones((fan_out,)))
            self.norm_bias = nnx.Param(start.zeros((fan_out,)))
        if choice.per_condition:
            assert num_ids is not None
            self.by_id = IdNorm(num_ids, fan_out, start)
        elif choice.norm == "batch":
            make_statistics(self, (fan_out,), start)

    def __call__(self, x: Array, key: Array | None, ids: Array | None) -> Array:
        return self.finish(x @ self.scaled_weight().T + self.bias[...], key, ids)

    def scaled_weight(self) -> Array:
        """Return the weight, divided by its largest singular value where that is chosen."""
        weight = self.weight[...]
        return weight / jnp.linalg.norm(weight, 2) if self.choice.spectral else weight

    def pair(self, vector: Array, slots: Array, key: Array | None, ids: Array | None) -> Array:
        """`self(with_slots(vector, slots))` without the pairs: one product for each side."""
        left, right = jnp.split(self.scaled_weight().T, [vector.shape[-1]])
        x = (vector @ left + self.bias[...])[..., None, :] + slots @ right
        return self.finish(x, key, ids)

    def finish(self, x: Array, key: Array | None, ids: Array | None) -> Array:
        """Norm, activation, dropout."""
        choice = self.choice
        if choice.norm in ("layer", "batch"):
            x = self._standardised(x, ids) * self.norm_weight[...] + self.norm_bias[...]
        x = ACTIVATIONS[choice.activation](x)
        if not choice.dropout or self.deterministic:
            return x
        assert key is not None
        keep = 1 - choice.dropout
        return jnp.where(jax.random.bernoulli(key, keep, x.shape), x / keep, 0)

    def _standardised(self, x: Array, ids: Array | None) -> Array:
        if self.choice.norm == "layer":
            return standard(x, jnp.mean(x, -1, keepdims=True), jnp.var(x, -1, keepdims=True))
        if not self.choice.per_condition:
            return over_rows(self, x)
        assert ids is not None
        return self.by_id(x, ids)


class MLPTrunk(nnx.Module):
    """`MLP`, built."""

    def __init__(self, choice: MLP, in_width: int, num_ids: int | None, start: Start) -> None:
        fans = pairwise([in_width, *choice.widths])
        self.layers = nnx.List([Layer(choice, a, b, num_ids, start) for a, b in fans])
        self.choice = choice

    def __call__(
        self, vector: Array, slots: Array | None, key: Array | None = None, ids: Array | None = None
    ) -> Array:
        first, *rest = self.layers
        keys = [None if key is None else jax.random.fold_in(key, i) for i in range(len(rest) + 1)]
        if slots is None:
            x = first(vector[..., None, :], keys[0], ids)
        else:
            x = first.pair(vector, slots, keys[0], ids)
        for layer, layer_key in zip(rest, keys[1:], strict=True):
            x = layer(x, layer_key, ids)
        if self.choice.norm == "rms":
            x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6)
        return x


class CustomTrunkModule(nnx.Module):
    """A module of the user's own: `(rows, E + w)` -> `(rows, F)`."""

    def __init__(self, module: nnx.Module, width: int) -> None:
        self.module = module
        self.width = width

    def __call__(
        self, vector: Array, slots: Array | None, key: Array | None = None, ids: Array | None = None
    ) -> Array:
        x = with_slots(vector, slots)
        call: Any = self.module
        rows = math.prod(x.shape[:-1])
        output = call(x.reshape(rows, x.shape[-1]))
        check_trunk_output(self.module, output, (rows, self.width), ARRAY)
        return output.reshape(*x.shape[:-1], self.width)


def neutral_trunk(choice: Any) -> Trunk:
    """Return the neutral object for a trunk object, a module or `None`."""
    if choice is None:
        return Linear()
    if isinstance(choice, Trunk):
        return choice
    if isinstance(choice, nnx.Module):
        width = output_width("trunk", choice)
        return CustomTrunk(width, class_name(choice), num_learned(choice), sees_slots(choice))
    got = choice if isinstance(choice, type) else repr(choice)
    wanted = "None, MLP(*widths), Transformer(width), Deconv(image), an nnx.Module or "
    wanted += "Linen(module, *inputs)"
    raise TypeError(message("trunk", got, wanted, call_it(choice)))


def build_trunk(
    choice: Any, in_width: int, num_ids: int | None, start: Start, context: int = 0
) -> nnx.Module:
    """Return the trunk as a module.

    Args:
        choice: The trunk object or module.
        in_width: Width of its inputs.
        num_ids: Ids of the condition, if it has any.
        start: Where the start of learned numbers comes from.
        context: Width of the elements of the condition's context, if it has one.
    """
    if isinstance(choice, MLP):
        return MLPTrunk(choice, in_width, num_ids, start)
    if isinstance(choice, Deconv):
        return DeconvTrunk(choice, in_width, start)
    if isinstance(choice, Transformer):
        return TransformerTrunk(choice, in_width, context, start)
    if isinstance(choice, Perceiver):
        return PerceiverTrunk(choice, in_width, context, start)
    if isinstance(choice, nnx.Module):
        width = output_width("trunk", choice)
        return (CustomSlotTrunk if sees_slots(choice) else CustomTrunkModule)(choice, width)
    return LinearTrunk()
