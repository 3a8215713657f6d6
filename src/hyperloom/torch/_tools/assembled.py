"""Several hypernetworks whose tensors a function of the user's own puts together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hyperloom._core.backend import protocol
from hyperloom._core.backend.documented import completes
from hyperloom._core.backend.views import check_assembled, check_parts, common_batch, conditions_of
from hyperloom._core.choices.conditions import Vector
from hyperloom._core.choices.inits import Unscaled
from hyperloom._core.choices.layouts import Given
from hyperloom._core.errors import a_function
from hyperloom._core.plan.plan import Plan
from hyperloom.torch._hypernetwork import HyperNetwork
from hyperloom.torch._run.call import Dims
from hyperloom.torch._target.spec import target_spec

Parts = dict[str, dict[str, Tensor]]


@completes(protocol.Assembled)
class Assembled(nn.Module):
    def __init__(
        self,
        target: nn.Module,
        parts: Mapping[str, HyperNetwork],
        assemble: Callable[[Parts], Mapping[str, Tensor]],
    ) -> None:
        super().__init__()
        check_parts(parts, HyperNetwork)
        a_function("assemble", assemble, "a function of the parts' tensors")
        num = target_spec(target).num_parameters
        self.parts = nn.ModuleDict(parts)
        self.assemble = assemble
        # The target as a function of its parameters: nothing of it is learned.
        self.runner = HyperNetwork(target, condition=Vector(num), layout=Given(), init=Unscaled())

    @property
    def plan(self) -> Plan:
        return self.runner.plan

    def generate(self, condition: Any) -> dict[str, Tensor]:
        values = conditions_of(condition, list(self.parts))
        parts: Parts = {}
        plans: dict[str, Plan] = {}
        for name, part in self.parts.items():
            assert isinstance(part, HyperNetwork)
            parts[name], plans[name] = part.generate(values[name]), part.plan
        function = self._one
        for _ in common_batch(parts, plans):
            function = torch.func.vmap(function)
        return function(parts)

    def _one(self, parts: Parts) -> dict[str, Tensor]:
        """Assemble for one condition, and check what came out."""
        return check_assembled(self.assemble(parts), self.plan)

    def forward(
        self,
        *inputs: Any,
        condition: Any,
        in_dims: Dims = 0,
        **kwargs: Any,
    ) -> Any:
        return self.runner.run(self.generate(condition), *inputs, in_dims=in_dims, **kwargs)
