"""A target that is nothing but its shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from hyperloom._core.errors import a_string, message, shown, some_ints
from hyperloom._core.records import Role
from hyperloom._core.target.spec import TargetSpec, TensorSpec, usual_start

Shape = tuple[int, ...]


def named_shapes(shapes: Sequence[Sequence[int]] | Mapping[str, Sequence[int]]) -> dict[str, Shape]:
    """Return bare shapes by name, named here if they were given without.

    Raises:
        ValueError: No shape.
        TypeError: A shape that is not a sequence of ints.
    """
    wanted = "a list of shapes, or a dict from names to shapes"
    if not isinstance(shapes, (Mapping, list, tuple)):
        raise TypeError(message("shapes", shown(shapes), wanted))
    pairs = shapes.items() if isinstance(shapes, Mapping) else enumerate(shapes)
    sizes = [(n, some_ints(f"shapes[{n!r}]", size, "a sequence of ints")) for n, size in pairs]
    if not sizes:
        raise ValueError(message("shapes", "none", "at least one shape"))
    if not isinstance(shapes, Mapping):
        return names_of_shapes([size for _, size in sizes])
    for name, _ in sizes:
        if "" in a_string("shapes", name, wanted).split("."):
            raise ValueError(message("shapes", f"the name {name!r}", "names between single dots"))
    return {str(name): size for name, size in sizes}


def names_of_shapes(shapes: Sequence[Sequence[int]]) -> dict[str, Shape]:
    """Name bare shapes as the layers of a network would: weights, each with its bias.

    A shape of at least two axes begins a layer, as its weight. One of fewer axes is the bias of
    the layer before it, or a layer of its own where that has one already.

    Returns:
        `{"0.weight": shape, "0.bias": shape, ...}`, in the order given.
    """
    shapes_by_name: dict[str, Shape] = {}
    layer = -1
    for shape in map(tuple, shapes):
        key = "weight" if len(shape) > 1 else "bias"
        if key == "weight" or f"{layer}.bias" in shapes_by_name or layer < 0:
            layer += 1
        shapes_by_name[f"{layer}.{key}"] = shape
    return shapes_by_name


def spec_of_shapes(shapes: Mapping[str, Shape], dtypes: Mapping[str, str]) -> TargetSpec:
    """Return the spec that follows from names and shapes alone.

    A tensor of at least two axes is a weight: `(out, in, *kernel)`, or `(*kernel, in, out)` where
    it is called a kernel, as Flax does. Another is a bias, of the weight beside it if there is one.
    """
    return TargetSpec("Shapes", tuple(_tensor(n, shapes, dtypes[n]) for n in shapes))


def _tensor(name: str, shapes: Mapping[str, Shape], dtype: str) -> TensorSpec:
    layer, _, leaf = name.rpartition(".")
    shape = shapes[name]
    role = Role.BIAS if "bias" in leaf or len(shape) < 2 else Role.WEIGHT
    of = leaf
    if role is Role.BIAS:
        # A tensor that is not called a bias has no fans but its own.
        beside = [leaf.replace("bias", other) for other in ("weight", "kernel") if "bias" in leaf]
        matrices = [w for w in beside if len(shapes.get(f"{layer}.{w}" if layer else w, ())) > 1]
        of = matrices[0] if matrices else ""
    fan_in, fan_out = _fans(of, shapes[f"{layer}.{of}" if layer else of]) if of else (1, 1)
    out_axis, in_axis = _axes(leaf, shape) if role is Role.WEIGHT else (0 if shape else None, None)
    mean, std = usual_start(role, fan_in)
    return TensorSpec(
        name, shape, role, fan_in, fan_out, layer, mean, std, dtype, out_axis, in_axis
    )


def _axes(leaf: str, shape: Shape) -> tuple[int, int]:
    """The axes of a weight's outputs and inputs."""
    return (len(shape) - 1, len(shape) - 2) if "kernel" in leaf else (0, 1)


def _fans(leaf: str, shape: Shape) -> tuple[int, int]:
    out, into = _axes(leaf, shape)
    extent = math.prod(n for axis, n in enumerate(shape) if axis not in (out, into))
    return shape[into] * extent, shape[out] * extent
