"""Save and load: one safetensors file with the plan in its header, the same for every backend."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import deserialize
from safetensors.numpy import save_file

import hyperloom
from hyperloom._core.backend import protocol
from hyperloom._core.backend.documented import completes
from hyperloom._core.checkpoint.base import (
    FINGERPRINT,
    TREES,
    fingerprint_of,
    holds_base,
    sample_step,
)
from hyperloom._core.checkpoint.file import (
    Description,
    given_part,
    other_target,
    pairs_of_names,
    read_file,
)
from hyperloom._core.checkpoint.tensors import (
    buffers,
    check_fit,
    check_plan,
    check_values,
    first_not_finite,
    items,
    parsed,
    write,
)
from hyperloom._core.errors import a_bool, a_path
from hyperloom.jax._hypernetwork import TOOLS, HyperNetwork
from hyperloom.jax._target.read import target_spec
from hyperloom.jax._target.translated import read_translated
from hyperloom.jax._target.variables import Hole, Variable, is_random, walk
from hyperloom.jax._tools.given import a_hypernetwork


@completes(protocol.Backend.save)
def save(hnet: HyperNetwork, path: str | os.PathLike[str], *, with_base: bool = False) -> None:
    """Random streams are not saved."""
    hnet, path = a_hypernetwork("hnet", hnet), a_path("path", path)
    a_bool("with_base", with_base)
    tensors = neutral_tensors(hnet, with_base)
    said = (path, hnet.plan, hyperloom.__version__, None)
    held = neutral_variables(hnet).items()
    buffers = {name for name, variables in held if not isinstance(variables[0], nnx.Param)}
    write(*said, tensors, _bytes, lambda: _not_finite(tensors, buffers), save_file)


@completes(protocol.Backend.load)
def load(
    path: str | os.PathLike[str],
    target: Any,
    *,
    condition: Any = None,
    trunk: Any = None,
    translate: bool | Mapping[str, str] = False,
    rngs: nnx.Rngs | None = None,
) -> HyperNetwork:
    """Running statistics that all conditions share are read; those for each id are not.

    PyTorch keeps them; in JAX a call is given its state.

    Args:
        rngs: Random streams of the hypernetwork, which are not in the file.
    """
    names = pairs_of_names(translate)
    described, tensors = _read(path)
    plan = described.plan
    spec = target_spec(target)
    if names is None:
        differences = spec.differences(plan.spec)
        if differences:
            raise other_target(path, differences)
    else:
        target = read_translated(target, plan.spec, names, buffers(tensors))
    hnet = HyperNetwork.from_plan(
        target,
        plan,
        condition=given_part(path, "condition", plan.condition, condition),
        trunk=given_part(path, "trunk", plan.trunk, trunk),
        rngs=rngs,
    )
    _fill(hnet, tensors, path)
    return hnet


def _without_statistics(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Leave out what PyTorch keeps by id: here a call is given its running statistics."""
    return {n: v for n, v in tensors.items() if not n.startswith("target_statistics.")}


def load_into(hnet: HyperNetwork, path: str | os.PathLike[str]) -> None:
    """Fill `hnet` from a checkpoint of the same plan; see `HyperNetwork.load`."""
    described, tensors = _read(path)
    check_plan(path, hnet.plan, described, "jax")
    _fill(hnet, tensors, path)


TOOLS["load"] = load_into


def neutral_variables(hnet: HyperNetwork) -> dict[str, list[Variable]]:
    """Return all variables under the names of the file; what was grown in blocks is one table."""
    variables_of_name: dict[str, list[Variable]] = {}
    seen: set[int] = set()
    for part in ("condition", "trunks", "heads", "scales", "bases", "banks", "kept", "native"):
        for name, variable in walk(getattr(hnet, part)):
            if id(variable) in seen or is_random(variable) or isinstance(variable, Hole):
                continue
            seen.add(id(variable))
            full = f"{part}.{name}" if name else part
            full = re.sub(r"\.blocks\.\d+$", "", full)
            full = re.sub(r"^(trunks\.\d+)\.layers\.", r"\1.", full)
            variables_of_name.setdefault(full, []).append(variable)
    for name, variable in hnet.target.state_variables():
        variables_of_name[f"target_buffers.{name}"] = [variable]
    return variables_of_name


