"""A generated adapter as PEFT holds it: its configuration, its tensors, its folder."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hyperloom._core.choices.forms import DoRA, Form, LoRA
from hyperloom._core.errors import a_path, message
from hyperloom._core.plan.plan import Plan
from hyperloom.torch._generate.generator import parts_of, tensors_of
from hyperloom.torch._hypernetwork import HyperNetwork
from hyperloom.torch._target.tensors import _some_bytes, frozen
from hyperloom.torch._tools.given import a_hypernetwork
from hyperloom.torch._tools.peft.layers import (
    MAGNITUDE,
    PREFIX,
    kind_of,
    need,
    pair_keys,
    refuse_lengths,
    refuse_tied,
    to_peft,
)

METADATA = "hyperloom_base"
_CONFIG, _TENSORS = "adapter_config.json", "adapter_model.safetensors"


def config(hnet: HyperNetwork) -> Any:
    """Return the `LoraConfig` of what a hypernetwork generates.

    Args:
        hnet: A hypernetwork with `LoRA` (or `DoRA`) on weights of linear layers, embeddings and
            convolutions; other tensors that it generates are written whole, as
            `modules_to_save`.

    Returns:
        A `peft.LoraConfig`: PEFT's own choice of layers and ranks is then that of `hnet`.

    Raises:
        ModuleNotFoundError: PEFT is not installed.
        TypeError: No hypernetwork.
        ValueError: What an adapter cannot hold exactly: a tied tensor, a base that is learned too,
            `LoRA` beside `DoRA`, a tensor that is generated in a module that has LoRA.
    """
    peft, hnet = need("peft"), a_hypernetwork("hnet", hnet)
    model, plan = hnet._runner.skeleton.module, hnet.plan
    adapted, saved = _divided(plan, model)
    if len({type(form) for form in adapted.values()}) > 1:
        raise ValueError(message("form", "LoRA and DoRA", "one of them: an adapter has one"))
    first = next(iter(adapted.values()))
    rslora = all(form.rslora for form in adapted.values())
    usual = Counter(_rank_and_alpha(form, rslora) for form in adapted.values())
    (rank, alpha), _ = usual.most_common(1)[0]
    pairs = {f"^{re.escape(n)}": _rank_and_alpha(form, rslora) for n, form in adapted.items()}
    options: dict[str, Any] = {
        "rank_pattern": {name: r for name, (r, _) in pairs.items() if r != rank},
        "alpha_pattern": {name: a for name, (_, a) in pairs.items() if a != alpha},
        "fan_in_fan_out": all(kind_of(model.get_submodule(n)) == "transposed" for n in adapted),
        "modules_to_save": saved or None,
        "base_model_name_or_path": getattr(getattr(model, "config", None), "name_or_path", None),
        "task_type": "CAUSAL_LM" if type(model).__name__.endswith("ForCausalLM") else None,
    }
    return peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=_named(list(adapted), model),
        use_dora=isinstance(first, DoRA),
        use_rslora=rslora,
        **options,
    )


def state_dict(hnet: HyperNetwork, condition: Any) -> Any:
    """Return generated adapters in memory, for servers that take tensors.

    Args:
        hnet: As in `config`.
        condition: Raw value of one condition, or of a batch.

    Returns:
        `{key: tensor}` under the keys that PEFT writes to its files, detached; for a batch a list
        of them, one for each condition. Raises as `config`, and as a call of `hnet`.
    """
    hnet = a_hypernetwork("hnet", hnet)
    plan, model = hnet.plan, hnet._runner.skeleton.module
    _, saved = _divided(plan, model)
    with torch.no_grad():
        encoded = hnet.encode(condition)
        parts, tensors = parts_of(hnet, encoded), {}
        if saved:
            tensors = tensors_of(hnet, encoded)
        batch = encoded.vector.shape[:-1]
        dicts = [
            _of_one(
                hnet, [part[place] for part in parts], {n: t[place] for n, t in tensors.items()}
            )
            for place in _places(batch)
        ]
    return dicts if batch else dicts[0]


def export(hnet: HyperNetwork, condition: Any, folder: Any, *, overwrite: bool = True) -> None:
    """Write adapters to folders that `PeftModel.from_pretrained(model, folder)` loads.

    A folder appears whole or not at all, and those of a batch together.

    Args:
        hnet: As in `config`.
        condition: Raw value of one condition, or of a batch `(B,)`.
        folder: Where to. For a batch a list of folders, or one in which folders `"0"`, `"1"`, ...
            are written. An adapter that is there is replaced.
        overwrite: `False` to refuse a folder that is there. Default `True`.

    Raises:
        FileExistsError: A folder is there and holds something else than an adapter, or
            `overwrite=False`.
        OSError: It cannot be written.
        ValueError: Another number of folders than of conditions. Otherwise as `config`.
    """
    settings, dicts = config(hnet), state_dict(hnet, condition)
    settings.inference_mode = True
    batch = isinstance(dicts, list)
    folders = _folders(folder, len(dicts) if batch else None)
    for path in folders:
        _check_free(path, overwrite)
    metadata = {"format": "pt", METADATA: json.dumps(marks(hnet))}
    written: list[tuple[Path, Path]] = []
    try:
        for path, tensors in zip(folders, dicts if batch else [dicts], strict=True):
            place = _new_place(path)
            written.append((place, path))
            place.chmod(0o755)
            settings.save_pretrained(place)
            save_file({k: t.cpu() for k, t in tensors.items()}, place / _TENSORS, metadata)
        for place, path in written:
            _put(place, path)
    finally:
        for place, _ in written:
            shutil.rmtree(place, ignore_errors=True)


def marks(hnet: HyperNetwork) -> dict[str, str]:
    """Return a short fingerprint of each frozen tensor of the base, by name."""
    marks = {}
    for name, value in frozen(hnet.bases, hnet.kept).items():
        marks[name] = hashlib.sha256(_some_bytes(value)).hexdigest()[:8]
    return marks


# ---- one adapter --------------------------------------------------------------------------------


def _divided(plan: Plan, model: nn.Module) -> tuple[dict[str, Any], list[str]]:
    """Return the form of each layer with LoRA, by path, and the modules that are written whole."""
    adapted: dict[str, Any] = {}
    whole: set[str] = set()
    for entry in plan.entries:
        tensor, form = plan.spec[entry.tensor], entry.form
        refuse_tied("hnet", tensor)
        if not isinstance(form, (LoRA, DoRA)):
            whole.add(tensor.layer)
            continue
        if form.trained:
            got = f"{form} for {tensor.name!r}, whose base is learned too"
            way_out = "instantiate() makes a module with everything in it."
            raise ValueError(message("form", got, "a base that stays as it is", way_out))
        kind = kind_of(model.get_submodule(tensor.layer))
        if not kind or tensor.layer_relative_name != "weight":
            layer = type(model.get_submodule(tensor.layer)).__name__
            wanted = "weights of linear layers, embeddings, Conv1D, or convolutions without groups"
            raise ValueError(message("form", f"{form} for {tensor.name!r} of a {layer}", wanted))
        if isinstance(form, DoRA):
            refuse_lengths("form", kind, tensor)
        adapted[tensor.layer] = form
    if not adapted:
        raise ValueError(message("form", "no LoRA or DoRA", "one for some layer at least"))
    both = sorted(whole & set(adapted))
    if both or "" in whole:
        got = f"other tensors of {both[0]!r} beside its LoRA" if both else "tensors of no module"
        way_out = "Leave its bias out of layout."
        raise ValueError(message("layout", got, "modules with LoRA or without", way_out))
    _check_alone(sorted(whole), model)
    return adapted, sorted(whole)


def _check_alone(paths: list[str], model: nn.Module) -> None:
    """Raise if PEFT, which looks at the ends of names, would take other modules for these."""
    for name, module in model.named_modules():
        if any(name.endswith(path) for path in paths) and name not in paths:
            wanted = "modules that PEFT can tell apart by the ends of their names"
            raise ValueError(message("layout", f"{paths} beside {name!r}", wanted))
        inside = any(True for _ in module.children()) or any(True for _ in module.buffers())
        if name in paths and inside:
            wanted = "tensors of modules without buffers, and without modules in them"
            raise ValueError(message("layout", f"tensors of {name!r}", wanted))


def _rank_and_alpha(form: Form, rslora: bool) -> tuple[int, float]:
    assert isinstance(form, (LoRA, DoRA))
    alpha = form.factor * form.rank
    if rslora or not form.rslora:
        alpha = form.rank if form.alpha is None else form.alpha
    return form.rank, int(alpha) if float(alpha).is_integer() else alpha


def _named(paths: list[str], model: nn.Module) -> list[str] | str:
    """Return `target_modules` that mean these layers and no others, as short as can be."""
    every = [path for path, _ in model.named_modules() if path]
    ends = sorted({path.rpartition(".")[2] for path in paths})
    for names in (ends, paths):
        found = [p for p in every if any(p == n or p.endswith(f".{n}") for n in names)]
        if sorted(found) == sorted(paths):
            return names
    return "|".join(map(re.escape, paths))


def _places(batch: Sequence[int]) -> list[tuple[int, ...]]:
    places: list[tuple[int, ...]] = [()]
    for size in batch:
        places = [(*place, i) for place in places for i in range(size)]
    return places


def _of_one(
    hnet: HyperNetwork, parts: list[Tensor], tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return the adapter of one condition, from its parts and whole tensors."""
    plan, model = hnet.plan, hnet._runner.skeleton.module
    state, modules, bases = {}, set(), dict(hnet.bases.tensors())
    for name, (entry, rows) in plan.rows_by_name.items():
        tensor = plan.spec[name]
        if not isinstance(entry.form, (LoRA, DoRA)):
            modules.add(tensor.layer)
            continue
        kind = kind_of(model.get_submodule(tensor.layer))
        a, b = to_peft(parts[rows[0]], parts[rows[1]], kind, tensor)
        for end, value in zip(pair_keys(kind), (a, b), strict=True):
            state[f"{PREFIX}{tensor.layer}.{end}"] = value
        if isinstance(entry.form, DoRA):
            structure: Any = plan.structures[name]
            base = bases[name].to(torch.promote_types(bases[name].dtype, a.dtype))
            magnitude = (1 + parts[rows[2]]) * structure.length(base)
            # As PEFT keeps it: a row for each output, and kernels' axes where there are any.
            magnitude = magnitude.flatten() if kind != "conv" else magnitude.transpose(0, 1)
            state[f"{PREFIX}{tensor.layer}.{MAGNITUDE}"] = magnitude
    kept = {**hnet._runner.kept(), **tensors}
    for tensor in plan.spec:
        if tensor.layer in modules:
            state[f"{PREFIX}{tensor.name}"] = kept[tensor.name]
    return {key: value.detach().clone().contiguous() for key, value in state.items()}


