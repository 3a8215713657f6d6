"""Noise on the generated weights, and handlers of a user's own before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hyperloom._core.backend.views import check_handlers, check_noise, check_width, refuse_carry
from hyperloom._core.errors import finite_float, message
from hyperloom._core.plan.plan import Plan
from hyperloom.torch._arrays import TENSOR
from hyperloom.torch._hypernetwork import HyperNetwork
from hyperloom.torch._tools.given import a_hypernetwork
from hyperloom.torch._tools.views import unflatten

Params = dict[str, Tensor]


class Perturbed(nn.Module):
    """A hypernetwork whose generated tensors are perturbed by Gaussian noise.

    An implicit distribution over networks (`condition=Noise(n)`) has its support on a surface of
    at most `n` dimensions; with noise on every weight it has a density everywhere, which
    divergences such as KL need. hypnettorch's `HPerturbWrapper`.

    Args:
        hnet: The hypernetwork. Its parameters are the parameters of this module.
        sigma: Standard deviation of the noise. Default 0.02.
        before: `f(condition)` that returns the condition that `hnet` gets.
        after: `f(params, condition)` that returns the tensors, in place of the noise. `params`
            is what `hnet` generated, `condition` what the user gave.

    Raises:
        TypeError: `hnet` is not a `HyperNetwork`.
        ValueError: `sigma` negative or not finite, or a condition that carries a state.
    """

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
        """The plan of the hypernetwork."""
        return self.hnet.plan

    def generate(self, condition: Any, *, noise: Tensor | None = None) -> Params:
        """Generate the target's parameters, perturbed.

        Args:
            condition: Raw value of one condition, or of a batch.
            noise: The noise before its scale, `(*batch, P)`, tensor after tensor; drawn by
                default, anew for each condition and each call.

        Returns:
            As `HyperNetwork.generate`.

        Raises:
            ValueError: Noise of another shape, or noise with `after`.
        """
        made = self.hnet.generate(condition if self.before is None else self.before(condition))
        if self.after is not None:
            if noise is not None:
                raise ValueError(message("noise", "a tensor", "none, as `after` is in its place"))
            return dict(self.after(made, condition))
        if noise is None:
            return {name: t + self.sigma * torch.randn_like(t) for name, t in made.items()}
        TENSOR.check("noise", noise, "a tensor (*batch, P), or None")
        check_width("noise", noise, self.hnet.plan)
        cuts = unflatten(noise, self.hnet.plan)
        check_noise(noise, cuts, made)
        return {name: value + self.sigma * cuts[name] for name, value in made.items()}

    def forward(
        self,
        *inputs: Any,
        condition: Any,
        noise: Tensor | None = None,
        in_dims: int | tuple[Any, ...] | None = 0,
        **kwargs: Any,
    ) -> Any:
        """Generate, perturb, and run the target. Arguments as in `HyperNetwork.forward`."""
        made = self.generate(condition, noise=noise)
        return self.hnet.run(made, *inputs, in_dims=in_dims, **kwargs)
