"""The same network in two frameworks: which tensor of one is which tensor of the other.

PyTorch's linear layer has a `weight` `(out, in)`, Flax's a `kernel` `(in, out)`; convolutions are
OIHW against HWIO; PyTorch's LSTM packs four gates that Flax's cell keeps apart. A `Translation`
says for every tensor of a target where its numbers stand in the tensors of another.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hyperloom._core.errors import a_kind, a_mapping, did_you_mean, message
from hyperloom._core.records import Role
from hyperloom._core.target.spec import TargetSpec, TensorSpec
from hyperloom._core.target.translation import Recipe, Term, Translation


def translate(
    source: TargetSpec, target: TargetSpec, names: Mapping[str, str] | None = None
) -> Translation:
    """Match two targets that are the same network in different frameworks.

    Layers are paired by their names if these are the same in both, else by their sizes, and those
    of equal sizes in order if only numbers in their names tell them apart. Within a pair, weights
    are turned by their axes of outputs, inputs and kernel; scales, shifts and biases are as they
    are; an LSTM's packed gates are taken apart or put together.

    What the specs do not show must agree: activations, padding, epsilon, and the order in which a
    convolution's outputs are flattened before a linear layer (PyTorch flattens channels first).

    Args:
        source: The target that a plan was made for.
        target: The target that is to be run.
        names: Pairs of names that are not to be guessed: a layer or tensor of `target` -> its
            counterpart in `source`.

    Raises:
        ValueError: Layers that cannot be paired, shapes that do not fit, transposed convolutions
            (whose kernels differ in more than the order of axes), or an unknown name.
    """
    a_kind("source", source, TargetSpec, "a TargetSpec")
    a_kind("target", target, TargetSpec, "a TargetSpec")
    given = dict(a_mapping("names", {} if names is None else names, "a dict of names, or None"))
    mine, theirs = _units(target), _units(source)
    _refuse_unknown(given, mine, theirs, source, target)
    recipes: dict[str, Recipe] = {}
    for name, other in given.items():
        if name not in mine:
            recipes[target[name].name] = _turned(target[name], source[other])
    pairs = _pair(mine, theirs, {k: v for k, v in given.items() if k in mine}, set(recipes))
    for name, other in pairs:
        for recipe in _translate_unit(mine[name], theirs[other]):
            recipes.setdefault(recipe.name, recipe)
    in_order = tuple(recipes[tensor.name] for tensor in target)
    return Translation(source, target, in_order, tuple(pairs))


# ---- units: layers, and LSTM cells ---------------------------------------------------------------

_GATES = "ifgo"


@dataclass(frozen=True)
class Unit:
    """A layer, or a cell whose tensors belong together.

    Attributes:
        name: Its path.
        tensors: Its tensors, by what they are: `weight`, `bias`; of a cell, their own names.
        cell: How its gates are kept: `packed`, `split`, `joint`, or `None` for a layer.
    """

    name: str
    tensors: dict[str, TensorSpec]
    cell: str | None = None


def _units(spec: TargetSpec) -> dict[str, Unit]:
    """Return the layers and cells of a target, in its order."""
    layers: dict[str, dict[str, TensorSpec]] = {}
    for tensor in spec:
        layers.setdefault(tensor.layer, {})[tensor.layer_relative_name] = tensor
    units: dict[str, Unit] = {}
    for layer, tensors in layers.items():
        above, _, last = layer.rpartition(".")
        if re.fullmatch(r"[ih][ifgo]_?", last) and _has(layers, above, "hi", "hf", "hg", "ho"):
            cell = units.setdefault(above, Unit(above, {}, "split"))
            cell.tensors.update({f"{last.rstrip('_')}.{k}": t for k, t in tensors.items()})
        elif last in ("dense_i", "dense_h") and _is_joint_lstm(layers, above):
            cell = units.setdefault(above, Unit(above, {}, "joint"))
            cell.tensors.update({f"{last}.{k}": t for k, t in tensors.items()})
        elif any(key.startswith("weight_hh") for key in tensors):
            units.update(_packed(layer, tensors))
        else:
            units[layer] = Unit(layer, {_part(t): t for t in tensors.values()})
    return units


def _has(layers: Mapping[str, Any], above: str, *names: str) -> bool:
    return all((f"{above}.{name}" if above else name) in layers for name in names)


def _is_joint_lstm(layers: Mapping[str, Mapping[str, TensorSpec]], above: str) -> bool:
    """Whether `dense_h` of a cell maps a state to four gates of its width."""
    hidden = layers.get(f"{above}.dense_h" if above else "dense_h", {}).get("kernel")
    return hidden is not None and hidden.shape[1] == 4 * hidden.shape[0]


def _packed(layer: str, tensors: dict[str, TensorSpec]) -> dict[str, Unit]:
    """Return a unit for each layer of a PyTorch RNN: `weight_ih_l0`, `weight_hh_l0` ..."""
    levels: dict[str, dict[str, TensorSpec]] = {}
    for key, tensor in tensors.items():
        base, _, level = key.partition("_l")
        levels.setdefault(level, {})[base] = tensor
    units = {}
    for level, parts in levels.items():
        weight = parts["weight_hh"]
        if weight.shape[0] != 4 * weight.shape[1] or "reverse" in level:
            got = f"{weight.name!r} of shape {weight.shape}"
            raise ValueError(message("translate", got, "an LSTM in one direction"))
        name = f"{layer}:{level}" if len(levels) > 1 else layer
        units[name] = Unit(name, parts, "packed")
    return units


def _part(tensor: TensorSpec) -> str:
    """Return what a tensor of a layer is, whatever the framework calls it."""
    if tensor.role in (Role.BIAS, Role.NORM_SHIFT) and "bias" in tensor.layer_relative_name:
        return "bias"
    if tensor.layer_relative_name in ("weight", "kernel", "scale", "embedding"):
        return "weight"
    return tensor.layer_relative_name


# ---- pairs --------------------------------------------------------------------------------------


def _refuse_unknown(
    given: Mapping[str, str],
    mine: Mapping[str, Unit],
    theirs: Mapping[str, Unit],
    source: TargetSpec,
    target: TargetSpec,
) -> None:
    """Raise for a name that is neither a layer nor a tensor."""
    for (names, units, spec), what in (
        ((given.keys(), mine, target), f"a layer or tensor of {target.name}"),
        ((given.values(), theirs, source), f"a layer or tensor of {source.name}"),
    ):
        known = {*units, *(n for t in spec for n in t.names)}
        for name in names:
            if name not in known:
                way_out = did_you_mean(name, sorted(known))
                raise ValueError(message("translate", f"the name {name!r}", what, way_out))


def _pair(
    mine: Mapping[str, Unit],
    theirs: Mapping[str, Unit],
    given: Mapping[str, str],
    done: set[str],
) -> list[tuple[str, str]]:
    """Pair the layers: as given, by equal names, by their sizes, and in order."""
    pairs = dict(given)
    rest = [n for n, u in mine.items() if n not in pairs and not _made(u, done)]
    left = [n for n in theirs if n not in given.values()]
    if all(name in left for name in rest):
        return [*pairs.items(), *zip(rest, rest, strict=True)]
    wanted, there = _by_kind(rest, mine), _by_kind(left, theirs)
    for kind, names in wanted.items():
        others = there.get(kind, [])
        if len(names) != len(others):
            got = f"{len(others)} layers {_few(others)} for {_few(names)}, which are alike"
            raise ValueError(message("translate", got, "as many in both", _WAY_OUT))
        if len(names) > 1 and not (_numbered(names) and _numbered(others)):
            got = f"{_few(others)} for {_few(names)}, which are all alike"
            wanted_words = "layers that names, sizes or numbers in names tell apart"
            raise ValueError(message("translate", got, wanted_words, _WAY_OUT))
        pairs.update(zip(names, others, strict=True))
    return list(pairs.items())


_WAY_OUT = "Name the pairs: translate={'layer of the target': 'layer of the source'}."


def _by_kind(names: Sequence[str], units: Mapping[str, Unit]) -> dict[object, list[str]]:
    """Return the layers of each kind and size, in their order."""
    names_of_kind: dict[object, list[str]] = {}
    for name in names:
        names_of_kind.setdefault(_kind(units[name]), []).append(name)
    return names_of_kind


def _kind(unit: Unit) -> object:
    """Return what layers have in common that could be each other's counterparts."""
    if unit.cell:
        weights = [t for t in unit.tensors.values() if len(t.shape) == 2]
        return "cell", sum(tensor.numel for tensor in weights)
    return frozenset((part, _sizes(tensor)) for part, tensor in unit.tensors.items())


