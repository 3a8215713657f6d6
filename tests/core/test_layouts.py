"""Every layout puts every number in one place, and says in two ways where that is."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hyperloom as hl
from hyperloom import Role, TargetSpec, TensorSpec
from hyperloom._core.choices.layouts import Piece, Source
from tests.core.specs import (
    INITS,
    LAYOUTS,
    linear,
    mixed,
    pieces_of,
    plans,
    small_mlp,
    starts_of,
    target,
)


def compiled(layout: Any, spec: TargetSpec | None = None, **choices: Any) -> hl.Plan:
    return hl.compile_plan(spec or mixed(), hl.Embedding(3, 4), layout=layout, **choices)


def check_tiling(plan: hl.Plan) -> None:
    """Assert that the pieces of each head cover `0 .. num_used` once, but for what is cut."""
    for i, head in enumerate(plan.heads):
        places = [piece.indices().ravel() for _, piece in pieces_of(plan, i)]
        cut = sum(piece.span - piece.numel for _, piece in pieces_of(plan, i))
        used = np.sort(np.concatenate(places))
        assert len(used) + cut == head.num_used
        if not cut:
            assert np.array_equal(used, np.arange(head.num_used))
        assert len(np.unique(used)) == len(used)
        # What is cut stands at the end of the last slot.
        assert 0 <= head.num_slots * head.slot_size - head.num_used < head.slot_size
        edges = [(s.start, s.stop) for s in head.segments]
        assert edges[0][0] == 0
        assert edges[-1][1] == head.slot_size
        assert all(a[1] == b[0] for a, b in pairwise(edges))


def check_two_maps(plan: hl.Plan, *batch: int) -> None:
    """Assert that `read`, which takes views, finds the numbers that `indices` names."""
    for piece in plan.pieces:
        head = plan.heads[piece.head]
        raw = np.random.randn(*batch, head.num_slots, head.slot_size)
        read = piece.read(raw, np.transpose)
        assert read.shape == (*batch, *piece.shape)
        flat = raw.reshape(*batch, -1)
        np.testing.assert_array_equal(read, flat[..., piece.indices()])


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_number_has_one_place(layout: hl.Layout) -> None:
    plan = compiled(layout)
    check_tiling(plan)
    check_two_maps(plan)
    check_two_maps(plan, 2, 3)


@given(plans(), st.lists(st.integers(1, 3), max_size=2))
def test_every_number_has_one_place_in_drawn_plans(plan: hl.Plan, batch: list[int]) -> None:
    check_tiling(plan)
    check_two_maps(plan, *batch)


@given(st.data())
def test_the_two_maps_of_drawn_tiles_agree(data: st.DataObject) -> None:
    axes, sizes = data.draw(st.integers(1, 4)), st.integers(1, 3)
    tile, grid = (tuple(data.draw(st.lists(sizes, min_size=axes, max_size=axes))) for _ in "tg")
    block, first = math.prod(tile), data.draw(st.integers(0, 2))
    piece = Piece(0, first * block, tile, grid, block)
    raw = np.random.randn(2, first + math.prod(grid), block)
    read = piece.read(raw, np.transpose)
    np.testing.assert_array_equal(read, raw.reshape(2, -1)[:, piece.indices()])
    assert np.unique(piece.indices()).tolist() == list(range(first * block, raw[0].size))


@given(plans())
def test_pieces_have_the_shapes_of_their_tensors(plan: hl.Plan) -> None:
    assert [e.tensor for e in plan.entries] == [
        t.name for t in plan.spec if t.name not in plan.kept
    ]
    for entry in plan.entries:
        (piece,) = entry.pieces
        shape = plan.spec[entry.tensor].shape
        assert piece.shape == piece.indices().shape == shape
        assert piece.numel == plan.spec[entry.tensor].numel
        # Of blocks that do not divide it, the last ones are cut.
        assert bool(piece.cut) == any(n % t for n, t in zip(shape, piece.tile, strict=True))
    made = sum(plan.spec[e.tensor].numel for e in plan.entries)
    assert plan.num_generated == made == sum(head.num_used for head in plan.heads)


@given(plans())
def test_heads_are_told_apart_by_name(plan: hl.Plan) -> None:
    names = [head.name for head in plan.heads]
    assert len(set(names)) == len(names)
    for i, head in enumerate(plan.heads):
        own = head.source is Source.FEATURES and head.embedding > 0
        assert own == ("chunked" in head.name or "grouped" in head.name)
        if own:
            assert i in plan.trunk_heads[plan.trunk_index(head)]


# ---- each layout's own promise -------------------------------------------------------------------


def test_the_last_chunk_is_cut() -> None:
    (head,) = compiled(hl.Chunked(10), small_mlp()).heads
    assert (head.num_slots, head.slot_size, head.num_used) == (3, 10, 26)


def test_a_chunk_is_never_larger_than_all_there_is() -> None:
    (head,) = compiled(hl.Chunked(1000), small_mlp()).heads
    assert (head.num_slots, head.slot_size, head.num_used) == (1, 26, 26)


def test_chunks_follow_the_order_of_the_target() -> None:
    plan = compiled(hl.Chunked(10), small_mlp())
    assert [(e.tensor, e.pieces[0].start) for e in plan.entries] == [
        ("0.weight", 0),
        ("0.bias", 12),
        ("2.weight", 16),
        ("2.bias", 24),
    ]


def _members(plan: hl.Plan) -> list[set[str]]:
    return [{e.tensor for e, _ in pieces_of(plan, i)} for i in range(len(plan.heads))]


def test_grouped_tensors_are_equal_in_shape_and_role() -> None:
    plan = compiled(hl.Grouped(unit=hl.Tensors()))
    assert _members(plan) == [
        {"embedding.weight"},
        {"a.weight", "b.weight"},
        {"a.bias", "b.bias", "conv.bias"},
        {"norm.weight"},
        {"norm.bias"},
        {"conv.weight"},
        {"c.weight"},
        {"c.bias"},
        {"scale"},
    ]
    for head, members in zip(plan.heads, _members(plan), strict=True):
        assert head.num_slots == len(members)


def test_grouped_layers_are_equal_in_names_and_shapes() -> None:
    plan = compiled(hl.Grouped(unit=hl.Layers()))
    assert _members(plan) == [
        {"embedding.weight"},
        {"a.weight", "a.bias", "b.weight", "b.bias"},
        {"norm.weight", "norm.bias"},
        {"conv.weight", "conv.bias"},
        {"c.weight", "c.bias"},
        {"scale"},
    ]
    layers = plan.heads[1]
    assert (layers.num_slots, layers.slot_size) == (2, 20)
    # A slot holds one whole layer.
    slots = {e.tensor: p.indices().ravel() // 20 for e, p in pieces_of(plan, 1)}
    assert {name: set(slot.tolist()) for name, slot in slots.items()} == {
        "a.weight": {0},
        "a.bias": {0},
        "b.weight": {1},
        "b.bias": {1},
    }


def test_tiles_take_the_greatest_common_divisor() -> None:
    spec = target(linear("a", 6, 4, bias=False), linear("b", 9, 8, bias=False))
    plan = compiled(hl.Grouped(unit=hl.Tiles(smallest=12)), spec)
    (head,) = plan.heads
    first, second = plan.pieces
    assert first.tile == second.tile == (4, 3)
    assert (first.grid, second.grid) == ((1, 2), (2, 3))
    assert (head.num_slots, head.slot_size) == (8, 12)


def test_tiles_stay_apart_where_the_block_would_be_too_small() -> None:
    spec = target(linear("a", 6, 4, bias=False), linear("b", 9, 8, bias=False))
    assert len(compiled(hl.Grouped(unit=hl.Tiles(smallest=13)), spec).heads) == 2


def test_tiles_do_not_cross_kernels_and_roles() -> None:
    plan = compiled(hl.Grouped(unit=hl.Tiles(smallest=1)))
    for members in _members(plan):
        kinds = {
            (plan.spec[n].role, plan.spec[n].shape[2:], len(plan.spec[n].shape)) for n in members
        }
        assert len(kinds) == 1


@given(plans())
def test_tiles_of_a_head_are_one_shape_and_keep_their_size(plan: hl.Plan) -> None:
    for i, head in enumerate(plan.heads):
        pieces = [piece for _, piece in pieces_of(plan, i)]
        if any(piece.count > 1 for piece in pieces):
            assert {math.prod(piece.tile) for piece in pieces} == {head.slot_size}
            assert len({piece.tile for piece in pieces}) == 1


def test_two_layouts_that_are_equal_share_their_heads() -> None:
    one = compiled({"0.*": hl.Chunked(5), "2.*": hl.Chunked(5)}, small_mlp())
    assert [head.name for head in one.heads] == ["chunked"]
    two = compiled({"0.*": hl.Chunked(5), "2.*": hl.Chunked(6)}, small_mlp())
    assert [head.name for head in two.heads] == ["chunked0", "chunked1"]


def test_a_tied_tensor_is_placed_once() -> None:
    tensors = (
        TensorSpec("in.weight", (4, 4), aliases=("out.weight",)),
        TensorSpec("out.bias", (4,)),
    )
    plan = compiled(hl.Full(), TargetSpec("Tied", tensors))
    assert plan.num_generated == plan.num_target_parameters == 20


# ---- how the numbers start -----------------------------------------------------------------------


def check_starts(plan: hl.Plan, init: hl.Init) -> None:
    """Assert that rows, scales and shifts together realise the init's mean and std exactly."""
    biased = {
        plan.spec[e.tensor].layer for e in plan.entries if plan.spec[e.tensor].role is Role.BIAS
    }
    for entry in plan.entries:
        tensor = plan.spec[entry.tensor]
        start = init.start(tensor, tensor.layer in biased)
        (part,), (piece,) = entry.form.parts(tensor, start), entry.pieces
        head = plan.heads[piece.head]
        means, stds, native = starts_of(plan, piece)
        np.testing.assert_allclose(means, part.start.mean, rtol=1e-12, atol=1e-12)
        if head.source is Source.SHARED and not part.start.exact:
            assert native == {tensor.name}  # a copy of the target's values
        else:
            assert native == {None}
        if not head.scaled:
            assert (piece.scale, piece.shift) == (1.0, 0.0)
        if part.start.std > 0:
            # Ratios within 2 % of 1 count as 1: a measured std is not known better.
            rtol = 1e-12 if piece.scale != 1.0 or head.embedding == 0 else 0.02
            np.testing.assert_allclose(stds, part.start.std, rtol=rtol)
        elif part.start.exact or head.embedding == 0:
            assert not stds.any()


