"""Networks that are generated stage by stage from the activations of a support set."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from hyperloom._core.backend import tools
from hyperloom._core.backend.documented import completes
from hyperloom._core.backend.views import check_parts, support_of
from hyperloom._core.errors import a_function
from hyperloom.torch._hypernetwork import HyperNetwork
from hyperloom.torch._run.bound import Bound


@completes(tools.LayerByLayer)
class LayerByLayer(nn.Module):
    """It is a module of its stages: `print` draws their plans, `state_dict` has their numbers."""

    def __init__(self, stages: Mapping[str, HyperNetwork], extract: Callable[..., Any]) -> None:
        super().__init__()
        self.stages = nn.ModuleDict(check_parts(stages, HyperNetwork, "stages"))
        a_function("extract", extract, "a function (name, activations, *support) -> condition")
        self.extract = extract

    def bind(self, condition: Any) -> nn.Sequential:
        """A module is returned: an `nn.Sequential` of the bound stages, by their names."""
        return nn.Sequential(OrderedDict((name, net) for name, _, net in self._walk(condition)))

    def generate(self, condition: Any) -> dict[str, Tensor]:
        generated = {}
        for stage, value, _ in self._walk(condition):
            of_stage = self._stage(stage).generate(value)
            generated.update({f"{stage}.{name}": tensor for name, tensor in of_stage.items()})
        return generated

    def instantiate(self, condition: Any) -> nn.Sequential:
        """Return a plain network for one support set, to deploy.

        Args:
            condition: As for `bind`, without batch dimensions.
        """
        walk = self._walk(condition)
        nets = ((name, self._stage(name).instantiate(value)) for name, value, _ in walk)
        return nn.Sequential(OrderedDict(nets))

    def forward(self, *inputs: Any, condition: Any) -> Any:
        first, *others = self.bind(condition)
        outputs = first(*inputs)
        for net in others:
            outputs = net(outputs)
        return outputs

    def _walk(self, condition: Any) -> Iterator[tuple[str, Any, Bound]]:
        """Yield each stage's name, its condition, and it with the weights for that."""
        support = support_of(condition)
        seen = support[0]
        last = list(self.stages)[-1]
        for name in self.stages:
            value = self.extract(name, seen, *support)
            net = self._stage(name).bind(value)
            yield name, value, net
            if name != last:
                seen = net(seen)

    def _stage(self, name: str) -> HyperNetwork:
        stage = self.stages[name]
        assert isinstance(stage, HyperNetwork)
        return stage
