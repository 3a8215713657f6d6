"""How far a linear head's outputs have moved, without its outputs: see `hyperloom._gram`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from hyperloom._gram import Rows


@dataclass(frozen=True)
class HeadMemory:
    """What is remembered of a linear head.

    Attributes:
        features: `(T, C, F)`, signs in.
        weight: `(S, F)`.
        bias: `(S,)`.
        rows: What counts how much.
    """

    features: Tensor
    weight: Tensor
    bias: Tensor
    rows: tuple[Rows, ...]

    def distance(
        self, features: Tensor, weight: Tensor, bias: Tensor, index: Tensor | None
    ) -> Tensor:
        """Return the weighted squared norm of the change, summed over conditions.

        Args:
            features: Features now, `(T, C, F)`.
            weight: Weight now.
            bias: Bias now.
            index: Which of the remembered conditions `features` are for; `None` for all.
        """
        old = self.features if index is None else self.features[index]
        d = torch.cat([features - old, old, torch.ones_like(old[..., :1])], -1)
        e = torch.cat([weight, weight - self.weight, (bias - self.bias).unsqueeze(-1)], -1)
        # One split: its backward pass is one concatenation.
        edges = sorted({edge for rows in self.rows for span in rows.ranges for edge in span})
        cuts = e[: edges[-1]].split([stop - start for start, stop in pairwise(edges)])
        place = dict(zip(edges, cuts, strict=False))
        terms = []
        for rows in self.rows:
            part = [place[start] for start, _ in rows.ranges]
            e_rows = part[0] if len(part) == 1 else torch.cat(part)
            factors = d.new_tensor(rows.factors).unsqueeze(-1)
            d_gram = (d * factors).flatten(0, 1).mT @ d.flatten(0, 1)
            terms.append((d_gram * (e_rows.mT @ e_rows)).sum())
        return torch.stack(terms).sum()
