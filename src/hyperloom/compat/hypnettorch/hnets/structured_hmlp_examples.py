"""Structured chunking of residual networks: arguments for `StructuredHMLP`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

Chunks = list[list[Tensor]]
Chunking = tuple[list[list[list[int]]], list[int], Callable[[Chunks], list[Tensor]]]


@dataclass(frozen=True)
class _Layer:
    """Where the tensors of one layer stand in the target, and their shapes."""

    places: list[int]
    shapes: list[list[int]]

    def without(self, num: int) -> _Layer:
        """Leave out the last `num` tensors."""
        keep = len(self.places) - num
        return _Layer(self.places[:keep], self.shapes[:keep])


@dataclass(frozen=True)
class _Group:
    """Layers made of chunks of one kind.

    Attributes:
        shapes: Shapes of the tensors of a chunk.
        layers: The layers, with the number of chunks that make each.
        axis: Axis along which chunks are joined.
        whole: How many tensors of a chunk are joined; of the others the first chunk's are used.
    """

    shapes: list[list[int]]
    layers: list[tuple[_Layer, int]]
    axis: int = 0
    whole: int = 99


def resnet_chunking(net: Any, gcd_chunking: bool = False) -> Chunking:
    """Chunk a ResNet by layers; equal layers of a block are made by one hypernetwork.

    Natively, for any module: `Grouped(unit=Layers())`, or `Grouped(unit=Tiles())`.

    Args:
        net: A residual network with `param_shapes` and `param_shapes_meta` like hypnettorch's
            `ResNet`: three blocks of 2n convolutions between an input and an output layer.
        gcd_chunking: Cut the blocks' convolutions along the outputs by the greatest common
            divisor of their numbers of features.

    Returns:
        `chunk_shapes`, `num_per_chunk` and `assembly_fct` of `StructuredHMLP`.

    Raises:
        ValueError: Another structure.
        NotImplementedError: The network has context modulation.
    """
    first, convs, shortcuts, last = _read(net)
    if shortcuts:
        raise ValueError("net: has 1x1 convolutions; wanted a ResNet. Use wrn_chunking.")
    n = len(convs) // 6
    groups = [_Group(first.shapes, [(first, 1)])]
    if gcd_chunking:
        widths = [convs[0].shapes[0][1], *(convs[2 * n * i].shapes[0][0] for i in range(3))]
        gcd = math.gcd(*widths)
        bounds = [0, 1, 2 * n + 1, 4 * n + 1, 6 * n]
        for start, stop in pairwise(bounds):
            members = convs[start:stop]
            shapes = [[gcd, *shape[1:]] for shape in members[0].shapes]
            counts = [layer.shapes[0][0] // gcd for layer in members]
            groups.append(_Group(shapes, list(zip(members, counts, strict=True))))
    else:
        for i in range(3):
            block = convs[2 * n * i : 2 * n * (i + 1)]
            groups.append(_Group(block[0].shapes, [(block[0], 1)]))
            groups.append(_Group(block[1].shapes, [(layer, 1) for layer in block[1:]]))
    groups.append(_Group(last.shapes, [(last, 1)]))
    return _chunking(groups)


def wrn_chunking(
    net: Any,
    ignore_bn_weights: bool = True,
    ignore_out_weights: bool = True,
    gcd_chunking: bool = False,
) -> Chunking:
    """Chunk a wide ResNet, close to Sacramento et al., "Economical ensembles with
    hypernetworks", 2020.

    Args:
        net: A network with `param_shapes` and `param_shapes_meta` like hypnettorch's `WRN`.
        ignore_bn_weights: Leave out batch norm's scales and shifts.
        ignore_out_weights: Leave out the output layer.
        gcd_chunking: Cut each block's convolutions along the inputs by the greatest common
            divisor of its numbers of features. That is done without it too where one number is
            the other, or twice the other.

    Returns:
        `chunk_shapes`, `num_per_chunk` and `assembly_fct` of `StructuredHMLP`.

    Raises:
        ValueError: Another structure.
        NotImplementedError: The network has context modulation.
    """  # noqa: D205
    first, convs, shortcuts, last = _read(net)
    norms = 2 if any(m["name"] == "bn_scale" for m in net.param_shapes_meta) else 0
    if ignore_bn_weights and norms:
        first, convs = first.without(norms), [layer.without(norms) for layer in convs]
    n = len(convs) // 6
    groups = [_Group(first.shapes, [(first, 1)])]
    for i in range(3):
        block = convs[2 * n * i : 2 * n * (i + 1)]
        out, before = block[0].shapes[0][:2]
        gcd = math.gcd(out, before) if gcd_chunking else 0
        gcd = min(out, before) if max(out, before) / min(out, before) in (1, 2) else gcd
        if gcd:
            kernel, *rest = block[0].shapes
            counts = [layer.shapes[0][1] // gcd for layer in block]
            shapes = [[kernel[0], gcd, *kernel[2:]], *rest]
            groups.append(_Group(shapes, list(zip(block, counts, strict=True)), 1, 1))
        else:
            groups.append(_Group(block[0].shapes, [(block[0], 1)]))
            groups.append(_Group(block[1].shapes, [(layer, 1) for layer in block[1:]]))
    groups += [_Group(layer.shapes, [(layer, 1)]) for layer in shortcuts]
    if not ignore_out_weights:
        groups.append(_Group(last.shapes, [(last, 1)]))
    return _chunking(groups)


def _read(net: Any) -> tuple[_Layer, list[_Layer], list[_Layer], _Layer]:
    """Return input layer, convolutions of the blocks, 1x1 shortcuts and output layer."""
    try:
        shapes, meta = net.param_shapes, net.param_shapes_meta
    except AttributeError:
        raise ValueError("net: wanted a residual network of hypnettorch.") from None
    names = [m["name"] for m in meta]
    if any(name.startswith("cm_") for name in names):
        raise NotImplementedError("net: has context modulation.")
    norms = iter([i for i, name in enumerate(names) if name == "bn_scale"])
    found: list[_Layer] = []
    shortcuts: list[_Layer] = []
    for i, name in enumerate(names):
        if name != "weight":
            continue
        places = [i, i + 1] if i + 1 < len(names) and names[i + 1] == "bias" else [i]
        if len(shapes[i]) == 4 and list(shapes[i][2:]) == [1, 1]:
            shortcuts.append(_layer(shapes, places))
            continue
        norm = next(norms, None) if len(shapes[i]) == 4 else None
        places += [] if norm is None else [norm, norm + 1]
        found.append(_layer(shapes, places))
    convs = found[1:-1]
    kinds = [len(layer.shapes[0]) for layer in found]
    if len(convs) < 6 or len(convs) % 6 or kinds != [4] * (len(found) - 1) + [2]:
        raise ValueError("net: wanted 1 + 6n convolutions and a fully connected output layer.")
    return found[0], convs, shortcuts, found[-1]


def _layer(shapes: Sequence[Sequence[int]], places: list[int]) -> _Layer:
    return _Layer(places, [list(shapes[i]) for i in places])


def _chunking(groups: list[_Group]) -> Chunking:
    nums = [sum(count for _, count in group.layers) for group in groups]
    return [group.shapes for group in groups], nums, _Assembly(groups)


@dataclass(frozen=True)
class _Assembly:
    """Joins chunks into the target's tensors, in its order."""

    groups: list[_Group]

    def __call__(self, chunks: Chunks) -> list[Tensor]:
        """Assemble one sample."""
        made: dict[int, Tensor] = {}
        rest = iter(chunks)
        for group in self.groups:
            for layer, count in group.layers:
                own = [next(rest) for _ in range(count)]
                for j, place in enumerate(layer.places):
                    parts = [chunk[j] for chunk in own] if j < group.whole else [own[0][j]]
                    made[place] = torch.cat(parts, group.axis) if len(parts) > 1 else parts[0]
        return [made[place] for place in sorted(made)]
