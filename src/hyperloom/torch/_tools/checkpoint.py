"""Save and load: one safetensors file with the plan in its header. No pickle."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors import deserialize
from safetensors.torch import save_file
from torch import Tensor, nn

import hyperloom
from hyperloom._core.backend import protocol
from hyperloom._core.backend.documented import completes
from hyperloom._core.checkpoint.base import FINGERPRINT, TREES, holds_base
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
from hyperloom._core.errors import a_bool, a_path, message
from hyperloom._core.plan.plan import Plan
from hyperloom._core.target.spec import TargetSpec
from hyperloom.torch._generate.table import Table
from hyperloom.torch._hypernetwork import HyperNetwork
from hyperloom.torch._target.packed import has_numbers, unpacked
from hyperloom.torch._target.spec import target_spec, uncompiled
from hyperloom.torch._target.statistics import checked_statistics
from hyperloom.torch._target.tensors import frozen, parts_of_sparse, sparse_of
from hyperloom.torch._target.translated import Translated
from hyperloom.torch._tools.given import a_hypernetwork


@completes(protocol.Backend.save)
def save(hnet: HyperNetwork, path: str | os.PathLike[str], *, with_base: bool = False) -> None:
    hnet, path = a_hypernetwork("hnet", hnet), a_path("path", path)
    a_bool("with_base", with_base)
    tensors = neutral_tensors(hnet, with_base)
    usual = checked_statistics(None, hnet.plan)
    told = hnet.statistics != usual or any(hnet.target_statistics.tensors())
    statistics = hnet.statistics if told else None
    buffers = {name for name, _ in hnet.named_buffers()}
    said = (path, hnet.plan, hyperloom.__version__, statistics)
    write(*said, tensors, _bytes, lambda: _not_finite(tensors, buffers), save_file)


@completes(protocol.Backend.load)
def load(
    path: str | os.PathLike[str],
    target: nn.Module | Mapping[str, nn.Module],
    *,
    condition: nn.Module | None = None,
    trunk: nn.Module | None = None,
    translate: bool | Mapping[str, str] = False,
) -> HyperNetwork:
    """The hypernetwork is on the target's device; what is frozen is held where it is, there."""
    names = pairs_of_names(translate)
    described, tensors = _read(path)
    plan = described.plan
    target = unpacked(uncompiled(target), plan.rows_by_name)
    spec = target_spec(target, measured=())
    if names is None:
        _same_target(path, plan, spec)
    else:
        target = Translated(target, plan.spec, names, buffers(tensors))
    hnet = HyperNetwork.from_plan(
        target,
        plan,
        condition=given_part(path, "condition", plan.condition, condition),
        trunk=given_part(path, "trunk", plan.trunk, trunk),
        statistics=described.statistics,
    )
    # As it was saved: after .double(), .half() ... its dtypes are no more those of the target.
    dtypes = {value.dtype for value in tensors.values() if value.is_floating_point()}
    held = {value.dtype for value in hnet.state_dict().values() if value.is_floating_point()}
    if len(dtypes) == 1 and held != dtypes:
        hnet.to(dtypes.pop())
    _fill(hnet, tensors, path)
    return hnet


def load_into(hnet: HyperNetwork, path: str | os.PathLike[str]) -> None:
    """Fill `hnet` from a checkpoint of the same plan; see `HyperNetwork.load`."""
    described, tensors = _read(path)
    check_plan(path, hnet.plan, described, "torch")
    _fill(hnet, tensors, path)


def neutral_tensors(hnet: HyperNetwork, with_base: bool = False) -> dict[str, Tensor]:
    """Return all tensors under the names of the file: what was grown in blocks is one table.

    A sparse buffer is several tensors: its indices and its values, numbered behind its name. Of the
    frozen ones the fingerprint, or `with_base` themselves.
    """
    blocks = {
        f"{path}.{i}": path
        for path, module in hnet.named_modules()
        if isinstance(module, Table)
        for i in range(len(module))
    }
    parts_of: dict[str, list[Tensor]] = {}
    for name, tensor in hnet.state_dict().items():
        parts_of.setdefault(blocks.get(name, name), []).append(tensor.detach())
    joined = {name: torch.cat(v) if len(v) > 1 else v[0] for name, v in parts_of.items()}
    # Clones where storage is shared or strided: safetensors wants each tensor by itself.
    apart = (part for name, value in joined.items() for part in _parts(name, value))
    tensors = {name: value.contiguous().clone() for name, value in apart}
    if with_base:
        tensors.pop(FINGERPRINT, None)
        tensors.update(_base(hnet))
        packed = [name for name, value in tensors.items() if not has_numbers(value)]
        if packed:
            got = f"True for a base whose {packed[0]!r} is packed"
            way_out = "Leave it out: the file then says which base it wants."
            raise TypeError(message("with_base", got, "a base of plain tensors", way_out))
    return tensors