@pytest.mark.parametrize("init", INITS, ids=repr)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_realises_the_start(layout: hl.Layout, init: hl.Init) -> None:
    for form in (hl.Whole(), hl.Delta(), {"a.*": hl.Delta(trained=True)}):
        check_starts(compiled(layout, init=init, form=form), init)


@given(plans(), st.sampled_from(INITS))
def test_drawn_plans_realise_the_start(plan: hl.Plan, init: hl.Init) -> None:
    # Compile the drawn plan's tensors again, with an init that is known here.
    forms = {entry.tensor: entry.form for entry in plan.entries}
    again = hl.compile_plan(plan.spec, plan.condition, layout=hl.Chunked(5), form=forms, init=init)
    check_starts(again, init)
    check_tiling(again)


def test_the_start_of_the_check_can_fail() -> None:
    plan = compiled(hl.Chunked(7, embedding=3))
    with pytest.raises(AssertionError):
        check_starts(plan, hl.Unscaled(0.3))


@pytest.mark.parametrize("layout", [hl.Chunked(7), hl.Grouped(), hl.Grouped(unit=hl.Layers())])
def test_a_change_that_starts_at_zero_has_a_head_of_its_own(layout: hl.Layout) -> None:
    plan = compiled(layout, small_mlp(), form={"0.*": hl.Delta()})
    stds = defaultdict(set)
    for entry in plan.entries:
        _, std, _ = starts_of(plan, entry.pieces[0])
        stds[entry.pieces[0].head].add((entry.form, bool(std.any())))
    assert all(len(kinds) == 1 for kinds in stds.values())
    assert {kind for kinds in stds.values() for kind in kinds} == {
        (hl.Delta(), False),
        (hl.Whole(), True),
    }


