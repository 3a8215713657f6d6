"""A hypernetwork as pure functions of its parameters, for `jax.jit` and the other transforms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from flax import nnx
from jax import Array
from jax.tree_util import GetAttrKey, register_pytree_with_keys_class

from hyperloom._core.errors import a_mapping, did_you_mean, message, shown
from hyperloom._core.plan.plan import Plan
from hyperloom.jax._generate.supplied import check_shape, refuse_other_numbers
from hyperloom.jax._hypernetwork import HyperNetwork
from hyperloom.jax._tools.assembled import Assembled
from hyperloom.jax._tools.perturbed import Perturbed

Params = dict[str, Array]
Network = TypeVar("Network", bound=HyperNetwork | Perturbed | Assembled)


@dataclass(frozen=True, eq=False)
class _Structure:
    """What is no array: how to put a hypernetwork together, and what its parameters are called."""

    graphdef: Any
    paths: Mapping[str, tuple[Any, ...]]
    shapes: Mapping[str, tuple[int, ...]]
    plan: Plan


@register_pytree_with_keys_class
class Functional(Generic[Network]):
    """A hypernetwork without its parameters. Calling it is a pure function of them.

    `functional` returns it. It is a pytree, whose leaves are what is not learned: frozen bases,
    kept tensors, scales, the target's state, random streams, as they were then; nothing that a
    call does is kept. So it goes into `jax.jit`, `vmap`, `scan` and `device_put` as an argument.
    A jitted function that closes over it has its arrays as constants: a base of 100 MB is then
    compiled into the program, a second time in memory.
    """

    def __init__(self, structure: _Structure, frozen: Any) -> None:
        self._structure = structure
        self._frozen = frozen

    def tree_flatten_with_keys(self) -> tuple[tuple[Any], _Structure]:
        """Return what is not learned, and the structure."""
        return ((GetAttrKey("frozen"), self._frozen),), self._structure

    @classmethod
    def tree_unflatten(cls, structure: _Structure, children: tuple[Any]) -> Functional[Network]:
        """Return it with other arrays in it."""
        return cls(structure, *children)

    def __repr__(self) -> str:
        return f"Functional({self.plan.spec.name}, {len(self._structure.paths)} parameters)"

    @property
    def plan(self) -> Plan:
        """The plan of the hypernetwork."""
        return self._structure.plan

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

    def bind(self, params: Mapping[str, Array], condition: Any, **options: Any) -> Any:
        """Return the target bound to conditions, as `HyperNetwork.bind`; of no wrapper."""
        hnet: Any = self.merge(params)
        return hnet.bind(condition, **options)

    def merge(self, params: Mapping[str, Array]) -> Network:
        """Return a hypernetwork with `params` in it; the one it came from stays as it is.

        Raises:
            TypeError: A value that is not an array.
            ValueError: Missing or unknown names, or a wrong shape.
        """
        self._check(params)
        structure = self._structure
        state = nnx.from_flat_state(
            [(path, params[name]) for name, path in structure.paths.items()]
        )
        network: Network = nnx.merge(structure.graphdef, state, self._frozen, copy=True)
        if any(params[name].shape != shape for name, shape in structure.shapes.items()):
            for _, module in nnx.iter_modules(network):
                if isinstance(module, HyperNetwork):  # a wrapper has some inside
                    refuse_other_numbers(module.generator, "params")
        return network

    def update(self, hnet: Network, params: Mapping[str, Array]) -> None:
        """Put `params` into `hnet`, in place.

        Raises:
            TypeError: A value that is not an array.
            ValueError: Missing or unknown names, or a wrong shape.
        """
        _a_network(hnet)
        self._check(params)
        flat = [(path, params[name]) for name, path in self._structure.paths.items()]
        nnx.update(hnet, nnx.from_flat_state(flat))

    def _check(self, params: Mapping[str, Array]) -> None:
        paths = self._structure.paths
        a_mapping("params", params, "a dict from names to arrays, as functional() returns it")
        unknown = [name for name in params if name not in paths]
        missing = [name for name in paths if name not in params]
        if unknown:
            way_out = did_you_mean(unknown[0], paths)
            got = f"the name {unknown[0]!r}"
            raise ValueError(message("params", got, "names of the hypernetwork", way_out))
        if missing:
            got = f"no array for {', '.join(map(repr, missing[:3]))}"
            raise ValueError(message("params", got, "an array for every learned name"))
        for name, shape in self._structure.shapes.items():
            check_shape(f"params[{name!r}]", name, shape, params[name])


def functional(hnet: Network) -> tuple[Functional[Network], Params]:
    """Split a hypernetwork into what is not learned, a pure function, and its parameters.

    A call under `jax.jit` then costs what any jitted function of arrays costs, where `nnx.jit`
    walks the module in Python each time.

    Args:
        hnet: The hypernetwork, or a `Perturbed` or `Assembled` one; it stays as it is.

    Returns:
        `net` and `params`: `net(params, *inputs, condition=...)` is `hnet(*inputs, condition=...)`.
        The parameters are a dict from names to arrays, a tree that optax and `jax.grad` take;
        `net` is a tree of all other arrays. Pass both to what is jitted.

    Example:
        >>> net, params = hl.functional(hnet)
        >>> def loss(params, net, x, y, task):
        ...     return jnp.mean((net(params, x, condition=task) - y) ** 2)
        >>> step = jax.jit(jax.value_and_grad(loss))
        >>> value, gradient = step(params, net, x, y, task)
    """
    _a_network(hnet)
    # Of a copy: what becomes of the hypernetwork later is not seen here.
    graphdef, params, frozen = nnx.split(nnx.clone(hnet), nnx.Param, ...)
    flat = {".".join(map(str, path)): (path, leaf) for path, leaf in nnx.to_flat_state(params)}
    start = {name: leaf.get_value() for name, (_, leaf) in flat.items()}
    shapes = {name: tuple(value.shape) for name, value in start.items()}
    structure = _Structure(graphdef, {n: path for n, (path, _) in flat.items()}, shapes, hnet.plan)
    return Functional(structure, frozen), start


def _a_network(hnet: object) -> None:
    """Raise unless `hnet` is something that `functional` takes apart."""
    if not isinstance(hnet, (HyperNetwork, Perturbed, Assembled)):
        raise TypeError(message("hnet", shown(hnet), "a HyperNetwork, Perturbed or Assembled"))
