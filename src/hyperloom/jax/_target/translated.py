"""A JAX target that is run with the tensors of the same network in another framework."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from hyperloom._core.target.spec import TargetSpec
from hyperloom._core.target.translate import translate
from hyperloom._core.target.translation import Translation
from hyperloom.jax._target.adaptor import Adaptor, Box, Method, Notes, Pure, Read
from hyperloom.jax._target.read import read_target
from hyperloom.jax._target.variables import Fixed, Variable


class JaxArrays:
    """Joins and turns arrays for a `Translation`."""

    def permute(self, array: Any, axes: tuple[int, ...]) -> Array:
        """Return the array with its axes in another order."""
        return jnp.transpose(array, axes)

    def join(self, arrays: Sequence[Any], axis: int) -> Array:
        """Return arrays one after the other along an axis."""
        return jnp.concatenate(arrays, axis=axis)

    def zeros(self, like: Any, shape: tuple[int, ...]) -> Array:
        """Return zeros."""
        return jnp.zeros(shape, like.dtype)


def read_translated(
    target: Any,
    source: TargetSpec,
    names: Mapping[str, str],
    buffers: Mapping[str, np.ndarray],
) -> Read:
    """Return a target that takes the tensors of `source`.

    Args:
        target: The target.
        source: What a plan was made for.
        names: As for `translate`.
        buffers: The source's buffers, which are kept as they are for the file; those that are
            running statistics become the target's.
    """
    read = read_target(target)
    translation = translate(source, read.spec, names)
    values = {t.name: np.zeros(t.shape, jnp.dtype(t.dtype)) for t in source}
    variables = dict(read.adaptor.state_variables())
    for mine, theirs in translation.state_names(list(buffers)).items():
        if mine in variables:
            variables[mine].set_value(jnp.asarray(buffers[theirs]))
    return Read(source, values, TranslatedTarget(read.adaptor, translation, buffers))


class TranslatedTarget(Adaptor):
    """A target behind a translation: its tensors are the source's, its state is its own."""

    def __init__(
        self, inner: Adaptor, translation: Translation, buffers: Mapping[str, np.ndarray]
    ) -> None:
        self.inner = inner
        self.translation = Box(translation)
        self.buffers = nnx.Dict({name: Fixed(value) for name, value in buffers.items()})

    def state(self) -> dict[str, Any]:
        return self.inner.state()

    def state_variables(self) -> Iterator[tuple[str, Variable]]:
        yield from ((name, self.buffers[name]) for name in self.buffers)

    def keys(self, rngs: nnx.Rngs | None, method: Method = None) -> dict[str, Array]:
        return self.inner.keys(rngs, method)

    def advance(self, used: set[str], rngs: nnx.Rngs | None) -> None:
        self.inner.advance(used, rngs)

    def pure(self, notes: Notes, method: Method = None) -> Pure:
        inner, translation = self.inner.pure(notes, method), self.translation.held

        def pure(tensors: Any, state: Any, keys: Any, args: Any, kwargs: Any) -> Any:
            return inner(translation.apply(tensors, JaxArrays()), state, keys, args, kwargs)

        return pure

    def outline(self) -> Any:
        return self.inner.outline()

    def build(self, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> Any:
        return self.inner.build(self.translation.held.apply(tensors, JaxArrays()), state)
