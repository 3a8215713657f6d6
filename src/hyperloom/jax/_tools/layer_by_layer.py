"""Networks that are generated stage by stage from the activations of a support set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx
from jax import Array

from hyperloom._core.backend import tools
from hyperloom._core.backend.documented import completes
from hyperloom._core.backend.views import check_parts, support_of
from hyperloom._core.errors import a_function
from hyperloom.jax._hypernetwork import HyperNetwork
from hyperloom.jax._run.bound import Bound
from hyperloom.jax._run.checks import as_rngs


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BoundStages:
    """Stages with their weights, one after the other: a pytree of the bound networks.

    Attributes:
        nets: The bound stages, in their order.
    """

    nets: tuple[Bound, ...]

    def __call__(self, *inputs: Any, rngs: Any = None) -> Any:
        """Run the stages one after the other; the first gets the inputs."""
        streams = as_rngs(rngs)
        for net in self.nets:
            inputs = (net(*inputs, rngs=streams),)
        return inputs[0]


@completes(tools.LayerByLayer)
class LayerByLayer(nnx.Module):
    """`nnx.state` has the numbers of all stages."""

    def __init__(self, stages: Mapping[str, HyperNetwork], extract: Callable[..., Any]) -> None:
        self.stages: nnx.Dict[Any] = nnx.Dict(check_parts(stages, HyperNetwork, "stages"))
        a_function("extract", extract, "a function (name, activations, *support) -> condition")
        self.names = tuple(stages)
        self.extract = extract

    def bind(self, condition: Any, *, rngs: Any = None) -> BoundStages:
        """A pytree is returned, `BoundStages`.

        Args:
            rngs: As in `HyperNetwork.bind`; each stage draws its own.
        """
        return BoundStages(tuple(net for _, _, net in self._walk(condition, rngs)))

    def generate(self, condition: Any, *, rngs: Any = None) -> dict[str, Array]:
        """`rngs` gives the random numbers of the call.

        Args:
            rngs: As in `HyperNetwork.generate`.
        """
        generated, streams = {}, as_rngs(rngs)
        for stage, value, _ in self._walk(condition, streams):
            of_stage = self.stages[stage].generate(value, rngs=streams)
            generated.update({f"{stage}.{name}": array for name, array in of_stage.items()})
        return generated

    def __call__(self, *inputs: Any, condition: Any, rngs: Any = None) -> Any:
        streams = as_rngs(rngs)
        return self.bind(condition, rngs=streams)(*inputs, rngs=streams)

    def _walk(self, condition: Any, rngs: Any) -> Iterator[tuple[str, Any, Bound]]:
        """Yield each stage's name, its condition, and it with the weights for that."""
        support, streams = support_of(condition), as_rngs(rngs)
        seen = support[0]
        for name in self.names:
            value = self.extract(name, seen, *support)
            net = self.stages[name].bind(value, rngs=streams)
            yield name, value, net
            if name != self.names[-1]:
                seen = net(seen, rngs=streams)
