"""Which axes of a tensor are its outputs and inputs, where the user says so."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hyperloom._core.choices.patterns import resolve
from hyperloom._core.errors import message, shown
from hyperloom._core.records import Role
from hyperloom._core.target.spec import TargetSpec, TensorSpec, usual_start

_WANTED = 'a tuple with "in", "out" or "kernel" for each axis, and "out" among them'


def with_axes(spec: TargetSpec, axes: Mapping[str, tuple[str, ...]] | None) -> TargetSpec:
    """Return a spec in which axes, and so the fans, are what the user says.

    A bias beside such a tensor has its fans, too.

    Args:
        spec: The target's tensors.
        axes: From name patterns to a tuple of `"in"`, `"out"` and `"kernel"`, one for each axis of
            the tensor: `{"*.c_attn.weight": ("in", "out")}`. `None` for none.

    Raises:
        TypeError: No dict, or something else than tuples of these words in it.
        ValueError: A pattern that names no tensor, or a tuple that does not fit a tensor.
    """
    if axes is None:
        return spec
    if not isinstance(axes, Mapping):
        wanted = "a dict from name patterns to tuples"
        raise TypeError(message("axes", shown(axes), wanted, '{"*.weight": ("in", "out")}'))
    for pattern, words in axes.items():
        if not isinstance(words, (tuple, list)) or not {*words} <= {"in", "out", "kernel"}:
            raise TypeError(message("axes", f"{pattern!r}: {shown(words)}", _WANTED))
    said = resolve("axes", {name: tuple(words) for name, words in axes.items()}, tuple, spec)
    tensors = {t.name: _turned(t, said[t.name]) if t.name in said else t for t in spec}
    for name in said:
        old, new = spec[name], tensors[name]
        for bias in spec:
            beside = bias.layer == old.layer and bias.role is Role.BIAS and bias.name not in said
            if beside and (bias.fan_in, bias.fan_out) == (old.fan_in, old.fan_out):
                tensors[bias.name] = _with_fans(bias, new.fan_in, new.fan_out)
    return TargetSpec(spec.name, tuple(tensors.values()))


def _turned(tensor: TensorSpec, words: tuple[str, ...]) -> TensorSpec:
    if len(words) != len(tensor.shape) or "out" not in words:
        got = f"{words} for {tensor.name!r} of shape {tensor.shape}"
        raise ValueError(message("axes", got, _WANTED))
    places: dict[str, Any] = {
        word: tuple(i for i, w in enumerate(words) if w == word) for word in ("out", "in", "kernel")
    }
    out, into, extent = (math.prod(tensor.shape[i] for i in places[w]) for w in places)
    if tensor.role is Role.WEIGHT:
        tensor = _with_fans(tensor, into * extent, out * extent)
    return replace(tensor, out_axis=_few(places["out"]), in_axis=_few(places["in"]))


def _with_fans(tensor: TensorSpec, fan_in: int, fan_out: int) -> TensorSpec:
    mean, std = tensor.mean, tensor.std
    if (mean, std) == usual_start(tensor.role, tensor.fan_in):  # not measured
        mean, std = usual_start(tensor.role, fan_in)
    return replace(tensor, fan_in=fan_in, fan_out=fan_out, mean=mean, std=std)


def _few(axes: tuple[int, ...]) -> int | tuple[int, ...] | None:
    return None if not axes else axes[0] if len(axes) == 1 else axes
