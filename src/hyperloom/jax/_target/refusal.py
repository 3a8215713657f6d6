"""Errors of JAX and Flax about inputs of the target, reworded so that they name the inputs."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import flax
import jax
import numpy as np

from hyperloom._core.backend.refusal import is_about_arguments, named
from hyperloom.jax._target.arrays import is_array

_FRAMEWORK = (
    os.path.dirname(jax.__file__),
    os.path.dirname(flax.__file__),
    os.path.dirname(np.__file__),
)


@contextmanager
def naming_inputs(
    target: str, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Generator[None]:
    """Let errors of the block that are about the target's inputs name them.

    The error of a layer for an input of another width or dtype names neither the input nor the
    layer. What the target's own code raises stays as it is.

    Raises:
        TypeError: None of the inputs is an array.
        ValueError: Any other error about arguments that JAX or Flax has raised in the target.
    """
    try:
        yield
    except Exception as error:  # JAX and Flax raise many classes; any other is raised again
        given = {f"input {i}": value for i, value in enumerate(inputs)} | dict(kwargs)
        if not given or not is_about_arguments(error, _FRAMEWORK):
            raise
        other = not any(is_array(value) for value in given.values())
        raise named(error, given, target, "", other) from error
