"""The output regulariser of continual learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hyperloom._errors import did_you_mean, finite_float, message, positive_int

if TYPE_CHECKING:
    from hyperloom.torch._hypernetwork import HyperNetwork


class OutputRegularizer:
    """Keeps what the hypernetwork generates for old conditions while it learns new ones.

    `remember` stores the tensors generated now; calling the object returns

        strength / T * sum over the T old conditions of || h(now) - h(remembered) ||^2

    with all old conditions generated in one batched pass. Von Oswald et al., "Continual learning
    with hypernetworks", ICLR 2020, equation 2, without the lookahead step.

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
        self.weights = dict(weights or {})
        self._conditions: Any = None
        self._targets: dict[str, Tensor] = {}

    @property
    def num_conditions(self) -> int:
        """How many conditions are remembered."""
        return len(next(iter(self._targets.values()))) if self._targets else 0

    def remember(self, hnet: HyperNetwork, conditions: Any) -> None:
        """Store what `hnet` generates for a batch of conditions now, in place of what was stored.

        Args:
            hnet: The hypernetwork.
            conditions: Raw value of a batch of conditions, e.g. `range(t)` or ids `(T,)`. An
                empty range or list forgets everything: the regulariser is then zero.

        Raises:
            ValueError: One condition instead of a batch, or a weight's pattern that names no
                generated tensor.
        """
        if isinstance(conditions, (range, list, tuple)) and len(conditions) == 0:
            self._conditions, self._targets = None, {}
            return
        names = [entry.tensor for entry in hnet.plan.entries]
        for pattern in self.weights:
            if not any(fnmatchcase(name, pattern) for name in names):
                got = f"the pattern {pattern!r}, which names no generated tensor"
                way_out = did_you_mean(pattern, names)
                raise ValueError(message("weights", got, "patterns that do", way_out))
        with torch.no_grad():
            targets = hnet.generate(conditions)
            batch = hnet.condition(conditions).batch
        if len(batch) != 1:
            got = f"conditions with dimensions {tuple(batch)}"
            raise ValueError(message("conditions", got, "a batch (T,)", "For one: [id]."))
        self._conditions = conditions
        self._targets = {name: value.detach() for name, value in targets.items()}

    def __call__(self, hnet: HyperNetwork) -> Tensor:
        """Return the penalty, a scalar; zero while nothing is remembered."""
        if not self._targets:
            parameter = next(hnet.parameters())
            return torch.zeros((), dtype=parameter.dtype, device=parameter.device)
        conditions, targets = self._chosen()
        now = hnet.generate(conditions)
        num = len(next(iter(targets.values())))
        terms = [self._distance(name, now[name], old) for name, old in targets.items()]
        return self.strength / num * torch.stack(terms).sum()

    def _chosen(self) -> tuple[Any, dict[str, Tensor]]:
        """Return the conditions of this call, and their targets."""
        total = self.num_conditions
        if self.subset is None or self.subset >= total:
            return self._conditions, self._targets
        index = torch.randperm(total)[: self.subset]
        targets = {name: old[index.to(old.device)] for name, old in self._targets.items()}
        return _take(self._conditions, index), targets

    def _distance(self, name: str, now: Tensor, old: Tensor) -> Tensor:
        square = (now - old).square()
        for pattern, weight in self.weights.items():
            if fnmatchcase(name, pattern):
                return (square * weight).sum()
        return square.sum()


def _take(conditions: Any, index: Tensor) -> Any:
    """Return the conditions at `index` of a batch, in the form they were given in."""
    if isinstance(conditions, Tensor):
        return conditions[index.to(conditions.device)]
    if isinstance(conditions, tuple):
        return tuple(_take(part, index) for part in conditions)
    if isinstance(conditions, Sequence):
        return [conditions[i] for i in index.tolist()]
    return conditions
