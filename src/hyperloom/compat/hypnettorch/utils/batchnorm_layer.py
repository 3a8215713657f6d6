"""Batch norm's parameters and statistics, under hypnettorch's names."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperloom.compat.hypnettorch._door.errors import require


class BatchNormLayer(nn.Module):
    """Scale, shift and any number of sets of running statistics, e.g. one for each condition.

    Args:
        num_features: Width.
        affine: Whether scale and shift are held inside; otherwise they come from outside.

    Attributes:
        scale: Factor `(num_features,)`, if held inside.
        bias: Shift `(num_features,)`, likewise.
    """

    _num_stats: Tensor

    def __init__(self, num_features: int, affine: bool = True) -> None:
        super().__init__()
        self._num_features = num_features
        self._weights: nn.ParameterList | None = None
        if affine:
            self.scale = nn.Parameter(torch.ones(num_features))
            self.bias = nn.Parameter(torch.zeros(num_features))
            self._weights = nn.ParameterList([self.scale, self.bias])
        self.register_buffer("_num_stats", torch.tensor(0))
        self.checkpoint_stats()

    @property
    def weights(self) -> nn.ParameterList | None:
        """Scale and shift, `None` if they come from outside."""
        return self._weights

    @property
    def param_shapes(self) -> list[list[int]]:
        """Shapes of scale and shift."""
        return [[self._num_features], [self._num_features]]

    @property
    def num_stats(self) -> int:
        """Number of sets of statistics."""
        return int(self._num_stats)

    def checkpoint_stats(self, device: torch.device | None = None) -> None:
        """Begin a new set of statistics, and keep those there are."""
        num = self.num_stats
        device = self.get_stats()[0].device if device is None and num else device
        self.register_buffer(f"mean_{num}", torch.zeros(self._num_features, device=device))
        self.register_buffer(f"var_{num}", torch.ones(self._num_features, device=device))
        self._num_stats += 1

    def get_stats(self, stats_id: int | None = None) -> tuple[Tensor, Tensor]:
        """Return running mean and variance of a set; of the last by default."""
        num = self.num_stats
        index = num - 1 if stats_id is None else stats_id
        require(0 <= index < num, f"stats_id: got {stats_id}; wanted 0 .. {num - 1}.")
        return self.get_buffer(f"mean_{index}"), self.get_buffer(f"var_{index}")

    def chosen_stats(self, stats_id: int | None) -> tuple[Tensor, Tensor]:
        """Return the set that a call uses.

        Raises:
            ValueError: There are several, and none is chosen.
        """
        if stats_id is None and self.num_stats > 1:
            raise ValueError("condition: wanted, as batch norm has several sets of statistics.")
        return self.get_stats(0 if stats_id is None else stats_id)
