"""Trained adapters from PEFT's folders, as targets to imitate or as ids."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hyperloom._core.backend.factors import Factors, transposed
from hyperloom._core.choices.forms import Delta, DoRA, LoRA, Whole
from hyperloom._core.errors import a_path, message, shown
from hyperloom._core.plan.plan import Entry
from hyperloom.torch._hypernetwork import HyperNetwork
from hyperloom.torch._tools.given import a_hypernetwork
from hyperloom.torch._tools.peft.choices import checked
from hyperloom.torch._tools.peft.layers import (
    MAGNITUDE,
    PREFIX,
    from_peft,
    kind_of,
    need,
    pair_keys,
    sizes_of,
)
from hyperloom.torch._tools.peft.write import METADATA, marks

_CONFIG, _TENSORS = "adapter_config.json", "adapter_model.safetensors"


def load(
    hnet: HyperNetwork, folders: Sequence[Any], *, ids: Sequence[int] | None = None
) -> dict[str, Factors]:
    """Read trained adapters: as targets to imitate, or as ids of a hypernetwork.

    Args:
        hnet: A hypernetwork with `LoRA` (or `DoRA`) on the layers that the adapters change. A
            layer that an adapter leaves as it is has a change of zero; a rank below the form's is
            filled up with zeros. The sums are exact: scalings are brought to the form's.
        folders: Folders that PEFT or `export` wrote.
        ids: Condition ids, one for each folder, that are to generate them: their rows in the
            tables of `PerCondition()` are written. `None` (default) to write nothing.

    Returns:
        `{name: Factors}` of all layers with `LoRA`, with the folders as the batch, in the dtype of
        the generator: for `hnet.run`, or beside `hnet.factors(condition)` in a loss.

    Raises:
        FileNotFoundError: A folder without an adapter.
        TypeError: An adapter of another method than LoRA.
        ValueError: An adapter of another base, of layers that have no such form, of a larger rank
            or other sizes, or that asks for what no form does; or ids whose tensors are not in
            tables.
    """
    hnet = a_hypernetwork("hnet", hnet)
    if isinstance(folders, (str, bytes)) or not isinstance(folders, Sequence) or not folders:
        raise TypeError(message("folders", shown(folders), "a list of folders"))
    paths = [Path(a_path(f"folders[{i}]", folder)) for i, folder in enumerate(folders)]
    adapters = [_parts(hnet, path) for path in paths]
    if ids is not None:
        _write(hnet, adapters, ids)
    factors = {}
    for name, (entry, _) in hnet.plan.rows_by_name.items():
        if isinstance(entry.form, LoRA):
            u, v = (torch.stack([adapter[name][i] for adapter in adapters]) for i in (0, 1))
            a, b = (u.mT, v.mT) if transposed(hnet.plan.spec[name]) else (v, u)
            factors[name] = Factors(a, b, entry.form.factor)
    return factors


def _parts(hnet: HyperNetwork, path: Path) -> dict[str, list[Tensor]]:
    """Return the parts of all tensors with LoRA that an adapter stands for."""
    if not (path / _CONFIG).is_file() or not (path / _TENSORS).is_file():
        wanted = f"a folder with {_CONFIG} and {_TENSORS}"
        raise FileNotFoundError(message("folders", repr(str(path)), wanted))
    config, utils = (
        checked(need("peft").PeftConfig.from_pretrained(str(path))),
        need("peft.utils.other"),
    )
    tensors, base = _read(path)
    _check_base(hnet, path, base)
    model, parts = hnet._runner.skeleton.module, {}
    for name, (entry, _) in hnet.plan.rows_by_name.items():
        if not isinstance(entry.form, (LoRA, DoRA)):
            continue
        layer = hnet.plan.spec[name].layer
        kind = kind_of(model.get_submodule(layer))
        keys = [f"{PREFIX}{layer}.{end}" for end in pair_keys(kind)]
        found = [tensors.pop(key, None) for key in keys]
        magnitude = tensors.pop(f"{PREFIX}{layer}.{MAGNITUDE}", None)
        alpha = config.alpha_pattern.get(
            utils.get_pattern_key(config.alpha_pattern, layer), config.lora_alpha
        )
        parts[name] = _of_layer(hnet, entry, kind, found, magnitude, (alpha, config.use_rslora))
    own = {**hnet._runner.kept(), **dict(hnet.bases.tensors())}
    for key in [key for key in tensors if ".base_layer." in key]:  # PEFT adds embeddings' own
        name, value = key.removeprefix(PREFIX).replace(".base_layer.", "."), tensors.pop(key)
        if name not in own or not torch.equal(value.to(own[name]), own[name]):
            got = f"{path}, an adapter of another base: {name!r} has other values"
            raise ValueError(message("folders", got, "adapters of the hypernetwork's target"))
    for key in [key for key in tensors if key.removeprefix(PREFIX) in hnet.plan.spec._by_name]:
        _take_whole(hnet, key.removeprefix(PREFIX), tensors.pop(key), parts)
    if tensors:
        got = f"{path} with {next(iter(tensors)).removeprefix(PREFIX)!r}"
        way_out = "choices() makes layout and form of its config."
        wanted = "an adapter of layers that have LoRA or DoRA in the hypernetwork, and no others"
        raise ValueError(message("folders", got, wanted, way_out))
    return parts


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of an adapter, and the marks of its base where it has any."""
    try:
        with safe_open(path / _TENSORS, "pt") as file:
            told = (file.metadata() or {}).get(METADATA, "{}")
            return {key: file.get_tensor(key) for key in file.keys()}, json.loads(told)  # noqa: SIM118
    except SafetensorError as error:
        got = f"{path / _TENSORS}, which is no safetensors file ({error})"
        raise ValueError(message("folders", got, "a file that PEFT or export wrote")) from error