def _sizes(tensor: TensorSpec) -> object:
    if tensor.role not in (Role.WEIGHT, Role.EMBEDDING):
        return tensor.numel  # scales and biases: PyTorch calls some of the one the other
    axes = (tensor.out_axes, tensor.in_axes, tensor.kernel_axes)
    sizes = [tuple(tensor.shape[i] for i in group) for group in axes]
    return tensor.role, math.prod(sizes[0]), math.prod(sizes[1]), sizes[2]


def _numbered(names: Sequence[str]) -> bool:
    """Whether names differ in numbers only, so that their order is one."""
    return len({re.sub(r"\d+", "#", name) for name in names}) == 1


def _made(unit: Unit, done: set[str]) -> bool:
    return all(tensor.name in done for tensor in unit.tensors.values())


def _few(names: Sequence[str]) -> str:
    return f"({', '.join(map(repr, names[:4]))}{', ...' if len(names) > 4 else ''})"


def _translate_unit(mine: Unit, theirs: Unit) -> list[Recipe]:
    """Return a recipe for every tensor of a layer or cell."""
    if mine.cell and theirs.cell:
        return _translate_cell(mine, theirs)
    recipes = []
    for part, tensor in mine.tensors.items():
        other = theirs.tensors.get(part)
        if other is None or mine.cell or theirs.cell:
            got = f"no counterpart of {tensor.name!r} in {theirs.name!r}"
            raise ValueError(message("translate", got, "layers with the same tensors", _WAY_OUT))
        recipes.append(_turned(tensor, other))
    lost = [t.name for part, t in theirs.tensors.items() if part not in mine.tensors]
    if lost:
        got = f"{lost[0]!r}, which {mine.name!r} has no place for"
        raise ValueError(message("translate", got, "layers with the same tensors"))
    return recipes


