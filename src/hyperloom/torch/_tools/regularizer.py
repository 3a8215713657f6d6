"""The output regulariser of continual learning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperloom._core.backend.regularizer import (
    Rows,
    check_batch,
    check_fixed,
    check_weights,
    given_weights,
    gram_is_cheaper,
    linear_pieces,
    rows_that_count,
    weight_of,
)
from hyperloom._core.choices.layouts import Piece
from hyperloom._core.errors import finite_float, positive_int
from hyperloom._core.plan.plan import Plan
from hyperloom.torch._arrays import TENSOR
from hyperloom.torch._generate.conditions import Encoded
from hyperloom.torch._generate.generator import tensors_of
from hyperloom.torch._generate.numbers import slot_features
from hyperloom.torch._hypernetwork import HyperNetwork
from hyperloom.torch._tools.given import a_hypernetwork


class OutputRegularizer:
    """Keeps what the hypernetwork generates for old conditions while it learns new ones.

    `remember` stores the tensors generated now; calling the object returns

        strength / T * sum over the T old conditions of || h(now) - h(remembered) ||^2

    with all old conditions generated in one batched pass; or, where that is cheaper, with Gram
    matrices of features and heads in place of the outputs. Von Oswald et al.,
    "Continual learning with hypernetworks", ICLR 2020, equation 2, without the lookahead step.

    Args:
        strength: Factor on the mean over old conditions (the paper's beta).
        subset: Regularise this many old conditions a call, drawn anew at each call without
            replacement; the mean is over those drawn. `None` (default) takes all.
        weights: Importance of tensors: a dict from name patterns to a number or to a tensor that
            broadcasts to the tensor's shape (a mask, a Fisher diagonal), first match wins; what
            no pattern names counts 1.

    Raises:
        ValueError: A negative `strength`, or a `subset` below 1.

    Example:
        >>> reg = OutputRegularizer(strength=0.01)
        >>> # before learning task t:  reg.remember(hnet, range(t))
        >>> # at each step:            loss = task_loss + reg(hnet)
    """

    def __init__(
        self,
        strength: float,
        *,
        subset: int | None = None,
        weights: Mapping[str, float | Tensor] | None = None,
    ) -> None:
        self.strength = finite_float("strength", strength, least=0.0)
        self.subset = None if subset is None else positive_int("subset", subset)
        self.weights = given_weights(weights, TENSOR)
        self._conditions: Any = None
        self._num = 0
        self._targets: dict[str, Tensor] = {}
        self._heads: dict[int, HeadMemory] = {}

    @property
    def num_conditions(self) -> int:
        """How many conditions are remembered."""
        return self._num

    def remember(self, hnet: HyperNetwork, conditions: Any) -> None:
        """Store what `hnet` generates for a batch of conditions now, in place of what was stored.

        Args:
            hnet: The hypernetwork.
            conditions: Raw value of a batch of conditions, e.g. `range(t)` or ids `(T,)`. An
                empty range or list forgets everything: the regulariser is then zero.

        Raises:
            ValueError: One condition instead of a batch, noise that is drawn anew at each call, a
                weight's pattern that names no generated tensor, or a weight whose shape does not
                broadcast to that of a tensor it is for.
        """
        hnet = a_hypernetwork("hnet", hnet)
        if isinstance(conditions, (range, list, tuple)) and len(conditions) == 0:
            self._conditions, self._num, self._targets, self._heads = None, 0, {}, {}
            return
        check_weights(self.weights, hnet.plan, TENSOR)
        check_fixed(hnet.plan.condition, conditions, TENSOR)
        with torch.no_grad():
            encoded = hnet.encode(conditions)
            check_batch(tuple(encoded.batch))
            heads = self._remember_heads(hnet, encoded)
            rest = _made_elsewhere(hnet.plan, heads)
            targets = tensors_of(hnet, encoded) if rest else {}
        self._conditions, self._num = conditions, encoded.batch[0]
        self._heads = heads
        self._targets = {name: targets[name].detach().clone() for name in rest}

    def __call__(self, hnet: HyperNetwork) -> Tensor:
        """Return the penalty, a scalar; zero while nothing is remembered."""
        hnet = a_hypernetwork("hnet", hnet)
        if not self._num:
            parameter = next(hnet.parameters())
            return torch.zeros((), dtype=parameter.dtype, device=parameter.device)
        encoded, index = self._chosen(hnet.encode(self._conditions))
        terms = []
        if self._heads:
            features = slot_features(hnet.plan, hnet.trunks, hnet.heads, encoded)
            for i, memory in self._heads.items():
                head: Any = hnet.heads[hnet.plan.heads[i].name]
                now = _slotted(head.signed(features[i]))
                terms.append(memory.distance(now, head.weight, head.bias, index))
        made = tensors_of(hnet, encoded) if self._targets else {}
        for name, old in self._targets.items():
            chosen = old if index is None else old[index.to(old.device)]
            terms.append(self._distance(name, made[name], chosen))
        return self.strength / encoded.batch[0] * torch.stack(terms).sum()

    def _remember_heads(self, hnet: HyperNetwork, encoded: Encoded) -> dict[int, HeadMemory]:
        """Return memories of the heads whose change is cheaper to tell without their outputs."""
        plan, found = hnet.plan, {}
        num = encoded.batch[0] if self.subset is None else min(self.subset, encoded.batch[0])
        features = slot_features(plan, hnet.trunks, hnet.heads, encoded)
        for i, head in enumerate(plan.heads):
            pieces = self._linear_pieces(hnet, i)
            if not head.linear or pieces is None:
                continue
            rows = rows_that_count(head, pieces)
            if gram_is_cheaper(head, plan.features(head), num, len(rows)):
                module: Any = hnet.heads[head.name]
                state = (_slotted(module.signed(features[i])), module.weight, module.bias)
                old, weight, bias = (tensor.detach().clone() for tensor in state)
                found[i] = HeadMemory(old, weight, bias, rows)
        return found

    def _linear_pieces(self, hnet: HyperNetwork, index: int) -> list[tuple[Piece, float]] | None:
        """Return a head's pieces with the factor on their squares; `None` if one has no such."""
        weights = {e.tensor: weight_of(self.weights, e.tensor) for e in hnet.plan.entries}
        numbers = {n: None if isinstance(w, Tensor) else w for n, w in weights.items()}
        scales = None if hnet.scales is None else hnet.scales.detach().cpu().numpy()
        return linear_pieces(hnet.plan, index, numbers, scales)

    def _chosen(self, encoded: Encoded) -> tuple[Encoded, Tensor | None]:
        """Return the conditions of this call, and which of all they are."""
        if self.subset is None or self.subset >= self._num:
            return encoded, None
        # Encoded first, then chosen: a raw value may be a tuple of anything, shared parts and all.
        index = torch.randperm(self._num)[: self.subset].to(encoded.vector.device)
        ids = None if encoded.ids is None else encoded.ids[index]
        return Encoded(encoded.vector[index], ids), index

    def _distance(self, name: str, now: Tensor, old: Tensor) -> Tensor:
        weight = weight_of(self.weights, name)
        if isinstance(weight, Tensor):
            return ((now - old).square() * weight).sum()
        return weight * F.mse_loss(now, old, reduction="sum")  # one operation, not three


def _made_elsewhere(plan: Plan, heads: Mapping[int, HeadMemory]) -> list[str]:
    """Return the tensors that are not made by these heads."""
    return [e.tensor for e in plan.entries if any(p.head not in heads for p in e.pieces)]


def _slotted(features: Tensor) -> Tensor:
    """Give features of a head without slot embeddings the axis of its one slot: `(T, C, F)`."""
    return features.unsqueeze(-2) if features.ndim == 2 else features


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