def _take_whole(
    hnet: HyperNetwork, name: str, value: Tensor, parts: dict[str, list[Tensor]]
) -> None:
    """Add the part of a tensor that the adapter holds whole, as `modules_to_save`."""
    entry, _ = hnet.plan.rows_by_name.get(name, (None, None))
    like, bases = next(hnet.parameters()), dict(hnet.bases.tensors())
    if entry is None:
        if not torch.equal(value.to(like), hnet._runner.kept()[name].to(like)):
            got = f"another value for {name!r}"
            raise ValueError(message("folders", got, "the target's own: nothing generates it"))
    elif isinstance(entry.form, Whole):
        parts[name] = [value.to(like)]
    elif isinstance(entry.form, Delta) and value.shape == bases[name].shape:
        parts[name] = [value.to(like) - bases[name].to(like)]
    else:
        got = f"the whole tensor {name!r} {tuple(value.shape)}"
        wanted = "one of the target's shape, generated with the form Delta or Whole"
        raise ValueError(message("folders", got, wanted))


def _check_base(hnet: HyperNetwork, path: Path, base: dict[str, str]) -> None:
    mine = marks(hnet) if base else {}
    other = [name for name, mark in base.items() if mine.get(name, mark) != mark]
    if other:
        got = f"{path}, an adapter of another base: {other[0]!r} has other values"
        raise ValueError(message("folders", got, "adapters of the hypernetwork's target"))