def _turned(mine: TensorSpec, theirs: TensorSpec) -> Recipe:
    """Return how one tensor becomes another by the order of its axes."""
    for tensor in (mine, theirs):
        channels_swapped = tensor.out_axis == 1 and tensor.in_axis == 0 and len(tensor.shape) > 2
        if tensor.role is Role.WEIGHT and channels_swapped:
            got = f"{tensor.name!r}, a transposed convolution"
            wanted = "layers whose kernels differ in the order of axes only"
            raise ValueError(message("translate", got, wanted))
    blocks_of = (lambda t: (t.out_axes, t.in_axes, t.kernel_axes)) if mine.in_axes else _all_axes
    my_blocks, their_blocks = blocks_of(mine), blocks_of(theirs)
    order = sorted(range(3), key=lambda i: my_blocks[i] or (len(mine.shape),))
    sizes = [
        (math.prod(mine.shape[a] for a in x), math.prod(theirs.shape[a] for a in y))
        for x, y in zip(my_blocks, their_blocks, strict=True)
    ]
    if any(a != b for a, b in sizes):
        got = f"{theirs.name!r} of shape {theirs.shape} for {mine.name!r} of shape {mine.shape}"
        raise ValueError(message("translate", got, "the same sizes in another order", _WAY_OUT))
    axes = tuple(axis for i in order for axis in their_blocks[i])
    return Recipe(mine.name, mine.shape, ((Term(theirs.name, axes),),))


def _all_axes(tensor: TensorSpec) -> tuple[tuple[int, ...], ...]:
    return tuple(range(len(tensor.shape))), (), ()


# ---- LSTM cells ---------------------------------------------------------------------------------
# Each way of keeping gates says where input weights (x), state weights (h) and biases (b) of a
# gate stand: (tensor, axis of the gates or None, axis of the outputs).


def _gate_terms(unit: Unit, what: str, gate: int, wanted: int) -> tuple[Term, ...]:
    """Return the terms of one gate, with its outputs on axis `wanted`; biases are summed."""
    side = "h" if what == "b" else what
    letter = _GATES[gate]
    if unit.cell == "packed":
        side = "hh" if what == "h" else "ih"
        names = ["bias_ih", "bias_hh"] if what == "b" else [f"weight_{side}"]
        names_and_gates, out = [(n, gate) for n in names if n in unit.tensors], 0
    elif unit.cell == "joint":
        side = {"x": "dense_i", "h": "dense_h", "b": "dense_h"}[what]
        names_and_gates, out = [(f"{side}.{'bias' if what == 'b' else 'kernel'}", gate)], 1
    else:
        side = "i" if what == "x" else "h"
        names_and_gates, out = [(f"{side}{letter}.{'bias' if what == 'b' else 'kernel'}", None)], 1
    terms = []
    for name, index in names_and_gates:
        if name not in unit.tensors:
            continue
        tensor = unit.tensors[name]
        axis = 0 if what == "b" else out
        axes = (0,) if what == "b" else ((0, 1) if out == wanted else (1, 0))
        size = tensor.shape[axis] // 4
        cut = (None, 0, 0) if index is None else (axis, index * size, (index + 1) * size)
        terms.append(Term(tensor.name, axes, *cut))
    return tuple(terms)


def _translate_cell(mine: Unit, theirs: Unit) -> list[Recipe]:
    """Return a recipe for every tensor of an LSTM cell."""
    recipes = []
    for key, tensor in mine.tensors.items():
        axis, gates, what = _place(mine, key)
        if what is None:  # the second of PyTorch's two biases
            recipes.append(Recipe(tensor.name, tensor.shape, ()))
            continue
        blocks = tuple(_gate_terms(theirs, what, gate, axis) for gate in gates)
        if not all(blocks):
            blocks = ()  # a source without biases
        recipes.append(Recipe(tensor.name, tensor.shape, blocks, 0 if what == "b" else axis))
    return recipes


def _place(unit: Unit, key: str) -> tuple[int, Sequence[int], str | None]:
    """Return the axis of the outputs, the gates in order, and what a cell's tensor is."""
    if unit.cell == "packed":
        kinds = {"weight_ih": "x", "weight_hh": "h", "bias_ih": "b", "bias_hh": None}
        return 0, range(4), kinds[key]
    layer, _, leaf = key.partition(".")
    what = "b" if leaf == "bias" else "x" if layer in ("dense_i",) or layer[0] == "i" else "h"
    return 1, range(4) if unit.cell == "joint" else [_GATES.index(layer[1])], what
