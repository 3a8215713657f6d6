"""Packing and padding sequences inside `vmap`, with lengths that all conditions share.

Legend of suffixes: T steps, N sequences; packed rows stand one step after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hyperloom.torch._private import pack_padded_sequence, pad_packed_sequence


def _pack(padded: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
    """`torch._pack_padded_sequence`: lengths fall; return rows and the sequences of each step."""
    x_TN = padded.transpose(0, 1) if batch_first else padded
    numbers = [int(n) for n in lengths.tolist()]
    if not numbers or min(numbers) < 1 or len(numbers) != x_TN.shape[1]:
        raise ValueError(f"lengths {numbers} of {x_TN.shape[1]} sequences")
    if sorted(numbers, reverse=True) != numbers:
        raise RuntimeError("`lengths` array must be sorted in decreasing order")
    sizes = [sum(n > t for n in numbers) for t in range(numbers[0])]
    rows = torch.cat([x_TN[t, :num] for t, num in enumerate(sizes)])
    return rows, torch.tensor(sizes, dtype=torch.int64)


def _pad(
    data: Tensor, batch_sizes: Tensor, batch_first: bool, padding_value: float, total_length: int
) -> tuple[Tensor, Tensor]:
    """`torch._pad_packed_sequence`: return padded rows and lengths."""
    sizes = batch_sizes.tolist()
    steps = []
    for rows in data.split(sizes):
        missing = sizes[0] - len(rows)
        steps.append(torch.cat([rows, rows.new_full((missing, *rows.shape[1:]), padding_value)]))
    empty = torch.full_like(steps[0], padding_value)
    steps += [empty] * (total_length - len(sizes))
    padded_TN = torch.stack(steps)
    lengths = torch.tensor([sum(size > i for size in sizes) for i in range(sizes[0])])
    return (padded_TN.transpose(0, 1) if batch_first else padded_TN), lengths


RULES: dict[Any, Callable[..., Any]] = {
    pack_padded_sequence: _pack,
    pad_packed_sequence: _pad,
}