@pytest.mark.parametrize("init", [hl.BiasHyperInit(), hl.Orthogonal()], ids=repr)
@pytest.mark.parametrize("layout", [hl.Chunked(7), hl.Grouped()])
def test_a_start_number_by_number_needs_rows_of_its_own(layout: hl.Layout, init: hl.Init) -> None:
    wanted = (
        rf"^init: got {type(init).__name__}\(\) for '0\.weight', which "
        rf"{type(layout).__name__}\(.*\) "
        r"generates; wanted a layout with a row for every number \(Full\)\. With "
    )
    with pytest.raises(ValueError, match=wanted):
        compiled(layout, small_mlp(), init=init)


@pytest.mark.parametrize("layout", [hl.Full(), hl.PerCondition(), hl.Shared()])
def test_bias_hyperinit_starts_as_the_target(layout: hl.Layout) -> None:
    plan = compiled(layout, small_mlp(), init=hl.BiasHyperInit())
    for entry in plan.entries:
        _, stds, native = starts_of(plan, entry.pieces[0])
        assert native == {entry.tensor}
        assert not stds.any() or plan.heads[0].source is Source.SHARED


def test_a_piece_by_hand() -> None:
    # A (4, 2) tensor as two (2, 2) tiles, one under the other, in slots 1 and 2 of size 4.
    piece = Piece(head=0, start=4, tile=(2, 2), grid=(2, 1), stride=4)
    assert (piece.count, piece.numel, piece.shape) == (2, 8, (4, 2))
    assert piece.indices().tolist() == [[4, 5], [6, 7], [8, 9], [10, 11]]
    # The same, side by side.
    wide = Piece(head=0, start=4, tile=(2, 2), grid=(1, 2), stride=4)
    assert wide.indices().tolist() == [[4, 5, 8, 9], [6, 7, 10, 11]]
    raw = np.arange(12).reshape(3, 4)
    assert wide.read(raw, np.transpose).tolist() == [[4, 5, 8, 9], [6, 7, 10, 11]]