def _parts(name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    if value.layout is torch.strided:
        yield name, value
        return
    for number, part in enumerate(parts_of_sparse(value)):
        yield f"{name}@{number}", part


def _base(hnet: HyperNetwork) -> dict[str, Tensor]:
    """Return the frozen tensors under the names that they have in a file."""
    trees: dict[str, Any] = {name: hnet.get_submodule(name) for name in TREES}
    return {
        f"{name}.{key}": _by_itself(value.detach())
        for name, tree in trees.items()
        for key, value in frozen(tree).items()
    }


def _by_itself(value: Tensor) -> Tensor:
    """Return a clone where storage is shared: safetensors wants each tensor by itself."""
    if not has_numbers(value):
        return value
    value = value.contiguous()
    return value if value.untyped_storage().nbytes() == value.nbytes else value.clone()


def _fill(hnet: HyperNetwork, tensors: dict[str, Tensor], path: Any) -> None:
    """Put tensors in, after all names, shapes and dtypes are checked."""
    expected, base = neutral_tensors(hnet), _base(hnet)
    mine, said = expected.get(FINGERPRINT), tensors.get(FINGERPRINT)
    same = mine is not None and said is not None and torch.equal(mine, said)
    if holds_base(path, base, tensors, same):
        expected = neutral_tensors(hnet, with_base=True)
    tensors = _with_statistics(tensors, expected)
    check_fit(path, expected, tensors, lambda t: f"Convert the hypernetwork first: .to({t}).")
    state = {}
    tables = {p: m for p, m in hnet.named_modules() if isinstance(m, Table)}
    for name, tensor in tensors.items():
        if name in tables:
            sizes = [len(block) for block in tables[name]]
            state.update({f"{name}.{i}": b for i, b in enumerate(tensor.split(sizes))})
        else:
            state[name] = tensor
    for name, value in hnet.state_dict().items():
        names = [part for part, _ in _parts(name, value)]
        if names != [name] and names[0] in state:
            state[name] = sparse_of([state.pop(part) for part in names], value)
    given = {name: state.pop(name) for name in base if name in state}
    for name, value in given.items():
        tree, _, key = name.partition(".")
        trees: Any = hnet.get_submodule(tree)
        trees.add_reference(key, value.to(base[name].device))
    if given:
        state[FINGERPRINT] = neutral_tensors(hnet)[FINGERPRINT]
    hnet.load_state_dict(state)


def _with_statistics(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Begin running statistics by id with those that are shared, in a file that has none by id.

    The JAX backend keeps none: there a call is given its state.
    """
    by_id, shared = "target_statistics.", "target_buffers."
    if any(name.startswith(by_id) for name in tensors):
        return tensors
    sources = {
        name: shared + name.removeprefix(by_id) for name in expected if name.startswith(by_id)
    }
    added = {
        n: tensors[s].expand(expected[n].shape).clone() for n, s in sources.items() if s in tensors
    }
    return {**tensors, **added}


def _read(path: Any) -> tuple[Description, dict[str, Tensor]]:
    """Read and check a checkpoint."""
    described, data = read_file(path)
    tensors = parsed(path, data, deserialize, _tensor)
    check_values(path, described, items(tensors, _bytes), lambda: _not_finite(tensors))
    return described, tensors


def _tensor(data: bytearray, dtype: str, shape: tuple[int, ...]) -> Tensor:
    if not data:  # of which torch makes no tensor
        return torch.empty(shape, dtype=getattr(torch, dtype))
    return torch.frombuffer(data, dtype=getattr(torch, dtype)).reshape(shape)


def _not_finite(tensors: dict[str, Tensor], buffers: set[str] | None = None) -> str | None:
    """Say which tensor holds values that are not finite, if one does."""

    def count(name: str, infinite: bool) -> int:
        value = tensors[name]
        return int((~torch.isfinite(value) if infinite else torch.isnan(value)).sum())

    return first_not_finite(tensors, count, buffers)


def _bytes(value: Tensor) -> bytes | memoryview:
    flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().data


def _same_target(path: Any, plan: Plan, spec: TargetSpec) -> None:
    found = spec.differences(plan.spec)
    if found:
        raise other_target(path, found)
