"""Norms with statistics for each id."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperloom._core.errors import message


class IdNorm(nn.Module):
    """Standardises the rows of each condition id among themselves; running statistics by id."""

    norm_mean: Tensor
    norm_var: Tensor

    def __init__(self, num_ids: int, width: int) -> None:
        super().__init__()
        self.register_buffer("norm_mean", torch.zeros(num_ids, width))
        self.register_buffer("norm_var", torch.ones(num_ids, width))

    def grow(self, num: int) -> None:
        """Add statistics for new ids."""
        width = self.norm_mean.shape[1]
        self.norm_mean = torch.cat([self.norm_mean, self.norm_mean.new_zeros(num, width)])
        self.norm_var = torch.cat([self.norm_var, self.norm_var.new_ones(num, width)])

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        """Standardise `(*batch, C, F)` or `(*batch, F)` for ids `(*batch,)`.

        Raises:
            ValueError: While training, an id with one row only, which has no variance.
        """
        middle = (1,) * (x.ndim - ids.ndim - 1)
        if not self.training:
            size = (*ids.shape, *middle, x.shape[-1])
            mean, var = self.norm_mean[ids].view(size), self.norm_var[ids].view(size)
            return (x - mean) * (var + 1e-5).rsqrt()
        rows = x.reshape(-1, x.shape[-1])
        id_of_row = ids.view(*ids.shape, *middle).expand(x.shape[:-1]).reshape(-1)
        present, index, counts = torch.unique(id_of_row, return_inverse=True, return_counts=True)
        if bool((counts == 1).any()):
            got = f"one row for the id {int(present[counts == 1][0])}, which has no variance"
            way_out = "Use a layout with slots (Chunked, Grouped), or call eval()."
            wanted = "several rows for each id while training"
            raise ValueError(message("MLP(per_condition=)", got, wanted, way_out))
        num = counts.unsqueeze(-1).to(rows)
        empty = rows.new_zeros(len(present), rows.shape[1])
        mean = empty.index_add(0, index, rows) / num
        centred = rows - mean[index]
        var = empty.index_add(0, index, centred.square()) / num
        with torch.no_grad():
            for held, new in ((self.norm_mean, mean), (self.norm_var, var * num / (num - 1))):
                held[present] += 0.1 * (new.to(held) - held[present])
        return (centred * (var + 1e-5).rsqrt()[index]).view(x.shape)
