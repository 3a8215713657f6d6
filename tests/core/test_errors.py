"""The words of errors."""

from __future__ import annotations

import pytest

import hyperloom as hl
from hyperloom._core.errors import (
    call_it,
    did_you_mean,
    finite_float,
    message,
    positive_int,
)


def test_a_message_has_four_parts() -> None:
    text = message("size", 0, "an int of at least 1", "Leave it out for the default.")
    assert text == "size: got 0; wanted an int of at least 1. Leave it out for the default."
    assert message("size", repr("3"), "an int") == "size: got '3'; wanted an int."
    assert (
        message("layout", hl.Full, "an object") == "layout: got the class Full; wanted an object."
    )


def test_a_class_is_to_be_called() -> None:
    assert call_it(hl.Full, hl.Layout) == "Call it: Full(...)."
    assert call_it(hl.Full, hl.Form) == ""
    assert call_it(hl.Full(), hl.Layout) == ""


def test_close_names_come_first_and_otherwise_a_few_of_all() -> None:
    assert did_you_mean("fc.wieght", ["fc.bias", "fc.weight"]).startswith(
        "Did you mean 'fc.weight'"
    )
    assert did_you_mean("zzz", ["a", "b"]) == "There are: 'a', 'b'."
    assert did_you_mean("zzz", list("abcdefgh")).endswith("'e', 'f' and 2 more.")
    assert did_you_mean(3, ["a"]) == "There are: 'a'."


@pytest.mark.parametrize(
    ("value", "error"),
    [(0, ValueError), (-3, ValueError), (True, TypeError), (1.0, TypeError), ("3", TypeError)],
)
def test_ints(value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"^num: got {value!r}; wanted an int of at least 1\.$"):
        positive_int("num", value)


def test_numbers() -> None:
    assert finite_float("std", 2) == 2.0
    for value, error in [(float("nan"), ValueError), (float("inf"), ValueError), ("1", TypeError)]:
        with pytest.raises(error, match=r"^std: got .*; wanted a finite number\.$"):
            finite_float("std", value)
    with pytest.raises(TypeError, match=r"got True"):
        finite_float("std", True)
    with pytest.raises(ValueError, match=r"got -1; wanted a finite number of at least 0\.$"):
        finite_float("std", -1, least=0.0)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: hl.Chunked(0), "Chunked(size=): got 0; wanted an int of at least 1."),
        (lambda: hl.Chunked(3, embedding=0), "Chunked(embedding=): got 0; wanted an int of"),
        (lambda: hl.Grouped(0), "Grouped(embedding=): got 0; wanted an int of at least 1."),
        (lambda: hl.Tiles(0), "Tiles(smallest=): got 0; wanted an int of at least 1."),
        (lambda: hl.Embedding(0, 3), "Embedding(num=): got 0; wanted an int of at least 1."),
        (lambda: hl.Embedding(3, 0), "Embedding(dim=): got 0; wanted an int of at least 1."),
        (lambda: hl.Embedding(3, 2, std=-1.0), "Embedding(std=): got -1.0; wanted a finite"),
        (lambda: hl.Vector(0), "Vector(dim=): got 0; wanted an int of at least 1."),
        (lambda: hl.Vector(2, std=0.0), "Vector(std=): got 0.0; wanted a finite number"),
        (lambda: hl.Noise(0), "Noise(dim=): got 0; wanted an int of at least 1."),
        (lambda: hl.Concat(hl.Vector(2)), "Concat(*parts): got 1 part; wanted at least two."),
        (lambda: hl.MLP(), "MLP(*widths): got no width; wanted one int a layer. For no trunk: "),
        (lambda: hl.MLP(3, 0), "MLP(*widths): got 0; wanted an int of at least 1."),
        (lambda: hl.MLP(3, activation="rel"), "MLP(activation=): got 'rel'; wanted one of relu,"),
        (lambda: hl.MLP(3, norm="bn"), "MLP(norm=): got 'bn'; wanted one of rms, layer, batch"),
        (lambda: hl.MLP(3, dropout=1.0), "MLP(dropout=): got 1.0; wanted a probability in [0, 1)."),
        (lambda: hl.Unscaled(-1.0), "Unscaled(std=): got -1.0; wanted a finite number of at least"),
    ],
)
def test_a_wrong_option_is_a_value_error(make: object, text: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 the text is compared below
        make()  # type: ignore[operator]
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: hl.Chunked("3"), "Chunked(size=): got '3'; wanted an int of at least 1."),  # type: ignore[arg-type]
        (lambda: hl.Chunked(True), "Chunked(size=): got True; wanted an int of at least 1."),
        (lambda: hl.MLP([3, 4]), "MLP(*widths): got [3, 4]; wanted an int of at least 1."),  # type: ignore[arg-type]
        (
            lambda: hl.Grouped(unit=hl.Layers),  # type: ignore[arg-type]
            "Grouped(unit=): got the class Layers; wanted Tensors(), Layers(), Modules(), "
            "Ranks(), Tiles(smallest) or Largest(limit). Call it: Layers(...).",
        ),
        (
            lambda: hl.Grouped(unit="layers"),  # type: ignore[arg-type]
            "Grouped(unit=): got 'layers'; wanted Tensors(), Layers(), Modules(), "
            "Ranks(), Tiles(smallest) or Largest(limit).",
        ),
    ],
)
def test_an_option_of_the_wrong_type_is_a_type_error(make: object, text: str) -> None:
    with pytest.raises(TypeError) as caught:
        make()  # type: ignore[operator]
    assert str(caught.value) == text
