"""The three forms in which hypnettorch returns generated weights, and the ways between them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

FORMATS = ("flattened", "sequential", "squeezed")


def check_format(ret_format: str) -> None:
    """Raise for a format that there is not."""
    if ret_format not in FORMATS:
        raise ValueError(f"ret_format: got {ret_format!r}; wanted one of {', '.join(FORMATS)}.")


def from_batched(tensors: Iterable[Tensor], ret_format: str) -> Any:
    """Bring tensors `(B, *shape)` into a format."""
    made = list(tensors)
    if ret_format == "flattened":
        return torch.cat([t.flatten(1) for t in made], dim=1)
    samples = [list(sample) for sample in zip(*(t.unbind(0) for t in made), strict=True)]
    return from_samples(samples, ret_format)


def from_flat(flat: Tensor, shapes: Sequence[Sequence[int]], ret_format: str) -> Any:
    """Bring a tensor `(B, P)` into a format."""
    if ret_format == "flattened":
        return flat
    cuts = flat.split([math.prod(shape) for shape in shapes], dim=1)
    pairs = zip(cuts, shapes, strict=True)
    return from_batched(
        [cut.unflatten(1, tuple(s)) if s else cut[:, 0] for cut, s in pairs], ret_format
    )


def from_samples(samples: list[list[Tensor]], ret_format: str) -> Any:
    """Bring a list of tensors for each sample into a format."""
    if ret_format == "flattened":
        return torch.stack([torch.cat([t.flatten() for t in sample]) for sample in samples])
    return samples[0] if ret_format == "squeezed" and len(samples) == 1 else samples
