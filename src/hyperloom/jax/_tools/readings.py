"""Readings for loggers: `readings`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from hyperloom._core.backend import protocol
from hyperloom._core.backend.documented import completes
from hyperloom._core.backend.readings import flat
from hyperloom._core.errors import a_mapping, message, shown
from hyperloom.jax._hypernetwork import HyperNetwork
from hyperloom.jax._target.arrays import is_array
from hyperloom.jax._tools.views import conditional_parameters, shared_parameters


@completes(protocol.Backend.readings)
def readings(
    hnet: HyperNetwork,
    condition: Any = None,
    *,
    gradients: Mapping[str, Any] | None = None,
    rngs: Any = None,
) -> dict[str, float]:
    """Not to be called inside `jit`: it returns Python floats.

    Args:
        gradients: Gradients by name, as a loss over the parameters of `functional(hnet)` has them.
        rngs: As in a call; noise conditions draw from it.

    Raises:
        TypeError: `gradients` is no dict of arrays.
    """
    if gradients is not None:
        gradients = a_mapping("gradients", gradients, "a dict of gradients by parameter name")
        for name, value in gradients.items():
            if not is_array(value):
                raise TypeError(message(f"gradients[{name!r}]", shown(value), "an array"))
    parameters = {**shared_parameters(hnet), **conditional_parameters(hnet)}
    generated = {} if condition is None else hnet.generate(condition, rngs=rngs)
    read = flat(parameters, gradients or {}, generated)
    return {name: float(value) for name, value in jax.device_get(read).items()}
