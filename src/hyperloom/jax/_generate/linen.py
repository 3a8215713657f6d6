"""A Linen module as a part of the generator: a condition or a trunk."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from hyperloom._core.errors import message
from hyperloom.jax._target.adaptor import Box, Notes
from hyperloom.jax._target.linen import Linen, read_linen


class LinenPart(nnx.Module):
    """A Linen module with its parameters, called as in its example call.

    Args:
        choice: The module with its example.
    """

    def __init__(self, choice: Linen) -> None:
        read = read_linen(choice)
        self.module = read.adaptor
        self.params = nnx.Dict({n: nnx.Param(jnp.asarray(v)) for n, v in read.values.items()})
        self.kwargs = Box(choice.kwargs)
        self.kind = type(choice.module).__name__
        self.dim = self._width(choice)

    def _width(self, choice: Linen) -> int:
        module = self.kind
        out: Any = jax.eval_shape(lambda: self._run(choice.inputs)[0])
        if not hasattr(out, "shape") or not out.shape:
            got = f"a {module} that returns {out!r}"
            raise TypeError(message("Linen(module)", got, "a module that returns an array"))
        return int(out.shape[-1])

    def __call__(self, *inputs: Any) -> Any:
        out, left = self._run(inputs)
        for name, variable in self.module.state_variables():
            if name in left:
                variable.set_value(left[name])
        return out

    def _run(self, inputs: tuple[Any, ...]) -> tuple[Any, dict[str, Any]]:
        """Return the output, and what was written of the state."""
        params = {name: self.params[name][...] for name in self.params}
        notes = Notes()
        pure = self.module.pure(notes)
        out, left = pure(params, self.module.state(), {}, inputs, self.kwargs.held)
        return out, {name: left[name] for name in notes.written}


def as_part(choice: Any) -> Any:
    """Return a Linen module, with its example, as an NNX module; all else as it is."""
    return LinenPart(choice) if isinstance(choice, Linen) else choice


def class_name(module: nnx.Module) -> str:
    """Return how a module of the user's own is called in a plan."""
    return module.kind if isinstance(module, LinenPart) else type(module).__name__
