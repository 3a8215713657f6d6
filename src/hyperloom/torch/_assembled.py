"""Several hypernetworks whose tensors a function of the user's own puts together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hyperloom._condition import Vector
from hyperloom._errors import message
from hyperloom._init import Unscaled
from hyperloom._layout import Given
from hyperloom.torch._hypernetwork import HyperNetwork

Parts = dict[str, dict[str, Tensor]]


class Assembled(nn.Module):
    """A target whose tensors are put together from what several hypernetworks generate.

    Where name patterns are not enough: tensors cut out of, joined from or computed with what is
    generated. Shared tensors and tensors of each condition are hypernetworks too, with the
    layouts `Shared()` and `PerCondition()`. hypnettorch's `HContainer` and `StructuredHMLP`.

    Args:
        target: Any module with parameters; a template, as in `HyperNetwork`.
        parts: The hypernetworks by name. What they generate need not be a network: `Shapes`.
        assemble: `f({part: {name: tensor}})` that returns `{name: tensor}` for every parameter
            of the target. It sees one condition at a time, and is mapped over a batch.

    Raises:
        TypeError: A part that is not a `HyperNetwork`.
        ValueError: No parts.
    """

    def __init__(
        self,
        target: nn.Module,
        parts: Mapping[str, HyperNetwork],
        assemble: Callable[[Parts], Mapping[str, Tensor]],
    ) -> None:
        super().__init__()
        if not parts:
            raise ValueError(message("parts", "none", "at least one hypernetwork"))
        for name, part in parts.items():
            if not isinstance(part, HyperNetwork):
                got = f"a {type(part).__name__}"
                raise TypeError(message(f"parts[{name!r}]", got, "a HyperNetwork"))
        self.parts = nn.ModuleDict(parts)
        self.assemble = assemble
        num = sum(p.numel() for p in target.parameters())
        # The target as a function of its parameters: nothing of it is learned.
        self.runner = HyperNetwork(target, condition=Vector(num), layout=Given(), init=Unscaled())

    def generate(self, condition: Any) -> dict[str, Tensor]:
        """Generate the target's parameters.

        Args:
            condition: Raw value of one condition, or of a batch, for all parts; or a dict with a
                value for each part.

        Returns:
            `{name: (*batch, *shape)}`.

        Raises:
            ValueError: Parts with different batches, or an assembly that lacks a tensor of the
                target or returns one of another shape.
        """
        own = isinstance(condition, Mapping)
        if own and set(condition) != set(self.parts):
            raise ValueError(message("condition", sorted(condition), f"{sorted(self.parts)}"))
        made: Parts = {}
        for name, part in self.parts.items():
            assert isinstance(part, HyperNetwork)
            made[name] = part.generate(condition[name] if own else condition)
        batch = self._batch(made)
        function = self._one
        for _ in batch:
            function = torch.func.vmap(function)
        return function(made)

    def _one(self, made: Parts) -> dict[str, Tensor]:
        """Assemble for one condition, and check what came out."""
        found = dict(self.assemble(made))
        shapes = {
            entry.tensor: self.runner.plan.spec[entry.tensor].shape
            for entry in self.runner.plan.entries
        }
        if set(found) != set(shapes):
            missing, unknown = set(shapes) - set(found), set(found) - set(shapes)
            got = f"{sorted(missing)} missing, {sorted(unknown)} unknown"
            raise ValueError(message("assemble", got, "a tensor for each of the target's"))
        for name, shape in shapes.items():
            if tuple(found[name].shape) != shape:
                got = f"shape {tuple(found[name].shape)} for {name!r}"
                raise ValueError(message("assemble", got, f"{shape}"))
        return {name: found[name] for name in shapes}

    def _batch(self, made: Parts) -> tuple[int, ...]:
        batches = {}
        for name, part in self.parts.items():
            assert isinstance(part, HyperNetwork)
            first = part.plan.entries[0].tensor
            value = made[name][first]
            batches[name] = tuple(value.shape[: value.ndim - len(part.plan.spec[first].shape)])
        if len(set(batches.values())) > 1:
            raise ValueError(message("condition", f"batches {batches}", "the same for all parts"))
        return next(iter(batches.values()))

    def forward(
        self,
        *inputs: Any,
        condition: Any,
        in_dims: int | tuple[Any, ...] | None = 0,
        **kwargs: Any,
    ) -> Any:
        """Generate, assemble, and run the target. Arguments as in `HyperNetwork.forward`."""
        return self.runner.run(self.generate(condition), *inputs, in_dims=in_dims, **kwargs)
