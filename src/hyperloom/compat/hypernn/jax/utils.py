"""hyper-nn's helpers for Flax."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import hyperloom.jax as hl
from hyperloom._core.errors import message
from hyperloom.compat.hypernn._door.inputs import get_weight_chunk_dims

__all__ = ["count_jax_params", "get_weight_chunk_dims"]


def count_jax_params(
    model: Any,
    input_shape: Any = None,
    inputs: Any = None,
    return_variables: bool = False,
    **kwargs: Any,
) -> Any:
    """Return how many parameters a module has, and with `return_variables` its variables.

    Args:
        model: A Linen module (hypernetworks are Linen modules too), or an NNX module, which needs
            no inputs.
        input_shape: A list with the shape of each input.
        inputs: In place of the shapes: an array, or a list with an array for each input.
        return_variables: Return the variables too.
        **kwargs: Keyword arguments of a call of the module.

    Raises:
        ValueError: A Linen module without shapes or inputs.
    """
    if not isinstance(model, nn.Module):
        num = hl.target_spec(model).num_parameters
        return (num, model) if return_variables else num
    given = inputs_of("count_jax_params", input_shape, inputs)

    def init() -> Any:
        return model.init(jax.random.key(0), *given, **kwargs)

    # Where only the number is asked for, nothing is computed.
    variables = init() if return_variables else jax.eval_shape(init)
    num = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(variables["params"]))
    return (num, variables) if return_variables else num


def inputs_of(argument: str, shapes: Any, inputs: Any) -> list[Any]:
    """Return the inputs that a Linen module makes its parameters from.

    Raises:
        ValueError: Neither shapes nor inputs.
    """
    if inputs is None and shapes is None:
        wanted = "inputs=, or the shapes of its inputs, from which it makes its parameters"
        raise ValueError(message(argument, "a Linen module without inputs", wanted))
    if inputs is None:
        return [jnp.zeros(shape) for shape in shapes]
    return list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
