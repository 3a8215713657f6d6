"""How far one step of an optimiser moves generated tensors, beside a plain network's.

It is the first step from here, without what the optimiser has gathered; nothing is changed by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from hyperloom._core.backend.rates import divisors
from hyperloom._core.errors import message, shown
from hyperloom._core.reports.measures import told
from hyperloom._core.reports.readings import StepReading, TensorReading
from hyperloom._core.reports.steps import Moved, grows, moved, with_steps
from hyperloom.jax._hypernetwork import HyperNetwork

Arrays = Mapping[str, Array]


def check_optimizer(optimizer: Any) -> None:
    """Raise unless `optimizer` is one of optax."""
    parts = (getattr(optimizer, name, None) for name in ("init", "update"))
    if optimizer is not None and not all(map(callable, parts)):
        wanted = "an optax.GradientTransformation, e.g. optax.adam(1e-3)"
        way_out = "Of an nnx.Optimizer it is the attribute tx."
        raise TypeError(message("optimizer", shown(optimizer), wanted, way_out))


def measure_step(
    hnet: HyperNetwork,
    optimizer: Any,
    params: Arrays,
    grads: Mapping[str, Array | None],
    generate: Callable[[Arrays], Arrays],
    native: Callable[[], tuple[Arrays, Mapping[str, Array | None]]],
    tensors: tuple[TensorReading, ...],
) -> tuple[tuple[TensorReading, ...], StepReading]:
    """Take one step for the gradients given; return the tensors' readings with its effect.

    Args:
        hnet: The hypernetwork.
        optimizer: An optax transformation.
        params: The hypernetwork's parameters by name.
        grads: Their gradients; `None` counts as zero.
        generate: Returns the generated tensors for parameters.
        native: Returns the tensors of a plain network, and their gradients.
        tensors: Readings of the generated tensors.
    """
    reading = StepReading("optax")
    try:
        full = _filled(grads, params)
        once, twice = (_update(optimizer, params, _times(full, n)) for n in (1, 2))
        if not any(_sizes(once).values()):
            return tensors, replace(reading, unmeasured="its first step is zero.")
        after = {name: params[name] + once[name] for name in params}
        ours = _moved(generate(params), generate(after))
        plain = _plain(hnet, optimizer, params, *native())
    except Exception as error:  # whatever the optimiser or the user's modules raise is told
        return tensors, replace(reading, unmeasured=told("it fails", error))
    sizes = _sizes(once)
    lost = tuple(n for n, size in sizes.items() if size == 0.0 and bool(jnp.any(full[n])))
    is_growing = grows(sum(sizes.values()), sum(_sizes(twice).values()))
    return with_steps(tensors, ours, plain), replace(reading, lost=lost, grows=is_growing)


def _filled(grads: Mapping[str, Array | None], like: Arrays) -> dict[str, Array]:
    return {n: jnp.zeros_like(v) if (g := grads[n]) is None else g for n, v in like.items()}


def _times(grads: Arrays, factor: int) -> dict[str, Array]:
    return {name: factor * grad for name, grad in grads.items()}


def _update(optimizer: Any, params: Arrays, grads: Arrays) -> dict[str, Array]:
    """Return what the optimiser's first step adds to each parameter."""
    own = dict(params)
    return optimizer.update(dict(grads), optimizer.init(own), own)[0]


def _sizes(updates: Arrays) -> dict[str, float]:
    return {name: float(np.abs(np.asarray(u, np.float64)).sum()) for name, u in updates.items()}


def _moved(before: Arrays, after: Arrays) -> Moved:
    return {
        name: moved(np.asarray(value), np.asarray(after[name])) for name, value in before.items()
    }


def _plain(
    hnet: HyperNetwork,
    optimizer: Any,
    params: Arrays,
    tensors: Arrays,
    grads: Mapping[str, Array | None],
) -> Moved:
    """Do the same with a plain network, at the rate of a parameter that reads no features.

    A transformation may tell parameters by their names. So each tensor is put in that parameter's
    place, among others without gradients.
    """
    by_name = divisors(hnet.plan, list(params))
    place = next((name for name, by in by_name.items() if by == 1), next(iter(params)))
    rest = {name: jnp.zeros((1,) * value.ndim, value.dtype) for name, value in params.items()}
    full, after = _filled(grads, tensors), {}
    for name, value in tensors.items():
        step = _update(optimizer, {**rest, place: value}, {**rest, place: full[name]})
        after[name] = value + step[place]
    return _moved(tensors, after)
