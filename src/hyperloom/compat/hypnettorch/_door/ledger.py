"""The parameter tensors of a hypernetwork in hypnettorch's order, and what it says of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn


@dataclass
class Entry:
    """One parameter tensor.

    Attributes:
        shape: Its shape.
        name: hypnettorch's word for what it is: `weight`, `bias`, `embedding`, `bn_scale` ...
        layer: hypnettorch's number of its layer.
        conditional: Whether it belongs to one condition.
        parameter: The tensor, or `None` if it comes from outside at every call.
        linear: Whether it is the weight or bias of a fully connected layer.
        extra: Further keys of its meta data.
    """

    shape: list[int]
    name: str
    layer: int
    conditional: bool = False
    parameter: nn.Parameter | None = None
    linear: bool = False
    extra: dict[str, Any] = field(default_factory=dict[str, Any])

    def moved(self, layer: int, **extra: Any) -> Entry:
        """Return the entry as part of another hypernetwork."""
        return replace(self, layer=layer, extra={**self.extra, **extra})


def entry(shape: Iterable[int], name: str, layer: int, external: bool, **options: Any) -> Entry:
    """Make an entry, with a tensor unless it is `external`; its numbers are still to be filled."""
    sizes = [int(n) for n in shape]
    parameter = None if external else nn.Parameter(torch.empty(sizes))
    return Entry(sizes, name, layer, parameter=parameter, **options)


@dataclass(frozen=True)
class Ledger:
    """All entries, and the lists that hypnettorch derives from them."""

    entries: tuple[Entry, ...]

    @property
    def held(self) -> list[Entry]:
        """Entries whose tensor is held inside."""
        return [e for e in self.entries if e.parameter is not None]

    @property
    def shapes(self) -> list[list[int]]:
        """Shapes of all entries."""
        return [e.shape for e in self.entries]

    @property
    def meta(self) -> list[dict[str, Any]]:
        """What is said of each: `name`, `index` among those held (or -1), `layer`, and more."""
        made, index = [], 0
        for e in self.entries:
            own = -1 if e.parameter is None else index
            index += e.parameter is not None
            made.append({"name": e.name, "index": own, "layer": e.layer, **e.extra})
        return made

    def positions(self, conditional: bool) -> list[int]:
        """Indices of the entries that belong to one condition, or of the others."""
        return [i for i, e in enumerate(self.entries) if e.conditional is conditional]

    @property
    def external(self) -> list[int]:
        """Indices of the entries that come from outside."""
        return [i for i, e in enumerate(self.entries) if e.parameter is None]

    def linear(self, name: str) -> nn.ParameterList:
        """Return the weights (or biases) of the fully connected layers that are held."""
        return nn.ParameterList([e.parameter for e in self.held if e.linear and e.name == name])
