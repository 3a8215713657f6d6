"""Targets without a framework, by hand and drawn by hypothesis; layouts for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

import hyperloom as hl
from hyperloom import Role, TargetSpec, TensorSpec
from hyperloom._core.choices.layouts import Piece
from hyperloom._core.plan.plan import Entry


def weight_and_bias(layer: str, shape: tuple[int, ...], bias: bool = True) -> list[TensorSpec]:
    """A layer's tensors with PyTorch's usual start, uniform in 1 / sqrt(fan_in)."""
    kernel = math.prod(shape[2:])
    weight = TensorSpec(
        f"{layer}.weight",
        shape,
        Role.WEIGHT,
        fan_in=shape[1] * kernel,
        fan_out=shape[0] * kernel,
        layer=layer,
        std=1 / math.sqrt(3 * shape[1] * kernel),
        out_axis=0,
        in_axis=1,
    )
    beside = replace(weight, name=f"{layer}.bias", shape=shape[:1], role=Role.BIAS, in_axis=None)
    return [weight, beside] if bias else [weight]


def linear(layer: str, fan_in: int, fan_out: int, bias: bool = True) -> list[TensorSpec]:
    return weight_and_bias(layer, (fan_out, fan_in), bias)


def conv(layer: str, channels_in: int, channels_out: int, kernel: int = 3) -> list[TensorSpec]:
    return weight_and_bias(layer, (channels_out, channels_in, kernel, kernel))


def norm(layer: str, width: int) -> list[TensorSpec]:
    return [
        TensorSpec(f"{layer}.weight", (width,), Role.NORM_SCALE, layer=layer, mean=1.0, std=0.0),
        TensorSpec(f"{layer}.bias", (width,), Role.NORM_SHIFT, layer=layer, std=0.0),
    ]


def embedding(layer: str, num: int, width: int) -> list[TensorSpec]:
    shape = (num, width)
    return [TensorSpec(f"{layer}.weight", shape, Role.EMBEDDING, 1, width, layer, out_axis=1)]


def target(*layers: list[TensorSpec], name: str = "Target") -> TargetSpec:
    return TargetSpec(name, tuple(tensor for layer in layers for tensor in layer))


def small_mlp() -> TargetSpec:
    """26 numbers: 4x3, 4, 2x4, 2."""
    return target(linear("0", 3, 4), linear("2", 4, 2), name="Sequential")


def mixed() -> TargetSpec:
    """One of everything: equal and unequal shapes, a kernel, norms, an embedding, a scalar."""
    scale = [TensorSpec("scale", (), Role.BIAS, mean=2.0, std=0.0)]
    return target(
        embedding("embedding", 6, 4),
        linear("a", 4, 4),
        linear("b", 4, 4),
        norm("norm", 4),
        conv("conv", 2, 4),
        linear("c", 4, 8),
        scale,
        name="Mixed",
    )


# ---- layouts: each a name, an object, whether it looks ids up ------------------------------------

LAYOUTS: dict[str, Any] = {
    "full": hl.Full(),
    "chunked": hl.Chunked(7, embedding=3),
    "chunked-one": hl.Chunked(1, embedding=2),
    "chunked-whole": hl.Chunked(10_000),
    "chunked-per-condition": hl.Chunked(11, embedding=2, per_condition=True),
    "grouped": hl.Grouped(embedding=3),
    "grouped-layers": hl.Grouped(embedding=3, unit=hl.Layers()),
    "grouped-tiles": hl.Grouped(embedding=3, unit=hl.Tiles(smallest=4)),
    "grouped-largest": hl.Grouped(embedding=3, unit=hl.Largest(5)),
    "grouped-per-condition": hl.Grouped(embedding=3, per_condition=True),
    "per-condition": hl.PerCondition(),
    "shared": hl.Shared(),
}

INITS = [
    hl.Native(),
    hl.HyperfanIn(),
    hl.HyperfanIn(relu=False),
    hl.HyperfanOut(),
    hl.Harmonic(),
    hl.Unscaled(0.3),
]

# ---- drawn targets -------------------------------------------------------------------------------

SIZES = st.integers(1, 6)
ROLES = st.sampled_from(list(Role))


@st.composite
def tensors(draw: Callable[..., Any], index: int) -> TensorSpec:
    """Draw one tensor: 0 to 4 axes, any role, any start, sometimes tied."""
    shape = tuple(draw(st.lists(SIZES, min_size=0, max_size=4)))
    layer = f"layer{draw(st.integers(0, 3))}"
    std = draw(st.sampled_from([0.0, 0.0, 0.1, 0.3, 1.0, 2.5]))
    return TensorSpec(
        f"{layer}.t{index}",
        shape,
        draw(ROLES),
        fan_in=draw(SIZES),
        fan_out=draw(SIZES),
        layer=layer,
        mean=draw(st.sampled_from([0.0, 0.0, 1.0, -0.4])),
        std=std,
        aliases=(f"tied.t{index}",) if draw(st.booleans()) else (),
    )


@st.composite
def targets(draw: Callable[..., Any]) -> TargetSpec:
    num = draw(st.integers(1, 6))
    return TargetSpec("Drawn", tuple(draw(tensors(i)) for i in range(num)))


@st.composite
def layouts(draw: Callable[..., Any], spec: TargetSpec) -> Any:
    """Draw a layout, or a mix of two of which the second takes what the first leaves."""
    one = st.one_of(
        st.just(hl.Full()),
        st.just(hl.PerCondition()),
        st.just(hl.Shared()),
        st.builds(hl.Chunked, st.integers(1, 40), st.integers(1, 4), st.booleans()),
        st.builds(
            hl.Grouped,
            st.integers(1, 4),
            st.one_of(
                st.just(hl.Tensors()),
                st.just(hl.Layers()),
                st.builds(hl.Tiles, st.integers(1, 20)),
                st.builds(hl.Largest, st.none() | st.integers(1, 20)),
            ),
            st.booleans(),
        ),
    )
    if len(spec) < 2 or not draw(st.booleans()):
        return draw(one)
    names = [tensor.name for tensor in spec]
    return {names[draw(st.integers(0, len(names) - 1))]: draw(one), "*": draw(one)}


@st.composite
def plans(draw: Callable[..., Any]) -> hl.Plan:
    """Draw a target, a layout, a form and an init, and compile them."""
    spec = draw(targets())
    form = draw(st.sampled_from([hl.Whole(), hl.Whole(), hl.Delta(), hl.Delta(trained=True)]))
    if draw(st.booleans()):
        form = {spec.tensors[0].name: form}
    trunk = draw(st.sampled_from([None, hl.MLP(5)]))
    layout, init = draw(layouts(spec)), draw(st.sampled_from(INITS))
    return hl.compile_plan(spec, hl.Embedding(3, 4), trunk, layout, form, init)


# ---- what a plan says of one part ----------------------------------------------------------------


def pieces_of(plan: hl.Plan, head: int) -> list[tuple[Entry, Piece]]:
    return [(e, p) for e in plan.entries for p in e.pieces if p.head == head]


def starts_of(plan: hl.Plan, piece: Piece) -> tuple[np.ndarray, np.ndarray, set[str | None]]:
    """Return mean and std that the plan gives each number of a piece, and its native names."""
    head = plan.heads[piece.head]
    rows = piece.indices().ravel() % head.slot_size
    means, stds = np.empty(len(rows)), np.empty(len(rows))
    native: set[str | None] = set()
    for segment in head.segments:
        inside = (rows >= segment.start) & (rows < segment.stop)
        means[inside] = segment.mean * piece.scale + piece.shift
        stds[inside] = segment.std * abs(piece.scale)
        native |= {segment.native} if inside.any() else set()
    return means, stds, native
