"""Several hypernetworks whose tensors a function of the user's own puts together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx
from jax import Array

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


class Assembled(nnx.Module):
    """A target whose tensors are put together from what several hypernetworks generate.

    Where name patterns are not enough: tensors cut out of, joined from or computed with what is
    generated. Shared tensors and tensors of each condition are hypernetworks too, with the
    layouts `Shared()` and `PerCondition()`. hypnettorch's `HContainer` and `StructuredHMLP`.
    `functional` takes it as it takes a hypernetwork.

    Args:
        target: A target, as of `HyperNetwork`: a template.
        parts: The hypernetworks by name. What they generate need not be a network: `Shapes`.
        assemble: `f({part: {name: array}})` that returns `{name: array}` for every parameter
            of the target. It sees one condition at a time, and is mapped over a batch.

    Raises:
        TypeError: A part that is not a `HyperNetwork`.
        ValueError: No parts, or one whose condition carries a state.
    """

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
        """The target's tensors, as a plan in which all of them are given."""
        return self.runner.plan

    def generate(self, condition: Any, *, rngs: Any = None) -> Params:
        """Generate the target's parameters.

        Args:
            condition: Raw value of one condition, or of a batch, for all parts; or a dict with a
                value for each part.
            rngs: As in `HyperNetwork.generate`; each part draws its own.

        Returns:
            `{name: array (*batch, *shape)}`.

        Raises:
            ValueError: Parts with different batches, or an assembly that lacks a tensor of the
                target or returns one of another shape.
            TypeError: An assembly that returns no dict.
        """
        streams = as_rngs(rngs)
        values = conditions_of(condition, list(self.parts))
        made: Parts = {n: self.parts[n].generate(values[n], rngs=streams) for n in self.parts}
        plans: dict[str, Plan] = {name: self.parts[name].plan for name in self.parts}
        assemble, plan = self.assemble, self.plan

        def one(made: Parts) -> Params:
            return check_assembled(assemble(made), plan)

        function = one
        for _ in common_batch(made, plans):
            function = jax.vmap(function)
        return function(made)

    def __call__(
        self,
        *inputs: Any,
        condition: Any,
        in_axes: Dims = 0,
        rngs: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Generate, assemble, and run the target. Arguments as in a call of `HyperNetwork`."""
        streams = as_rngs(rngs)
        made = self.generate(condition, rngs=streams)
        return self.runner.run(made, *inputs, in_axes=in_axes, rngs=streams, **kwargs)
