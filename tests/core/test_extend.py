"""Layouts and forms of a user's own: what they return is checked where a plan is compiled."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pytest

import hyperloom as hl
from hyperloom.extend import (
    ZERO,
    Bank,
    Form,
    Formed,
    Layout,
    OnBase,
    Part,
    Placement,
    Plain,
    Product,
    Scaled,
    Shifted,
    Source,
    Start,
    Structure,
    Sum,
    TensorSpec,
    in_slots,
    own_rows,
    part_of,
    reference,
    whole_piece,
)
from tests.core.specs import conv, linear, target

SPEC = target(linear("a", 3, 4), linear("b", 4, 4), conv("c", 2, 3))


@dataclass(frozen=True, repr=False)
class ByRow(Layout):
    embedding: int = 3

    def compile(self, parts: Sequence[Part], first_head: int) -> list[Placement]:
        groups: dict[int, list[Part]] = {}
        for part in parts:
            groups.setdefault(math.prod(part.shape[1:]), []).append(part)
        made: list[Placement] = []
        for size, members in groups.items():
            made += in_slots(self, "rows", members, first_head + len(made), size, self.embedding)
        return made


@dataclass(frozen=True, repr=False)
class Directions(OnBase):
    num: int = 2

    def bank(self, tensor: TensorSpec, start: Start) -> Bank:
        return Bank((self.num, *tensor.shape), 1.0)

    def parts(self, tensor: TensorSpec, start: Start) -> tuple[Part, ...]:
        return (part_of(tensor, "c", (self.num, *(1,) * len(tensor.shape)), ZERO),)

    def structure(self, tensor: TensorSpec) -> Structure:
        return Sum()


def arrays(plan: hl.Plan) -> dict[str, np.ndarray]:
    """Return random tensors for the reference."""
    draws = np.random.RandomState(0)
    made = {"condition.table": draws.randn(4, plan.condition.width)}
    for head in plan.heads:
        made[f"heads.{head.name}.weight"] = draws.randn(head.slot_size, plan.features(head))
        made[f"heads.{head.name}.bias"] = draws.randn(head.slot_size)
        made[f"heads.{head.name}.slots"] = draws.randn(head.num_slots, head.embedding)
    made["scales"] = np.array([[p.scale, p.shift] for p in plan.pieces])
    for entry in plan.entries:
        made[f"bases.{entry.tensor}"] = draws.randn(*plan.spec[entry.tensor].shape)
    return made | {f"banks.{i}": draws.randn(*bank.shape) for i, bank in enumerate(plan.banks)}


def test_a_layout_and_a_form_of_ones_own_in_the_reference() -> None:
    plan = hl.compile_plan(SPEC, hl.Embedding(4, 5), None, ByRow(), {"a.weight": Directions(2)})
    assert "0.weight" not in str(plan)
    assert "a.weight 4x3 from 2x1x1, Directions()" in str(plan)
    held = arrays(plan)
    made = reference(plan, held, 1)
    assert {name: value.shape for name, value in made.items()} == {t.name: t.shape for t in SPEC}
    entry = plan.entries[0]
    head, piece = plan.heads[entry.pieces[0].head], entry.pieces[0]
    # By hand: two slots of one number each.
    numbers = []
    for slot in range(piece.start, piece.start + 2):
        x = np.concatenate([held["condition.table"][1], held[f"heads.{head.name}.slots"][slot]])
        signs = np.random.RandomState(0).randint(0, 2, (head.num_slots, len(x)))[slot] * 2 - 1
        row = held[f"heads.{head.name}.weight"] @ (x * signs) + held[f"heads.{head.name}.bias"]
        numbers.append(row * piece.scale + piece.shift)
    wanted = held["bases.a.weight"] + sum(
        c * d for c, d in zip(numbers, held["banks.0"], strict=True)
    )
    np.testing.assert_allclose(made["a.weight"], wanted, rtol=1e-12)


def test_forms_have_banks_of_their_own() -> None:
    forms = {"a.weight": Directions(2), "b.weight": hl.Templates(2), "c.weight": Directions(2)}
    spec = target(linear("a", 4, 4), linear("b", 4, 4), linear("c", 4, 4))
    plan = hl.compile_plan(spec, hl.Embedding(4, 5), form=forms)
    banks = {entry.tensor: entry.bank for entry in plan.entries}
    assert (banks["a.weight"], banks["b.weight"], banks["c.weight"]) == (0, 1, 0)


def test_a_part_that_must_start_at_zero_has_a_head_that_does() -> None:
    plan = hl.compile_plan(
        SPEC, hl.Embedding(4, 5), None, ByRow(), {"a.weight": hl.Delta(), "*": hl.Whole()}
    )
    entry = plan.entries[0]
    assert entry.tensor == "a.weight"
    assert [s.std for s in plan.heads[entry.pieces[0].head].segments] == [0.0]


def test_parts_of_equal_shape_are_told_apart_in_a_drawing() -> None:
    form = {"b.weight": hl.LoRA(4), "a.weight": hl.LoRA(2)}
    drawn = str(hl.compile_plan(SPEC, hl.Embedding(4, 5), form=form))
    assert "b.weight 4x4 from 4x4 (part 1), LoRA(4)" in drawn
    assert "b.weight 4x4 from 4x4 (part 2), LoRA(4)" in drawn
    assert "a.weight 4x3 from 2x3, LoRA(2)" in drawn


# ---- what is refused -----------------------------------------------------------------------------


def layout_that(change: Callable[[list[Placement]], Any]) -> Layout:
    class Changed(Layout):
        def compile(self, parts: Sequence[Part], first_head: int) -> list[Placement]:
            return change(own_rows("mine", Source.FEATURES, parts, first_head))

    return Changed()


def without_last(placements: list[Placement]) -> list[Placement]:
    return [replace(placements[0], pieces=placements[0].pieces[:-1])]


def twice(placements: list[Placement]) -> list[Placement]:
    return [replace(placements[0], pieces=(*placements[0].pieces, placements[0].pieces[0]))]


def changed_piece(**changes: Any) -> Callable[[list[Placement]], list[Placement]]:
    def change(placements: list[Placement]) -> list[Placement]:
        (part, piece), *others = placements[0].pieces
        return [replace(placements[0], pieces=((part, replace(piece, **changes)), *others))]

    return change


def changed_head(**changes: Any) -> Callable[[list[Placement]], list[Placement]]:
    return lambda made: [replace(made[0], head=replace(made[0].head, **changes))]


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (
            lambda made: made[0],
            TypeError,
            "returns a Placement.*; wanted a list of Placement.",
        ),
        (lambda made: [1], TypeError, "returns [1]; wanted a list of Placement."),
        (without_last, ValueError, "places 'bias' of 'c.bias' nowhere; wanted each of its parts"),
        (twice, ValueError, "places 'weight' of 'a.weight' a second time; wanted each of its"),
        (
            changed_piece(tile=(3, 4)),
            ValueError,
            "places 'weight' of 'a.weight' in shape (3, 4); wanted its shape (4, 3).",
        ),
        (
            changed_piece(head=1),
            ValueError,
            "places 'weight' of 'a.weight' in head 1; wanted head 0: they count on from first_head",
        ),
        (
            changed_piece(start=100),
            ValueError,
            "places 'weight' of 'a.weight' at 100 .. 112; wanted numbers in 0 .. 93, all its",
        ),
        (
            changed_head(segments=()),
            ValueError,
            "says how rows 0 .. 0 of 'mine' start; wanted segments, in order, for 0 .. 93.",
        ),
        (
            changed_head(num_used=94),
            ValueError,
            "gives 'mine' 94 numbers to use; wanted at most 1 x 93.",
        ),
        (
            changed_head(slot_size=0.5),
            ValueError,
            "gives 'mine' slot_size=0.5; wanted an int of at least 0.",
        ),
        (
            changed_head(embedding=-1),
            ValueError,
            "gives 'mine' embedding=-1; wanted an int of at least 0.",
        ),
        (
            changed_head(source="features"),
            TypeError,
            "gives 'mine' source='features'; wanted a Source: features, table, shared, given.",
        ),
        (
            changed_head(num_slots=2),
            ValueError,
            "runs 'mine' 2 times without embeddings; wanted embeddings of at least 1 number: "
            "nothing else that is learned tells runs apart.",
        ),
    ],
)
def test_a_layout_that_misplaces(change: Any, error: type[Exception], text: str) -> None:
    pattern = re.escape(f"layout: got Changed(), which {text}").replace(r"\.\*", ".*")
    with pytest.raises(error, match=f"^{pattern}"):
        hl.compile_plan(SPEC, hl.Embedding(4, 5), layout=layout_that(change))


@pytest.mark.parametrize(
    ("size", "embedding", "error", "text"),
    [
        (0, 3, ValueError, "size=): got 0; wanted an int of at least 1."),
        ("a", 3, TypeError, "size=): got 'a'; wanted an int of at least 1."),
        (5, -1, ValueError, "embedding=): got -1; wanted an int of at least 0."),
    ],
)
def test_slots_of_a_wrong_size(
    size: Any, embedding: Any, error: type[Exception], text: str
) -> None:
    class Cut(Layout):
        def compile(self, parts: Sequence[Part], first_head: int) -> list[Placement]:
            return in_slots(self, "cut", parts, first_head, size, embedding)

    with pytest.raises(error, match=f"^{re.escape(f'in_slots({text}')}"):
        hl.compile_plan(SPEC, hl.Embedding(4, 5), layout=Cut())


def test_a_choice_with_a_list_in_it() -> None:
    @dataclass(frozen=True, repr=False)
    class Sizes(Layout):
        sizes: Any

    text = "layout: got a Sizes whose sizes is [1, 2]; wanted fields of numbers, strings, tuples"
    with pytest.raises(TypeError, match=rf"^{re.escape(text)} and choices. Give a tuple\.$"):
        hl.compile_plan(SPEC, hl.Embedding(4, 5), layout=Sizes([1, 2]))


def form_that(parts: Any = None, structure: Any = None, bank: Any = None) -> Form:
    class Changed(OnBase):
        def bank(self, tensor: TensorSpec, start: Start) -> Bank | None:
            return bank

        def parts(self, tensor: TensorSpec, start: Start) -> tuple[Part, ...]:
            return parts(tensor) if parts else super().parts(tensor, start)

        def structure(self, tensor: TensorSpec) -> Structure:
            return structure

    return Changed()


def of_shapes(*shapes: Any) -> Callable[[TensorSpec], tuple[Part, ...]]:
    """Return what gives parts of these shapes."""
    return lambda tensor: tuple(part_of(tensor, str(i), s, ZERO) for i, s in enumerate(shapes))


BASED = "a base (extend OnBase)"
OF_SIZES = "(4, 3) or with 1 in the place of a size"
PRODUCT = "two parts, (4, rank) and (rank, 3)"


@pytest.mark.parametrize(
    ("parts", "structure", "error", "text"),
    [
        (lambda t: [], Plain(), TypeError, "whose parts() returns [] for 'a.weight'; wanted a"),
        (
            lambda t: (part_of(t, "u", (2,), ZERO),) * 2,
            Plain(),
            ValueError,
            "whose parts of 'a.weight' are weight.u, weight.u; wanted parts of that tensor, with",
        ),
        (None, 3, TypeError, "whose structure() returns 3 for 'a.weight'; wanted a str"),
        (
            lambda t: (part_of(t, "u", (2,), ZERO),),
            Formed(lambda parts, base: parts[0]),
            ValueError,
            "which makes (2,) of the parts of 'a.weight'; wanted its shape (4, 3).",
        ),
        (
            None,
            Formed(lambda parts, base: base + parts[0].sum(0) / 3),
            ValueError,
            "which makes (4, 3) of two conditions' parts of 'a.weight'; wanted for each what it "
            "makes of that one alone. Parts come as (*batch, *part shape): count axes from the end",
        ),
        (
            None,
            Formed(lambda parts, base: base + parts[0] / abs(parts[0]).max()),
            ValueError,
            "which makes (2, 4, 3) of two conditions' parts of 'a.weight'; wanted for each what",
        ),
        (
            None,
            Formed(lambda parts, base: base + parts[3]),
            TypeError,
            "whose Formed of 'a.weight' fails: IndexError: tuple index out of range; wanted a "
            "function of (parts, base) that takes 1 part and arrays of every framework. It is "
            "tried on NumPy arrays: use operators, abs, .reshape and .sum.",
        ),
        (
            of_shapes((4.0, 3)),
            Shifted(),
            TypeError,
            "whose part 'weight.0' of 'a.weight' has the shape (4.0, 3); wanted a tuple of ints.",
        ),
        (
            lambda t: (part_of(t, "u", (4, 3), cast(Any, None)),),
            Shifted(),
            TypeError,
            "whose part 'weight.u' of 'a.weight' starts as None; wanted a Start, such as ZERO, or",
        ),
    ],
)
def test_a_form_that_does_not_make_its_tensor(
    parts: Any, structure: Any, error: type[Exception], text: str
) -> None:
    form = {"a.weight": form_that(parts, structure)}
    with pytest.raises(error, match=f"^{re.escape(f'form: got Changed(), {text}')}"):
        hl.compile_plan(SPEC, hl.Embedding(4, 5), form=form)


@pytest.mark.parametrize(
    ("shapes", "structure", "got", "wanted"),
    [
        ([(4, 3), (4, 3)], Plain(), "Plain of (4, 3) and (4, 3)", "one part (4, 3)"),
        ([(5, 3)], Shifted(), "Shifted of (5, 3)", f"{BASED}, and one part {OF_SIZES}"),
        ([(4, 3, 1)], Scaled(), "Scaled of (4, 3, 1)", f"{BASED}, and parts {OF_SIZES}"),
        ([(4, 2), (5, 3)], Product(), "Product of (4, 2) and (5, 3)", PRODUCT),
        ([(4, 2)], Product(), "Product of (4, 2)", PRODUCT),
        ([(2, 1, 1)], Sum(), "Sum of (2, 1, 1)", "one part (num, 1, 1), and a bank (num, 4, 3)"),
    ],
)
def test_parts_that_do_not_fit_the_structure(
    shapes: list[tuple[int, ...]], structure: Structure, got: str, wanted: str
) -> None:
    form = {"a.weight": form_that(of_shapes(*shapes), structure)}
    text = f"form: got Changed(), which makes 'a.weight' (4, 3) as {got}, with a base; wanted "
    with pytest.raises(ValueError, match=f"^{re.escape(f'{text}{wanted}.')}"):
        hl.compile_plan(SPEC, hl.Embedding(4, 5), form=form)


def test_a_bank_that_does_not_fit() -> None:
    one = of_shapes((2, 1, 1))
    for bank, text in (
        (3, "got Changed(), whose bank() returns 3 for 'a.weight'; wanted a Bank of shape (num, "),
        (Bank((3, 4, 3), 1.0), "Sum of (2, 1, 1), with a base, with a bank (3, 4, 3); wanted one"),
        (Bank((2, 4, 3), -1.0), "Changed(), whose bank() returns Bank(std=): got -1.0; wanted a"),
    ):
        form = {"a.weight": form_that(one, Sum(), bank)}
        with pytest.raises((TypeError, ValueError), match=f"^form: .*{re.escape(text)}"):
            hl.compile_plan(SPEC, hl.Embedding(4, 5), form=form)


def test_a_function_that_is_none() -> None:
    text = "Formed(function=): got 3; wanted a function (parts, base)."
    with pytest.raises(TypeError, match=f"^{re.escape(text)}$"):
        Formed(cast(Any, 3))


def test_a_form_without_a_structure() -> None:
    class Unfinished(Form):
        pass

    with pytest.raises(TypeError, match=r"^Unfinished does not define structure\(\)$"):
        hl.compile_plan(SPEC, hl.Embedding(4, 5), form=Unfinished())


def test_structures_say_what_they_are() -> None:
    assert Shifted() == Shifted()
    assert [s.one_part for s in (Plain(), Shifted(), Sum())] == [True, True, False]
    piece = whole_piece(0, 5, SPEC_PART, 2.0, 1.0)
    assert (piece.start, piece.shape, piece.scale, piece.shift) == (5, (4, 3), 2.0, 1.0)


SPEC_PART = hl.Whole().parts(SPEC["a.weight"], Start())[0]