def _of_layer(
    hnet: HyperNetwork,
    entry: Entry,
    kind: str,
    found: list[Tensor | None],
    magnitude: Tensor | None,
    scale: tuple[float, bool],
) -> list[Tensor]:
    """Return `U`, `V` and where there is one `g` of one layer, in the generator's dtype."""
    tensor, form = hnet.plan.spec[entry.tensor], entry.form
    assert isinstance(form, (LoRA, DoRA))
    like = next(hnet.parameters())
    outputs, inputs = sizes_of(kind, tensor)

    def empty(*sizes: int) -> Tensor:
        return torch.zeros(sizes, dtype=like.dtype, device=like.device)

    a, b = found
    if a is None or b is None:
        a, b = empty(0, inputs), empty(outputs, 0)
    else:
        # PEFT keeps an embedding's A as (rank, num), a kernel's axes behind.
        a, b = a.flatten(1), b.reshape(b.shape[0], b.shape[1])
    rank = a.shape[0]
    if (a.shape[1], b.shape) != (inputs, torch.Size((outputs, rank))):
        got = f"A {tuple(a.shape)} and B {tuple(b.shape)} for {tensor.name!r}"
        wanted = f"A (rank, {inputs}) and B ({outputs}, rank), as the target's layer"
        raise ValueError(message("folders", got, wanted))
    if rank > form.rank:
        got = f"rank {rank} for {tensor.name!r}"
        raise ValueError(message("folders", got, f"at most {form.rank}, as {form}"))
    alpha, rslora = scale
    scaling = alpha / (math.sqrt(rank) if rslora else rank) if rank else 1.0
    a, b = a.to(like), b.to(like) * (scaling / form.factor)
    a = torch.cat([a, empty(form.rank - rank, inputs)])
    b = torch.cat([b, empty(outputs, form.rank - rank)], 1)
    parts = list(from_peft(a, b, kind))
    if isinstance(form, DoRA):
        return [*parts, _magnitude(hnet, entry, magnitude)]
    if magnitude is not None:
        got = f"a DoRA adapter of {tensor.name!r}, which has {form}"
        raise ValueError(message("folders", got, "the form DoRA for it"))
    return parts


def _magnitude(hnet: HyperNetwork, entry: Entry, magnitude: Tensor | None) -> Tensor:
    """Return DoRA's `g`."""
    structure: Any = hnet.plan.structures[entry.tensor]
    base = dict(hnet.bases.tensors())[entry.tensor]
    length = structure.length(base.to(next(hnet.parameters())))
    if magnitude is None:
        got = f"an adapter without a magnitude for {entry.tensor!r}"
        raise ValueError(message("folders", got, f"a DoRA adapter, as {entry.form}"))
    return magnitude.to(length).reshape(length.shape) / length - 1


def _write(hnet: HyperNetwork, adapters: list[dict[str, list[Tensor]]], ids: Sequence[int]) -> None:
    """Write the rows of ids in the tables; nothing is written if any is refused."""
    num = hnet.plan.num_ids or 0
    known = [i for i in ids if not isinstance(i, bool) and isinstance(i, int) and 0 <= i < num]
    if len(known) != len(ids) or len(set(ids)) != len(adapters) or len(ids) != len(adapters):
        wanted = f"{len(adapters)} different ids in 0 .. {num - 1}, one for each folder"
        raise ValueError(message("ids", shown(list(ids)), wanted))
    for name in adapters[0]:
        for piece in hnet.plan.rows_by_name[name][0].pieces:
            head = hnet.plan.heads[piece.head]
            if not head.table:
                got = f"{name!r} from the head {head.name!r}"
                way_out = "Leave ids out, and train the hypernetwork to imitate what load returns."
                wanted = "tensors of the layout PerCondition()"
                raise ValueError(message("ids", got, wanted, way_out))
    with torch.no_grad():
        for adapter, number in zip(adapters, ids, strict=True):
            for name, parts in adapter.items():
                pieces = hnet.plan.rows_by_name[name][0].pieces
                for piece, part in zip(pieces, parts, strict=True):
                    row = _row(hnet, hnet.plan.heads[piece.head].name, number)
                    row[piece.start : piece.start + piece.numel] = part.flatten()


def _row(hnet: HyperNetwork, head: str, number: int) -> Tensor:
    """Return the row of an id, in place."""
    module: Any = hnet.heads[head]
    for block in module.table:
        if number < len(block):
            return block[number]
        number -= len(block)
    raise AssertionError(number)
