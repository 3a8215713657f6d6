"""Random streams: those of a call, and the hypernetwork's own."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from flax import nnx
from flax.errors import TraceContextError
from jax import Array

from hyperloom._core.errors import message


def has_stream(rngs: nnx.Rngs | None, name: str) -> bool:
    """Whether the streams of a call have one of that name, or one for all names."""
    return rngs is not None and (name in rngs or "default" in rngs)


def draw(stream: Any, name: str, rngs: nnx.Rngs | None) -> Array:
    """Return a key from the streams of a call; where they have none of that name, from its own.

    Raises:
        ValueError: From its own, inside a transform around the call.
    """
    if rngs is not None and has_stream(rngs, name):
        return rngs[name]()
    with own_streams():
        return stream()


@contextmanager
def own_streams() -> Generator[None]:
    """Say what to do where a stream of the hypernetwork's own cannot go on."""
    try:
        yield
    except TraceContextError as error:
        got = "none, inside a transform (jit, grad, vmap ...) that closes over the hypernetwork"
        wanted = "a key, as a stream of its own cannot go on from there"
        way_out = "Pass one to the call: rngs=key. Or use nnx.jit with hnet as an argument."
        raise ValueError(message("rngs", got, wanted, way_out)) from error
