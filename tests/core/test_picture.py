"""`draw`: pictures of plans, whose areas are numbers."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given

import hyperloom as hl
from hyperloom._core.pieces import Piece
from hyperloom._core.plan import picture
from tests.core.specs import LAYOUTS, linear, plans, small_mlp, target

SVG = "{http://www.w3.org/2000/svg}"


def compiled(layout: Any = None, **choices: Any) -> hl.Plan:
    return hl.compile_plan(small_mlp(), hl.Embedding(5, 8), hl.MLP(4), layout, **choices)


def coloured(plan: hl.Plan) -> dict[str, float]:
    """Return the coloured area of each tooltip in a picture."""
    areas: dict[str, float] = {}
    for box in ElementTree.fromstring(hl.draw(plan)).iter(f"{SVG}rect"):
        title = box.find(f"{SVG}title")
        if title is not None and box.get("fill"):
            area = float(box.attrib["width"]) * float(box.attrib["height"])
            areas[str(title.text)] = areas.get(str(title.text), 0.0) + area
    return areas


@given(plans())
def test_a_picture_of_any_plan_is_whole(plan: hl.Plan) -> None:
    drawn = ElementTree.fromstring(hl.draw(plan))
    titles = {title.text or "" for title in drawn.iter(f"{SVG}title")}
    for entry in plan.entries:
        assert any(title.startswith(entry.tensor) for title in titles)
    assert plan.spec.name in drawn.attrib["aria-label"]
    width, height = map(float, drawn.attrib["viewBox"].split()[2:])
    for box in drawn.iter(f"{SVG}rect"):
        right = float(box.attrib["x"]) + float(box.attrib["width"])
        below = float(box.attrib["y"]) + float(box.attrib["height"])
        assert right <= width
        assert below <= height


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_areas_in_a_head_are_numbers(layout: hl.Layout) -> None:
    plan = compiled(layout)
    areas = coloured(plan)
    for index in range(len(plan.heads)):
        members = [e for e in plan.entries if e.pieces[0].head == index]
        each = []
        for entry in members:
            shape = plan.spec[entry.tensor].shape
            title = f"{entry.tensor} {picture.shape_text(shape)}"
            each.append(areas[title] / math.prod(shape))
        assert each == pytest.approx([each[0]] * len(each), rel=0.02)


@given(plans())
def test_stretches_cover_exactly_what_a_piece_has(plan: hl.Plan) -> None:
    for piece in plan.pieces:
        size = plan.heads[piece.head].slot_size
        seen = [
            int((y + row) * size + x + column)
            for x, y, w, h in picture._stretches(piece, size)
            for row in range(int(h))
            for column in range(int(w))
        ]
        if piece.cut:
            kept = Counter((piece.indices() // size).ravel().tolist())
            assert Counter(place // size for place in seen) == kept
        else:
            assert seen == list(range(piece.start, piece.start + piece.numel))


def test_a_piece_over_many_slots_is_three_rectangles() -> None:
    piece = Piece(0, 150, (100_000,), (1,))
    assert list(picture._stretches(piece, 200)) == [
        (150, 0, 50, 1),
        (0, 1, 200, 499),
        (0, 500, 150, 1),
    ]


def test_factors_stand_beside_the_tensor_that_they_change() -> None:
    areas = coloured(compiled({"*.weight": hl.Full()}, form=hl.LoRA(2)))
    name, shape = next((t.name, t.shape) for t in small_mlp() if len(t.shape) == 2)
    beside = f"{name} {shape[0]}x{shape[1]}: LoRA(2), {shape[0]}x2 generated"
    above = f"{name} {shape[0]}x{shape[1]}: LoRA(2), 2x{shape[1]} generated"
    assert {beside, above} <= areas.keys()


def test_a_large_target_is_a_picture_of_the_same_kind() -> None:
    layers = [linear(f"layers.{i}", 300, 300) for i in range(200)]
    plan = hl.compile_plan(target(*layers), hl.Embedding(3, 4), None, hl.Chunked(5000))
    drawn = hl.draw(plan)
    assert len(drawn) < 400_000
    assert ">layers.0.weight 300x300</text>" not in drawn  # tooltips name so many
    assert "<title>layers.199.bias 300</title>" in drawn


def test_names_of_modules_cannot_break_a_picture() -> None:
    spec = target(linear("a<b>&\"'", 2, 3), name="<script>")
    ElementTree.fromstring(hl.draw(hl.compile_plan(spec, hl.Vector(2), None, None)))


def test_text_can_be_read_on_both_grounds() -> None:
    light, dark = picture.STYLE.split("@media")
    for style in (light, dark):
        ground = _colour(style, r"\.g")
        for written in (_colour(style, "text"), _colour(style, r"\.q")):
            for behind in (ground, _colour(style, r"\.b")):
                assert _contrast(written, behind) > 4.5  # WCAG 2.2, 1.4.3
        for colour in picture.COLOURS:
            assert _contrast(colour, ground) > 1.9  # areas are named in text besides


def _colour(style: str, selector: str) -> str:
    found = re.search(rf"{selector}{{fill:(#\w{{6}})", style)
    assert found
    return found[1]


def _contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_a_notebook_shows_the_picture() -> None:
    plan = compiled()
    drawn = hl.draw(plan)
    assert drawn._repr_svg_() == drawn == plan._repr_svg_()
    assert plan._repr_html_().startswith(drawn)
    assert "condition  Embedding(5, 8) -&gt; (8,)" in plan._repr_html_()


def test_what_is_no_plan_is_refused() -> None:
    with pytest.raises(TypeError) as refused:
        hl.draw(3)
    wanted = "plan: got 3; wanted a Plan or a HyperNetwork. hl.draw(hnet.plan) draws one."
    assert str(refused.value) == wanted
