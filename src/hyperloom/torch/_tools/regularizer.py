"""The output regulariser of continual learning."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from hyperloom._core.backend import protocol
from hyperloom._core.backend.documented import completes
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
from hyperloom._core.choices.conditions import Concat, Condition
from hyperloom._core.choices.layouts import Piece
from hyperloom._core.errors import finite_float, positive_int
from hyperloom._core.plan.plan import Plan
from hyperloom.torch._generate.encoded import Encoded
from hyperloom.torch._generate.generator import tensors_of
from hyperloom.torch._generate.numbers import slot_features
from hyperloom.torch._hypernetwork import HyperNetwork
from hyperloom.torch._target.arrays import TENSOR
from hyperloom.torch._target.tensors import TensorTree
from hyperloom.torch._tools.given import a_hypernetwork


@completes(protocol.OutputRegularizer)
class OutputRegularizer(nn.Module):
    """It is a module whose buffers are what it remembers: they follow `.to()`, and are in its state
    dict; a new regulariser with the same choices goes on from there.
    """

    def __init__(
        self,
        strength: float,
        *,
        subset: int | None = None,
        weights: Mapping[str, float | Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.strength = finite_float("strength", strength, least=0.0)
        self.subset = None if subset is None else positive_int("subset", subset)
        given = given_weights(weights, TENSOR)
        self._numbers = {k: v for k, v in given.items() if not isinstance(v, Tensor)}
        self._order = tuple(given)
        # Masks are a choice of the user's, not what is remembered: they move, and are not saved.
        self.masks = TensorTree()
        for i, pattern in enumerate(given):
            if pattern not in self._numbers:
                self.masks.add_buffer(str(i), given[pattern], persistent=False)
        self._forget()
        self.register_load_state_dict_pre_hook(_make_room)

    def _forget(self) -> None:
        self.num_conditions = 0
        self.conditions, self.targets, self.memories = TensorTree(), TensorTree(), nn.ModuleDict()
        # The raw value of the conditions: its structure with an index for each leaf, and leaves
        # that are no tensors.
        self._raw: tuple[Any, list[Any]] = (None, [])
        self._of: Plan | None = None
        self._known: dict[int, tuple[Rows, ...]] = {}

    @property
    def weights(self) -> dict[str, float | Tensor]:
        """Importance of tensors: name pattern -> number or tensor, in order."""
        masks = dict(self.masks.tensors())
        numbered = enumerate(self._order)
        return {p: masks[str(i)] if str(i) in masks else self._numbers[p] for i, p in numbered}

    def remember(self, hnet: HyperNetwork, conditions: Any) -> None:
        hnet = a_hypernetwork("hnet", hnet)
        if isinstance(conditions, (range, list, tuple)) and len(conditions) == 0:
            self._forget()
            return
        check_weights(self.weights, hnet.plan, TENSOR)
        check_fixed(hnet.plan.condition, conditions, TENSOR)
        with torch.no_grad():
            encoded = hnet.encode(conditions)
            check_batch(tuple(encoded.batch))
            memories = self._remember_heads(hnet, encoded)
            rest = _made_elsewhere(hnet.plan, memories)
            tensors = tensors_of(hnet, encoded) if rest else {}
        self._forget()
        self.num_conditions = encoded.batch[0]
        # Copies: what the caller does with the list or tensor afterwards is not remembered.
        leaves, spec = tree_flatten(_as_tensors(hnet.plan.condition, conditions))
        structure = tree_unflatten(list(range(len(leaves))), spec)
        self._raw = structure, [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                self.conditions.add_buffer(str(i), leaf.detach().clone())
        for name in rest:
            self.targets.add_buffer(name, tensors[name].detach().clone())
        self.memories.update(memories)

    def forward(self, hnet: HyperNetwork) -> Tensor:
        hnet = a_hypernetwork("hnet", hnet)
        if not self.num_conditions:
            parameter = next(hnet.parameters())
            return torch.zeros((), dtype=parameter.dtype, device=parameter.device)
        encoded, index = self._chosen(hnet.encode(self._remembered()))
        terms = []
        if self.memories:
            features = slot_features(hnet.plan, hnet.trunks, hnet.heads, encoded)
            for i, planned in enumerate(hnet.plan.heads):
                if planned.name in self.memories:
                    memory: Any = self.memories[planned.name]
                    head: Any = hnet.heads[planned.name]
                    now = _slotted(head.signed(features[i]))
                    rows = self._rows(hnet, i)
                    terms.append(memory.distance(now, head.weight, head.bias, rows, index))
        targets = dict(self.targets.tensors())
        generated = tensors_of(hnet, encoded) if targets else {}
        for name, old in targets.items():
            chosen = old if index is None else old[index.to(old.device)]
            terms.append(self._distance(name, generated[name], chosen))
        return self.strength / encoded.batch[0] * torch.stack(terms).sum()

    def _remembered(self) -> Any:
        """Return the raw value of the conditions."""
        structure, rest = self._raw
        tensors = dict(self.conditions.tensors())
        return tree_map(lambda i: tensors.get(str(i), rest[i]), structure)

    def get_extra_state(self) -> dict[str, Any]:
        """Return what is remembered beside tensors; part of the state dict."""
        structure, rest = self._raw
        return {"num_conditions": self.num_conditions, "structure": structure, "values": rest}

    def set_extra_state(self, state: Any) -> None:
        """Take what `get_extra_state` returned; called by `load_state_dict`."""
        self._raw = state["structure"], list(state["values"])
        self.num_conditions = state["num_conditions"]

    def _rows(self, hnet: HyperNetwork, index: int) -> tuple[Rows, ...]:
        """Return which rows of a head count how much."""
        if self._of is not hnet.plan:
            self._of, self._known = hnet.plan, {}
        if index not in self._known:
            pieces = self._linear_pieces(hnet, index)
            assert pieces is not None
            self._known[index] = rows_that_count(hnet.plan.heads[index], pieces)
        return self._known[index]

    def _remember_heads(self, hnet: HyperNetwork, encoded: Encoded) -> dict[str, HeadMemory]:
        """Return memories of the heads whose change is cheaper to tell without their outputs."""
        plan, memories = hnet.plan, {}
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
                memories[head.name] = HeadMemory(*state)
        return memories

    def _linear_pieces(self, hnet: HyperNetwork, index: int) -> list[tuple[Piece, float]] | None:
        """Return a head's pieces with the factor on their squares; `None` if one has no such."""
        weights = {e.tensor: weight_of(self.weights, e.tensor) for e in hnet.plan.entries}
        numbers = {n: None if isinstance(w, Tensor) else w for n, w in weights.items()}
        scales = None if hnet.scales is None else hnet.scales.detach().cpu().numpy()
        return linear_pieces(hnet.plan, index, numbers, scales)

    def _chosen(self, encoded: Encoded) -> tuple[Encoded, Tensor | None]:
        """Return the conditions of this call, and which of all they are."""
        if self.subset is None or self.subset >= self.num_conditions:
            return encoded, None
        # Encoded first, then chosen: a raw value may be a tuple of anything, shared parts and all.
        index = torch.randperm(self.num_conditions)[: self.subset].to(encoded.vector.device)
        return encoded.each(lambda value: value[index]), index

    def _distance(self, name: str, now: Tensor, old: Tensor) -> Tensor:
        weight = weight_of(self.weights, name)
        if isinstance(weight, Tensor):
            return ((now - old).square() * weight).sum()
        return weight * F.mse_loss(now, old, reduction="sum")  # one operation, not three


