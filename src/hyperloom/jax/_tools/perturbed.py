"""Noise on the generated weights, and handlers of a user's own before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx
from jax import Array

from hyperloom._core.backend import protocol
from hyperloom._core.backend.documented import completes
from hyperloom._core.backend.views import check_handlers, check_noise, check_width, refuse_carry
from hyperloom._core.errors import finite_float, message
from hyperloom._core.plan.plan import Plan
from hyperloom.jax._hypernetwork import HyperNetwork
from hyperloom.jax._run.checks import as_rngs
from hyperloom.jax._run.pairing import Dims
from hyperloom.jax._target.arrays import ARRAY
from hyperloom.jax._tools.given import a_hypernetwork
from hyperloom.jax._tools.views import unflatten

Params = dict[str, Array]


@completes(protocol.Perturbed)
class Perturbed(nnx.Module):
    """`functional` takes it as it takes a hypernetwork."""

    def __init__(
        self,
        hnet: HyperNetwork,
        sigma: float = 0.02,
        *,
        before: Callable[[Any], Any] | None = None,
        after: Callable[[Params, Any], Mapping[str, Array]] | None = None,
    ) -> None:
        refuse_carry("hnet", a_hypernetwork("hnet", hnet).plan)
        check_handlers(before=before, after=after)
        self.hnet = hnet
        self.sigma = finite_float("sigma", sigma, least=0.0)
        self.before, self.after = before, after

    @property
    def plan(self) -> Plan:
        return self.hnet.plan

    def generate(self, condition: Any, *, rngs: Any = None, noise: Array | None = None) -> Params:
        """`rngs` gives the random numbers of the call.

        Args:
            rngs: Random streams for this call: an `nnx.Rngs`, a key, or a dict of keys. The noise
                is drawn from the stream `noise`, anew for each condition; the rest is as in
                `HyperNetwork.generate`.

        Raises:
            ValueError: Neither `rngs` nor `noise` where there is noise; noise of another shape, or
                noise with `after`.
        """
        streams = as_rngs(rngs)
        changed_condition = condition if self.before is None else self.before(condition)
        tensors: Params = self.hnet.generate(changed_condition, rngs=streams)
        if self.after is not None:
            if noise is not None:
                raise ValueError(message("noise", "an array", "none, as `after` is in its place"))
            return dict(self.after(tensors, condition))
        if noise is not None:
            ARRAY.check("noise", noise, "an array (*batch, P), or None")
            check_width("noise", noise, self.plan)
            cuts = unflatten(noise, self.plan)
            check_noise(noise, cuts, tensors)
        elif not self.sigma:
            return tensors
        else:
            cuts = self._draws(tensors, streams)
        return {name: value + self.sigma * cuts[name] for name, value in tensors.items()}

    def _draws(self, tensors: Params, streams: nnx.Rngs | None) -> Params:
        """Return noise for each tensor."""
        if streams is None:
            way_out = "Pass a new key at each call: rngs=key. Or the noise itself."
            raise ValueError(message("rngs", "none", "what to draw the noise from", way_out))
        keys = jax.random.split(streams.noise(), len(tensors))
        pairs = zip(tensors.items(), keys, strict=True)
        return {n: jax.random.normal(key, v.shape, v.dtype) for (n, v), key in pairs}

    def __call__(
        self,
        *inputs: Any,
        condition: Any,
        noise: Array | None = None,
        in_axes: Dims = 0,
        rngs: Any = None,
        **kwargs: Any,
    ) -> Any:
        streams = as_rngs(rngs)
        tensors = self.generate(condition, rngs=streams, noise=noise)
        return self.hnet.run(tensors, *inputs, in_axes=in_axes, rngs=streams, **kwargs)
