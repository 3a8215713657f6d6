"""Several networks as one target: a dict of modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from torch import nn

from hyperloom._core.errors import message, shown


class Networks(nn.Module):
    """Several networks as one target; a tensor's name begins with that of its network.

    Args:
        networks: The networks by name.

    Raises:
        TypeError: What is named is no module.
        ValueError: No network, or a name that a module has already.
    """

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        if not networks:
            raise ValueError(message("target", "an empty dict", "a module for each name"))
        for name, network in networks.items():
            if not isinstance(network, nn.Module):
                got = f"{shown(network)} for {name!r}"
                raise TypeError(message("target", got, "a torch.nn.Module for each name"))
            if not isinstance(name, str) or not name.isidentifier() or hasattr(self, name):
                wanted = "names of networks, as in {'actor': ..., 'critic': ...}"
                raise ValueError(message("target", f"the name {name!r}", wanted))
            self.add_module(name, network)

    def forward(self, *inputs: Any, **kwargs: Any) -> NoReturn:
        """Raise: it is one of them that is to be run."""
        names = list(self._modules)
        got, way_out = f"none, for the networks {', '.join(names)}", f"Say method={names[0]!r}."
        raise TypeError(message("method", got, "the name of one of them", way_out))