def test_largest_cuts_smaller_tensors_from_one_block() -> None:
    spec = target(linear("a", 6, 4, bias=False), linear("b", 9, 8, bias=False))
    plan = compiled(hl.Grouped(unit=hl.Largest()), spec)
    (head,), (first, second) = plan.heads, plan.pieces
    assert (head.num_slots, head.slot_size) == (2, 72)
    assert (first.tile, first.cut, second.tile, second.cut) == ((8, 9), (4, 6), (8, 9), ())
    assert first.indices().tolist() == [
        [row * 9 + column for column in range(6)] for row in range(4)
    ]
    assert first.ranges() == [(9 * row, 9 * row + 6) for row in range(4)]
    assert plan.num_generated == 24 + 72
    assert "-> 72), 33.3 % of its numbers cut" in str(plan)
    assert "a.weight 4x6 cut from 8x9" in str(plan)


def test_largest_tiles_what_is_larger_than_its_limit() -> None:
    spec = target(linear("a", 6, 4, bias=False), linear("b", 9, 8, bias=False))
    plan = compiled(hl.Grouped(unit=hl.Largest(6)), spec)
    first, second = plan.pieces
    assert (first.grid, first.cut) == ((1, 1), (4, 6))
    assert (second.tile, second.grid, second.cut) == ((6, 6), (2, 2), (8, 9))
    used = [piece.indices().ravel().tolist() for piece in plan.pieces]
    assert len({place for places in used for place in places}) == 24 + 72
    assert "b.weight 8x9 cut from 4 tiles 6x6" in str(plan)


def test_a_rank_is_a_member() -> None:
    spec = target(linear("0.q", 6, 4), linear("1.q", 6, 4), linear("1.v", 6, 4))
    told = hl.Grouped(hl.PerModule(2, 2, rank=3), hl.Ranks())
    plan = hl.compile_plan(
        spec, hl.Vector(4), layout={"*weight": told}, form={"*weight": hl.LoRA(3)}
    )
    assert [(h.num_slots, h.slot_size) for h in plan.heads] == [(6, 4), (6, 6), (3, 4), (3, 6)]
    u, v = plan.entries[1].pieces
    assert (u.tile, u.grid, v.tile, v.grid) == ((4, 1), (1, 3), (1, 6), (3, 1))
    assert u.indices().tolist() == [[12 + row + 4 * rank for rank in range(3)] for row in range(4)]
    assert [part.rows for part in plan.heads[0].lookups] == [
        (0, 0, 0, 1, 1, 1),
        (0,) * 6,
        (0, 1, 2) * 2,
    ]
