"""How far a linear head's outputs have moved, without its outputs: see `hyperloom._gram`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from hyperloom._gram import Rows, gram_is_cheaper, linear_pieces, rows_that_count
from hyperloom._layout import Source
from hyperloom.jax._heads import LinearHead
from hyperloom.jax._variables import Fixed, is_traced

if TYPE_CHECKING:
    from hyperloom.jax._hypernetwork import HyperNetwork


# Beside outputs, which XLA reads and writes less often than PyTorch. Measured on CPU.
_SLOWER = 1.5


class HeadMemory(nnx.Module):
    """What is remembered of a linear head.

    Args:
        head: The head.
        features: What it is run on, `(T, C, F)`.
        rows: Which of its rows count how much.
    """

    def __init__(self, head: LinearHead, features: Array, rows: tuple[Rows, ...]) -> None:
        self.features = Fixed(head.signed(features))
        self.weight = Fixed(head.weight[...])
        self.bias = Fixed(head.bias[...])
        self.rows = rows

    def distance(self, head: LinearHead, features: Array, index: Array | None) -> Array:
        """Return the weighted squared norm of the change, summed over conditions.

        Args:
            head: The head now.
            features: What it is run on now, `(T, C, F)`.
            index: Which of the remembered conditions `features` are for; `None` for all.
        """
        now, old = head.signed(features), self.features[...]
        old = old if index is None else old[index]
        d_TCG = jnp.concatenate([now - old, old, jnp.ones_like(old[..., :1])], -1)
        weight, bias = head.weight[...], head.bias[...]
        change = [weight - self.weight[...], (bias - self.bias[...])[:, None]]
        e_SG = jnp.concatenate([weight, *change], -1)
        # One split: its backward pass is one concatenation.
        edges = sorted({edge for rows in self.rows for span in rows.ranges for edge in span})
        cuts = jnp.split(e_SG[: edges[-1]], edges[1:-1])
        place = dict(zip(edges, cuts, strict=False))
        terms = []
        for rows in self.rows:
            part = [place[start] for start, _ in rows.ranges]
            factors = np.asarray(rows.factors, d_TCG.dtype)[:, None]
            d_gram = _product(d_TCG * factors, d_TCG)
            terms.append(jnp.sum(d_gram * _product(jnp.concatenate(part), jnp.concatenate(part))))
        return jnp.stack(terms).sum()


def _product(a: Array, b: Array) -> Array:
    """Return the `(G, G)` products of the columns of `(..., G)` and `(..., G)`."""
    flat = (x.reshape(-1, x.shape[-1]) for x in (a, b))
    return jnp.einsum("ng,nh->gh", *flat, precision="highest")


def remembered_heads(
    hnet: HyperNetwork, features: Mapping[int, Array], num: int, weights: Mapping[str, Any]
) -> dict[str, HeadMemory]:
    """Return memories of the heads whose change is cheaper to tell without their outputs.

    Args:
        hnet: The hypernetwork.
        features: What its heads are run on, `(T, C, F)` each.
        num: For how many of the conditions the change will be asked at a time.
        weights: Importance of each tensor, by its name.
    """
    plan, found = hnet.plan, dict[str, HeadMemory]()
    scales = None if hnet.scales is None else hnet.scales[...]
    if is_traced(scales):
        return found
    scales = None if scales is None else np.asarray(scales)
    numbers = {n: float(w) if isinstance(w, (int, float)) else None for n, w in weights.items()}
    for i, head in enumerate(plan.heads):
        pieces = linear_pieces(plan, i, numbers, scales)
        if head.source is not Source.FEATURES or pieces is None:
            continue
        rows = rows_that_count(head, pieces)
        if gram_is_cheaper(head, plan.features(head), num, len(rows), _SLOWER):
            found[head.name] = HeadMemory(hnet.heads[head.name], features[i], rows)
    return found


def made_elsewhere(hnet: HyperNetwork, heads: Mapping[str, Any]) -> list[str]:
    """Return the tensors that are not made by these heads."""
    plan = hnet.plan
    others = {i for i, head in enumerate(plan.heads) if head.name not in heads}
    return [e.tensor for e in plan.entries if any(p.head in others for p in e.pieces)]