def neutral_tensors(hnet: HyperNetwork, with_base: bool = False) -> dict[str, np.ndarray]:
    """Return all tensors under the names of the file.

    Of the frozen ones the fingerprint, or `with_base` themselves.
    """
    if with_base:
        return {name: _whole(variables) for name, variables in neutral_variables(hnet).items()}
    base = base_tensors(hnet)
    variables_of_name = {n: v for n, v in neutral_variables(hnet).items() if n not in base}
    tensors = {name: _whole(variables) for name, variables in variables_of_name.items()}
    if base:
        some = {n: _bytes(v.reshape(-1)[:: sample_step(v.size)]) for n, v in base.items()}
        parts = ((n.partition(".")[2], str(v.dtype), v.shape, some[n]) for n, v in base.items())
        tensors[FINGERPRINT] = np.frombuffer(fingerprint_of(parts), np.uint8)
    return tensors


def base_tensors(hnet: HyperNetwork) -> dict[str, np.ndarray]:
    """Return the frozen tensors under the names that they have in a file."""
    return {
        name: _whole(variables)
        for name, variables in neutral_variables(hnet).items()
        if name.partition(".")[0] in TREES and not isinstance(variables[0], nnx.Param)
    }


def _whole(variables: list[Variable]) -> np.ndarray:
    blocks = [np.asarray(variable.get_value()) for variable in variables]
    whole = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    return np.ascontiguousarray(whole).reshape(whole.shape)


def fill(hnet: HyperNetwork, tensors: dict[str, Any]) -> None:
    """Put tensors, by the names of the file, in place."""
    for name, variables in neutral_variables(hnet).items():
        if name not in tensors:  # a base that the file does not hold
            continue
        blocks = [tensors[name]]
        if len(variables) > 1:
            blocks = np.split(tensors[name], np.cumsum([v.shape[0] for v in variables])[:-1])
        for variable, block in zip(variables, blocks, strict=True):
            # Buffers of another framework stay as they are: JAX may not have their dtype.
            foreign = isinstance(variable.get_raw_value(), np.ndarray)
            variable.set_value(block if foreign else jnp.asarray(block))


def _fill(hnet: HyperNetwork, tensors: dict[str, Any], path: Any) -> None:
    """Copy tensors in, after all names, shapes and dtypes are checked."""
    expected, base = neutral_tensors(hnet), base_tensors(hnet)
    mine, said = expected.get(FINGERPRINT), tensors.get(FINGERPRINT)
    same = mine is not None and said is not None and np.array_equal(mine, said)
    if holds_base(path, base, tensors, same):
        expected = neutral_tensors(hnet, with_base=True)
    way_out = "float64 in JAX needs jax.config.update('jax_enable_x64', True)."
    check_fit(path, expected, tensors, lambda _: way_out)
    fill(hnet, tensors)


def _read(path: Any) -> tuple[Description, dict[str, np.ndarray]]:
    """Read and check a checkpoint."""
    described, data = read_file(path)
    tensors = parsed(path, data, deserialize, _array)
    check_values(path, described, items(tensors, _bytes), lambda: _not_finite(tensors))
    return described, _without_statistics(tensors)


def _array(data: bytearray, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(data, jnp.dtype(dtype)).reshape(shape)


def _not_finite(tensors: dict[str, np.ndarray], buffers: set[str] | None = None) -> str | None:
    """Say which array holds values that are not finite, if one does."""

    def count(name: str, infinite: bool) -> int:
        value = tensors[name]
        if not jnp.issubdtype(value.dtype, jnp.inexact):
            return 0
        return int((~jnp.isfinite(value) if infinite else jnp.isnan(value)).sum())

    return first_not_finite(tensors, count, buffers)


def _bytes(value: np.ndarray) -> bytes:
    return np.ascontiguousarray(value).tobytes()
