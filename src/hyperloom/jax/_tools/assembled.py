"""Several hypernetworks whose tensors a function of the user's own puts together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx
from jax import Array

from hyperloom._core.backend import protocol
from hyperloom._core.backend.documented import completes
from hyperloom._core.backend.views import check_assembled, check_parts, common_batch, conditions_of
from hyperloom._core.choices.conditions import Vector
from hyperloom._core.choices.inits import Unscaled
from hyperloom._core.choices.layouts import Given
from hyperloom._core.errors import a_function
from hyperloom._core.plan.plan import Plan
from hyperloom.jax._hypernetwork import HyperNetwork
from hyperloom.jax._run.checks import as_rngs
from hyperloom.jax._run.pairing import Dims
from hyperloom.jax._target.read import read_target

Params = dict[str, Array]
Parts = dict[str, Params]


@completes(protocol.Assembled)
class Assembled(nnx.Module):
    """`functional` takes it as it takes a hypernetwork."""

    def __init__(
        self,
        target: Any,
        parts: Mapping[str, HyperNetwork],
        assemble: Callable[[Parts], Mapping[str, Array]],
    ) -> None:
        check_parts(parts, HyperNetwork)
        a_function("assemble", assemble, "a function of the parts' arrays")
        read = read_target(target)
        self.parts: nnx.Dict[Any] = nnx.Dict(parts)
        self.assemble = assemble
        # The target as a function of its parameters: nothing of it is learned.
        choices: Any = {"condition": Vector(read.spec.num_parameters), "layout": Given()}
        self.runner = HyperNetwork(read, init=Unscaled(), rngs=nnx.Rngs(0), **choices)

    @property
    def plan(self) -> Plan:
        return self.runner.plan

    def generate(self, condition: Any, *, rngs: Any = None) -> Params:
        """`rngs` gives the random numbers of the call.

        Args:
            rngs: As in `HyperNetwork.generate`; each part draws its own.
        """
        streams = as_rngs(rngs)
        values = conditions_of(condition, list(self.parts))
        tensors_of_parts: Parts = {
            n: self.parts[n].generate(values[n], rngs=streams) for n in self.parts
        }
        plans: dict[str, Plan] = {name: self.parts[name].plan for name in self.parts}
        assemble, plan = self.assemble, self.plan

        def one(tensors_of_parts: Parts) -> Params:
            return check_assembled(assemble(tensors_of_parts), plan)

        function = one
        for _ in common_batch(tensors_of_parts, plans):
            function = jax.vmap(function)
        return function(tensors_of_parts)

    def __call__(
        self,
        *inputs: Any,
        condition: Any,
        in_axes: Dims = 0,
        rngs: Any = None,
        **kwargs: Any,
    ) -> Any:
        streams = as_rngs(rngs)
        tensors_of_parts = self.generate(condition, rngs=streams)
        return self.runner.run(tensors_of_parts, *inputs, in_axes=in_axes, rngs=streams, **kwargs)
