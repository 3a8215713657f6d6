"""A hypernetwork as pure functions of its parameters, for `jax.jit` and the other transforms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from flax import nnx
from jax import Array

from hyperloom._core.errors import did_you_mean, message
from hyperloom._core.plan.plan import Plan
from hyperloom.jax._generate.supplied import check_shape, refuse_other_numbers
from hyperloom.jax._hypernetwork import HyperNetwork
from hyperloom.jax._tools.assembled import Assembled
from hyperloom.jax._tools.perturbed import Perturbed

Params = dict[str, Array]
Network = TypeVar("Network", bound=HyperNetwork | Perturbed | Assembled)


class Functional(Generic[Network]):
    """A hypernetwork without its parameters. Calling it is a pure function of them.

    Made by `functional`. What is not learned (scales, frozen bases, kept tensors, the target's
    state, random streams) is as it was then: nothing that a call does is kept.
    """

    def __init__(self, hnet: Network) -> None:
        # Of a copy: what becomes of the hypernetwork later is not seen here.
        self._graphdef, params, self._rest = nnx.split(nnx.clone(hnet), nnx.Param, ...)
        flat = nnx.to_flat_state(params)
        self._paths = {".".join(map(str, path)): path for path, _ in flat}
        self._start: Params = {
            name: variable.get_value()
            for name, (_, variable) in zip(self._paths, flat, strict=True)
        }
        self._shapes = {name: tuple(value.shape) for name, value in self._start.items()}
        self._plan = hnet.plan

    @property
    def plan(self) -> Plan:
        """The plan of the hypernetwork."""
        return self._plan

    def __call__(self, params: Mapping[str, Array], *inputs: Any, **options: Any) -> Any:
        """Generate the target's parameters and run it with them.

        Args:
            params: The learned arrays by name, as `functional` returned them first.
            *inputs: The target's inputs.
            **options: `condition`, `in_axes`, `rngs`, `state`, `mutable`, and the target's keyword
                arguments, all as in a call of `HyperNetwork`. Randomness needs `rngs`, a key or a
                dict of keys: without, every call draws the same.

        Raises:
            TypeError: A value in `params` that is not an array.
            ValueError: Missing or unknown names in `params`, or a wrong shape; tables alone may
                have rows for another number of ids. Otherwise as `HyperNetwork`.
        """
        return self.merge(params)(*inputs, **options)

    def generate(self, params: Mapping[str, Array], condition: Any, **options: Any) -> Any:
        """Generate the target's parameters; `options` and returns as of `HyperNetwork.generate`."""
        return self.merge(params).generate(condition, **options)

    def merge(self, params: Mapping[str, Array]) -> Network:
        """Return a hypernetwork with `params` in it; the one it came from stays as it is.

        Raises:
            TypeError: A value that is not an array.
            ValueError: Missing or unknown names, or a wrong shape.
        """
        self._check(params)
        state = nnx.from_flat_state([(path, params[name]) for name, path in self._paths.items()])
        made: Network = nnx.merge(self._graphdef, state, self._rest, copy=True)
        if any(params[name].shape != shape for name, shape in self._shapes.items()):
            for _, module in nnx.iter_modules(made):
                if isinstance(module, HyperNetwork):  # a wrapper has some inside
                    refuse_other_numbers(module, "params")
        return made

    def update(self, hnet: Network, params: Mapping[str, Array]) -> None:
        """Put `params` into `hnet`, in place.

        Raises:
            TypeError: A value that is not an array.
            ValueError: Missing or unknown names, or a wrong shape.
        """
        self._check(params)
        flat = [(path, params[name]) for name, path in self._paths.items()]
        nnx.update(hnet, nnx.from_flat_state(flat))

    def _check(self, params: Mapping[str, Array]) -> None:
        unknown = [name for name in params if name not in self._paths]
        missing = [name for name in self._paths if name not in params]
        if unknown:
            way_out = did_you_mean(unknown[0], self._paths)
            got = f"the name {unknown[0]!r}"
            raise ValueError(message("params", got, "names of the hypernetwork", way_out))
        if missing:
            got = f"no array for {', '.join(map(repr, missing[:3]))}"
            raise ValueError(message("params", got, "an array for every learned name"))
        for name, shape in self._shapes.items():
            check_shape(f"params[{name!r}]", name, shape, params[name])


def functional(hnet: Network) -> tuple[Functional[Network], Params]:
    """Split a hypernetwork into a pure function and its parameters.

    A call under `jax.jit` then costs what any jitted function of a dict of arrays costs, where
    `nnx.jit` walks the module in Python each time.

    Args:
        hnet: The hypernetwork, or a `Perturbed` or `Assembled` one; it stays as it is.

    Returns:
        `net` and `params`: `net(params, *inputs, condition=...)` is `hnet(*inputs, condition=...)`.
        The parameters are a dict from names to arrays, a tree that optax and `jax.grad` take.

    Example:
        >>> net, params = hl.functional(hnet)
        >>> loss = lambda params, x, y, task: jnp.mean((net(params, x, condition=task) - y) ** 2)
        >>> step = jax.jit(jax.value_and_grad(loss))
    """
    made = Functional(hnet)
    return made, dict(made._start)
