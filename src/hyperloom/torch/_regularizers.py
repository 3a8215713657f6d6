"""The output regulariser of continual learning."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hyperloom._condition import Concat, Condition, Noise
from hyperloom._errors import did_you_mean, finite_float, message, positive_int
from hyperloom.torch._conditions import Encoded

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
            ValueError: One condition instead of a batch, noise that is drawn anew at each call, a
                weight's pattern that names no generated tensor, or a weight whose shape does not
                broadcast to that of a tensor it is for.
        """
        if isinstance(conditions, (range, list, tuple)) and len(conditions) == 0:
            self._conditions, self._targets = None, {}
            return
        self._check_weights(hnet)
        if _is_drawn(hnet.plan.condition, conditions):
            wanted = "conditions that are the same at each call"
            way_out = "Give the noise itself, as a tensor."
            raise ValueError(message("conditions", "noise to be drawn anew", wanted, way_out))
        with torch.no_grad():
            encoded = hnet._encode(conditions)
            if len(encoded.batch) != 1:
                got = f"conditions with dimensions {tuple(encoded.batch)}"
                raise ValueError(message("conditions", got, "a batch (T,)", "For one: [id]."))
            targets = hnet._generate(encoded)
        self._conditions = conditions
        self._targets = {name: value.detach().clone() for name, value in targets.items()}

    def __call__(self, hnet: HyperNetwork) -> Tensor:
        """Return the penalty, a scalar; zero while nothing is remembered."""
        if not self._targets:
            parameter = next(hnet.parameters())
            return torch.zeros((), dtype=parameter.dtype, device=parameter.device)
        encoded, targets = self._chosen(hnet._encode(self._conditions))
        now = hnet._generate(encoded)
        num = len(next(iter(targets.values())))
        terms = [self._distance(name, now[name], old) for name, old in targets.items()]
        return self.strength / num * torch.stack(terms).sum()

    def _check_weights(self, hnet: HyperNetwork) -> None:
        """Raise for a weight that is for nothing, or does not fit what it is for."""
        shapes = {e.tensor: hnet.plan.spec[e.tensor].shape for e in hnet.plan.entries}
        for pattern, weight in self.weights.items():
            named = [name for name in shapes if fnmatchcase(name, pattern)]
            if not named:
                got = f"the pattern {pattern!r}, which names no generated tensor"
                way_out = did_you_mean(pattern, shapes)
                raise ValueError(message("weights", got, "patterns that do", way_out))
            size = tuple(weight.shape) if isinstance(weight, Tensor) else ()
            for name in named:
                if not _broadcasts(size, shapes[name]):
                    got = f"a tensor of shape {size} for {name!r}"
                    wanted = f"a number, or a shape that broadcasts to {shapes[name]}"
                    raise ValueError(message(f"weights[{pattern!r}]", got, wanted))

    def _chosen(self, encoded: Encoded) -> tuple[Encoded, dict[str, Tensor]]:
        """Return the conditions of this call, and their targets."""
        total = self.num_conditions
        if self.subset is None or self.subset >= total:
            return encoded, self._targets
        # Encoded first, then chosen: a raw value may be a tuple of anything, shared parts and all.
        index = torch.randperm(total)[: self.subset].to(encoded.vector.device)
        ids = None if encoded.ids is None else encoded.ids[index]
        targets = {name: old[index.to(old.device)] for name, old in self._targets.items()}
        return Encoded(encoded.vector[index], ids), targets

    def _distance(self, name: str, now: Tensor, old: Tensor) -> Tensor:
        square = (now - old).square()
        for pattern, weight in self.weights.items():
            if fnmatchcase(name, pattern):
                return (square * weight).sum()
        return square.sum()


def _broadcasts(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    """Whether `small` broadcasts to exactly `large`."""
    tails = zip(reversed(small), reversed(large), strict=False)
    return len(small) <= len(large) and all(a in (1, b) for a, b in tails)


def _is_drawn(choice: Condition, value: Any) -> bool:
    """Whether a raw value asks for noise that differs from call to call."""
    if isinstance(choice, Concat) and isinstance(value, (tuple, list)):
        pairs = zip(choice.parts, value, strict=False)
        return any(_is_drawn(part, v) for part, v in pairs)
    return isinstance(choice, Noise) and not isinstance(value, Tensor)