# ---- folders ------------------------------------------------------------------------------------


def _folders(folder: Any, num: int | None) -> list[Path]:
    if num is None:
        return [Path(a_path("folder", folder))]
    if not isinstance(folder, (list, tuple)):
        return [Path(a_path("folder", folder)) / str(i) for i in range(num)]
    paths = [Path(a_path(f"folder[{i}]", path)) for i, path in enumerate(folder)]
    if len(set(paths)) != num:
        wanted = f"{num}, one for each condition"
        raise ValueError(message("folder", f"{len(set(paths))} different folders", wanted))
    return paths


def _check_free(path: Path, overwrite: bool) -> None:
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    adapter = path.is_dir() and (path / _CONFIG).is_file()
    if not adapter or not overwrite:
        wanted = "a new folder" if not overwrite else "a new folder, or an adapter to replace"
        raise FileExistsError(message("folder", f"{str(path)!r}, which is there", wanted))


def _new_place(path: Path) -> Path:
    """Return a new folder beside a path, to be renamed to it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        got = f"{str(path)!r} ({error.strerror})"
        raise type(error)(message("folder", got, "a folder that can be written")) from error


def _put(place: Path, path: Path) -> None:
    """Bring a written folder to its place; what was there goes when the new one stands."""
    if not path.exists():
        place.rename(path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    path.rename(old / "old")
    place.rename(path)
    shutil.rmtree(old, ignore_errors=True)
