"""Targets: what may be given as one, and how it is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from flax import nnx

from hyperloom._core.errors import message
from hyperloom._core.target.spec import TargetSpec
from hyperloom.jax._target.adaptor import Read
from hyperloom.jax._target.function import Function, call, is_callable_tree, read_function
from hyperloom.jax._target.linen import Linen, read_linen
from hyperloom.jax._target.networks import Networks
from hyperloom.jax._target.nnx import read_nnx
from hyperloom.jax._target.shapes import Shapes, read_shapes


def read_target(target: Any) -> Read:
    """Read a target.

    Raises:
        TypeError: None of the objects that may be a target.
        ValueError: It has no parameters.
    """
    if isinstance(target, Read):
        return target
    if isinstance(target, Linen):
        return read_linen(target)
    if isinstance(target, Shapes):
        return read_shapes(target)
    if isinstance(target, Mapping) and not isinstance(target, nnx.Module):
        return read_nnx(Networks(target))
    if isinstance(target, nnx.Module):
        return read_nnx(target)
    if isinstance(target, Function):
        return read_function(target)
    if is_callable_tree(target):
        return read_function(Function(call, target))
    got = target if isinstance(target, type) else f"a {type(target).__name__}"
    way_out = "Call the class to make one." if isinstance(target, type) else ""
    if isinstance(target, nn.Module):
        way_out = "Wrap it, with example inputs: hl.Linen(module, x)."
    wanted = "an nnx.Module, Linen(module, *inputs) or Function(apply, params)"
    raise TypeError(message("target", got, wanted, way_out))


def target_spec(target: Any) -> TargetSpec:
    """Return names, shapes, roles, fans, ties and initial statistics of a target's parameters.

    Parameters that are one variable at several paths are one tensor with several names. Initial
    mean and standard deviation are measured on the values that are there; where there are none
    (`nnx.eval_shape`), they follow the usual initialisation for the role.

    Args:
        target: An `nnx.Module`, a dict of several, `Linen(module, *inputs)`,
            `Function(apply, params)`, a callable tree as an Equinox module, or `Shapes(shapes)`.

    Returns:
        The spec; tensors in the order in which Flax splits the module.

    Raises:
        TypeError: `target` is none of these.
        ValueError: It has no parameters.
    """
    return read_target(target).spec