def _make_room(
    regularizer: OutputRegularizer, state_dict: Mapping[str, Any], prefix: str, *rest: Any
) -> None:
    """Make room for what a state dict remembers, whatever is remembered before it is loaded."""
    regularizer._forget()
    for key, value in state_dict.items():
        tree, _, name = key.removeprefix(prefix).partition(".")
        if key.startswith(prefix) and tree in ("conditions", "targets"):
            getattr(regularizer, tree).add_buffer(name, value.detach().clone())
        elif key.startswith(prefix) and tree == "memories" and name.endswith(".features"):
            head = name.removesuffix(".features")
            parts = (state_dict[f"{prefix}memories.{head}.{part}"] for part in HeadMemory.PARTS)
            regularizer.memories[head] = HeadMemory(*parts)


def _made_elsewhere(plan: Plan, memories: Mapping[str, Any]) -> list[str]:
    """Return the tensors that are not generated by the heads that are remembered."""
    return [
        entry.tensor
        for entry in plan.entries
        if any(plan.heads[piece.head].name not in memories for piece in entry.pieces)
    ]


def _as_tensors(choice: Condition, value: Any) -> Any:
    """Return a raw value whose lists of ids are tensors."""
    if isinstance(choice, Concat) and isinstance(value, (tuple, list)):
        return tuple(_as_tensors(p, v) for p, v in zip(choice.parts, value, strict=True))
    if choice.num_ids is not None and isinstance(value, (range, list, tuple)):
        return torch.tensor(list(value))
    return value


def _slotted(features: Tensor) -> Tensor:
    """Give features of a head without slot embeddings the axis of its one slot: `(T, C, F)`."""
    return features.unsqueeze(-2) if features.ndim == 2 else features


class HeadMemory(nn.Module):
    """What is remembered of a linear head.

    Args:
        features: `(T, C, F)`, signs in.
        weight: `(S, F)`.
        bias: `(S,)`.
    """

    PARTS = ("features", "weight", "bias")
    features: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, features: Tensor, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        for name, value in zip(self.PARTS, (features, weight, bias), strict=True):
            self.register_buffer(name, value.detach().clone())

    def distance(
        self,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        counted: tuple[Rows, ...],
        index: Tensor | None,
    ) -> Tensor:
        """Return the weighted squared norm of the change, summed over conditions.

        Args:
            features: Features now, `(T, C, F)`.
            weight: Weight now.
            bias: Bias now.
            counted: Which rows count how much.
            index: Which of the remembered conditions `features` are for; `None` for all.
        """
        old = self.features if index is None else self.features[index]
        d = torch.cat([features - old, old, torch.ones_like(old[..., :1])], -1)
        e = torch.cat([weight, weight - self.weight, (bias - self.bias).unsqueeze(-1)], -1)
        # One split: its backward pass is one concatenation.
        edges = sorted({edge for rows in counted for span in rows.ranges for edge in span})
        cuts = e[: edges[-1]].split([stop - start for start, stop in pairwise(edges)])
        place = dict(zip(edges, cuts, strict=False))
        terms = []
        for rows in counted:
            part = [place[start] for start, _ in rows.ranges]
            e_rows = part[0] if len(part) == 1 else torch.cat(part)
            factors = d.new_tensor(rows.factors).unsqueeze(-1)
            d_gram = (d * factors).flatten(0, 1).mT @ d.flatten(0, 1)
            terms.append((d_gram * (e_rows.mT @ e_rows)).sum())
        return torch.stack(terms).sum()
