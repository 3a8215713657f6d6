"""A hypernetwork with parameters from outside: from another hypernetwork, or perturbed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from flax import nnx

from hyperloom._core.errors import did_you_mean, message
from hyperloom.jax._generate.generator import Generator
from hyperloom.jax._generate.norms import IdNorm
from hyperloom.jax._generate.table import Table
from hyperloom.jax._target.arrays import is_array
from hyperloom.jax._target.variables import Hole, Variable, is_random

Owner = TypeVar("Owner", bound=nnx.Module)


def with_parameters(hnet: Owner, parameters: Mapping[str, Any]) -> Owner:
    """Return a hypernetwork with given arrays in the place of its own.

    All else is shared with the one it comes from: random streams go on and statistics are kept.

    Raises:
        TypeError: Not a mapping, or a value that is not an array.
        ValueError: An unknown name, a wrong shape, or tables for different numbers of ids.
    """
    graphdef, state = nnx.split(hnet)
    leaves: dict[Any, Any] = dict(nnx.to_flat_state(state))
    named = {".".join(map(str, path)): path for path, leaf in leaves.items() if _is_own(leaf)}
    _check({name: leaves[path] for name, path in named.items()}, parameters)
    for name, value in parameters.items():
        leaves[named[name]] = type(leaves[named[name]])(value)
    owner: Owner = nnx.merge(graphdef, nnx.from_flat_state(list(leaves.items())))
    refuse_other_numbers(Generator.of(owner), "parameters")
    return owner


def _is_own(leaf: Any) -> bool:
    return isinstance(leaf, nnx.Variable) and not isinstance(leaf, Hole) and not is_random(leaf)


def _check(variables: Mapping[str, Variable], given: Mapping[str, Any]) -> None:
    """Raise for names that are not the hypernetwork's own, or arrays of other shapes."""
    wanted = "a dict from names of the hypernetwork's parameters to arrays"
    if not isinstance(given, Mapping):
        raise TypeError(message("parameters", f"a {type(given).__name__}", wanted))
    for name, value in given.items():
        if name not in variables:
            way_out = did_you_mean(name, variables)
            raise ValueError(message("parameters", f"the name {name!r}", wanted, way_out))
        check_shape(f"parameters[{name!r}]", name, tuple(variables[name].shape), value)


def check_shape(argument: str, name: str, shape: tuple[int, ...], value: Any) -> None:
    """Raise unless a value can stand for a hypernetwork's own array of that name and shape."""
    if not is_array(value):
        raise TypeError(message(argument, value, "an array"))
    # A table has a row for each id, of which others may be given: for ids that it lacks.
    first = 1 if name.split(".")[-2:-1] == ["blocks"] else 0
    if tuple(value.shape[first:]) != shape[first:] or value.ndim != len(shape):
        sizes = ("ids", *shape[1:]) if first else shape
        right = f"({', '.join(map(str, sizes))}{',' if len(sizes) == 1 else ''})"
        raise ValueError(message(argument, f"shape {tuple(value.shape)}", f"shape {right}"))


def refuse_other_numbers(generator: Generator, argument: str) -> None:
    """Raise if tables that are looked up by one id have rows for different numbers of ids."""
    if generator.plan.num_ids is None:
        return
    part_of_rows: dict[int, str] = {}
    for part in ("condition", "trunks", "heads"):
        for path, module in nnx.iter_modules(getattr(generator, part)):
            if isinstance(module, (Table, IdNorm)):
                num = module.num if isinstance(module, Table) else module.norm_mean.shape[0]
                part_of_rows.setdefault(num, ".".join(map(str, (part, *path))))
    if len(part_of_rows) > 1:
        got = " and ".join(f"{num} rows in {name!r}" for num, name in part_of_rows.items())
        way_out = "Give the others too."
        raise ValueError(message(argument, got, "as many ids in all tables", way_out))
