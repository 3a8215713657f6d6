"""Noise on the generated weights, and handlers of a user's own before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hyperloom._core.backend import protocol
from hyperloom._core.backend.documented import completes
from hyperloom._core.backend.views import check_handlers, check_noise, check_width, refuse_carry
from hyperloom._core.errors import finite_float, message
from hyperloom._core.plan.plan import Plan
from hyperloom.torch._hypernetwork import HyperNetwork
from hyperloom.torch._run.call import Dims
from hyperloom.torch._target.arrays import TENSOR
from hyperloom.torch._tools.given import a_hypernetwork
from hyperloom.torch._tools.views import unflatten

Params = dict[str, Tensor]


@completes(protocol.Perturbed)
class Perturbed(nn.Module):
    def __init__(
        self,
        hnet: HyperNetwork,
        sigma: float = 0.02,
        *,
        before: Callable[[Any], Any] | None = None,
        after: Callable[[Params, Any], Mapping[str, Tensor]] | None = None,
    ) -> None:
        super().__init__()
        hnet = a_hypernetwork("hnet", hnet)
        refuse_carry("hnet", hnet.plan)
        check_handlers(before=before, after=after)
        self.hnet = hnet
        self.sigma = finite_float("sigma", sigma, least=0.0)
        self.before, self.after = before, after

    @property
    def plan(self) -> Plan:
        return self.hnet.plan

    def generate(self, condition: Any, *, noise: Tensor | None = None) -> Params:
        return self._weights(self._given(condition), condition, noise)

    def _given(self, condition: Any) -> Any:
        """Return what the hypernetwork is given for a condition."""
        return condition if self.before is None else self.before(condition)

    def _weights(self, given: Any, condition: Any, noise: Tensor | None) -> Params:
        weights = self.hnet.generate(given)
        if self.after is not None:
            if noise is not None:
                raise ValueError(message("noise", "a tensor", "none, as `after` is in its place"))
            return dict(self.after(weights, condition))
        if noise is None:
            return {name: t + self.sigma * torch.randn_like(t) for name, t in weights.items()}
        TENSOR.check("noise", noise, "a tensor (*batch, P), or None")
        check_width("noise", noise, self.hnet.plan)
        cuts = unflatten(noise, self.hnet.plan)
        check_noise(noise, cuts, weights)
        return {name: value + self.sigma * cuts[name] for name, value in weights.items()}

    def forward(
        self,
        *inputs: Any,
        condition: Any,
        noise: Tensor | None = None,
        in_dims: Dims = 0,
        **kwargs: Any,
    ) -> Any:
        given = self._given(condition)
        weights = self._weights(given, condition, noise)
        # Only for what the target keeps by id: a condition that draws would draw again.
        by_id = next(self.hnet.target_statistics.tensors(), None) is not None
        ids = given if by_id else None
        return self.hnet.run(weights, *inputs, condition=ids, in_dims=in_dims, **kwargs)
