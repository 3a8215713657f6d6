"""What `generate_params` is called with, and the size of a chunk: the same for both backends."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any


def generated(
    generate_params: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    more: Mapping[str, Any] | None,
) -> Any:
    """Call `generate_params` as hyper-nn's README does, or as its release 0.2.2 does.

    The README hands the target's inputs on, with the keywords beside them; the release hands on
    the keywords alone. Both are right for programs written for them: where inputs and keywords do
    not go together (they name the same argument, or there are more inputs than arguments), the
    program is one for the release.

    Args:
        generate_params: The method.
        args: The target's inputs.
        kwargs: The target's keyword arguments.
        more: `generate_params_kwargs`.
    """
    more = more or {}
    both = {**kwargs, **more}
    try:
        inspect.signature(generate_params).bind(*args, **both)
    except TypeError:
        return generate_params(**more)
    return generate_params(*args, **both)


def get_weight_chunk_dims(num_target_parameters: int, num_embeddings: int) -> int:
    """Return the size of a chunk: the least that is enough for all parameters.

    Args:
        num_target_parameters: How many parameters there are.
        num_embeddings: Number of chunks.
    """
    return -(-num_target_parameters // num_embeddings)
