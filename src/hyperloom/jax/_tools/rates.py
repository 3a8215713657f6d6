"""Learning rates that do not depend on the generator's width."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
from flax import nnx

from hyperloom._core.backend.rates import check_rate, divisors, label
from hyperloom._core.errors import message
from hyperloom.jax._hypernetwork import HyperNetwork
from hyperloom.jax._target.adaptor import dotted

Rate = float | Callable[[Any], Any]


def param_groups(module: nnx.Module, lr: Rate) -> tuple[dict[Hashable, Rate], Callable[[Any], Any]]:
    """Return learning rates by name, and what tells which array has which: for optax.

    `lr` is the rate that a plain network would take. A step of Adam moves a number that is
    generated from `F` features by `F` times the rate, so the matrices that read features (linear
    heads, layers of an `MLP` after the first) get `lr` divided by the number of their inputs;
    everything else gets `lr`. The same `lr` is then good for narrow and wide generators. See
    "Learning rates" in the documentation.

    Args:
        module: A hypernetwork, or a module with hypernetworks anywhere inside: the parameters
            of other modules get `lr`.
        lr: The rate, at least 0, or a schedule: a function of the number of steps.

    Returns:
        `rates` and `labels`. `rates` maps `"lr"`, `"lr/32"` and so on to a rate, or to a schedule.
        `labels(params)` returns the tree `params` with the name of its rate in the place of each
        array, which is what `optax.multi_transform` takes; `params` are those of
        `functional(module)`, or `nnx.state(module, nnx.Param)`, which `nnx.Optimizer` hands on.

    Raises:
        TypeError: `module` is no module, or `lr` neither a number nor a function.
        ValueError: `lr` is negative or not finite.

    Example:
        >>> rates, labels = hl.param_groups(hnet, 1e-2)
        >>> steps = {name: optax.adam(rate) for name, rate in rates.items()}
        >>> optimizer = nnx.Optimizer(hnet, optax.multi_transform(steps, labels), wrt=nnx.Param)
    """
    if not isinstance(module, nnx.Module):
        raise TypeError(message("module", module, "an nnx.Module"))
    rate = lr if callable(lr) else check_rate(lr)
    by = {dotted(path): 1 for path, _ in nnx.to_flat_state(nnx.state(module, nnx.Param))}
    for path, hnet in nnx.iter_modules(module):
        if isinstance(hnet, HyperNetwork):
            prefix = f"{dotted(path)}." if path else ""
            names_inside = [name.removeprefix(prefix) for name in by if name.startswith(prefix)]
            divisor_of_name = divisors(hnet.plan, names_inside)
            by.update({f"{prefix}{name}": d for name, d in divisor_of_name.items() if d > 1})

    def labels(params: Any) -> Any:
        flat, tree = jax.tree_util.tree_flatten_with_path(params)
        names = [_name(path, by) for path, _ in flat]
        if not by.keys() & set(names):
            got = f"an array {names[0]!r}" if names else "an empty tree"
            wanted = "the parameters of functional(module), or nnx.state(module, nnx.Param)"
            raise ValueError(message("params", got, wanted))
        # An array that was added since, such as rows of new ids, is not divided.
        return jax.tree_util.tree_unflatten(tree, [label(by.get(name, 1)) for name in names])

    divided: dict[Hashable, Rate] = {label(d): _divided(rate, d) for d in sorted({1, *by.values()})}
    return divided, labels


def _name(path: Any, known: Mapping[str, int]) -> str:
    """Return a leaf's name; in a state of NNX it is the value of a variable, under its name."""
    name = dotted(tuple(getattr(key, "key", getattr(key, "name", key)) for key in path))
    return name if name in known else name.removesuffix(".value")


def _divided(rate: Rate, divisor: int) -> Rate:
    if not callable(rate):
        return rate / divisor
    return lambda count: rate(count) / divisor
