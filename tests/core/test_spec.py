"""`TensorSpec` and `TargetSpec`: sizes, ties, errors, differences."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from hyperloom import Role, TargetSpec, TensorSpec
from tests.core.specs import linear, mixed, small_mlp, target


def test_a_tensor_knows_its_size_and_names() -> None:
    tensor = TensorSpec("block.fc.weight", (4, 3, 2), layer="block.fc", aliases=("head.weight",))
    assert tensor.numel == 24
    assert tensor.names == ("block.fc.weight", "head.weight")
    assert tensor.layer_relative_name == "weight"
    assert TensorSpec("scale", ()).numel == 1
    assert TensorSpec("scale", ()).layer_relative_name == "scale"


def test_a_target_counts_a_tied_tensor_once() -> None:
    spec = TargetSpec(
        "Tied",
        (
            TensorSpec("embedding.weight", (6, 4), Role.EMBEDDING, aliases=("head.weight",)),
            TensorSpec("head.bias", (6,), Role.BIAS),
        ),
    )
    assert spec.num_parameters == 30
    assert len(spec) == 2
    assert [t.name for t in spec] == ["embedding.weight", "head.bias"]
    assert spec["head.weight"] is spec["embedding.weight"]


def test_an_unknown_name_is_answered_with_close_ones() -> None:
    with pytest.raises(KeyError, match=r"name: got '0\.wieght'; wanted a tensor of Sequential\."):
        small_mlp()["0.wieght"]
    with pytest.raises(KeyError, match=r"Did you mean '0\.weight' or '2\.weight'"):
        small_mlp()["0.wieght"]


def test_specs_are_frozen_and_hashable() -> None:
    assert hash(mixed()) == hash(mixed())
    assert mixed() == mixed()
    with pytest.raises(FrozenInstanceError):
        mixed().name = "other"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        mixed().tensors[0].std = 3.0  # type: ignore[misc]


def test_a_target_without_tensors_is_refused() -> None:
    wanted = (
        r"target: got ReLU, which has no parameters; wanted a network with at least one parameter "
        r"to generate\. Build its layers before it is given to the hypernetwork\."
    )
    with pytest.raises(ValueError, match=wanted):
        TargetSpec("ReLU", ())


def test_an_empty_tensor_is_refused_by_name() -> None:
    wanted = r"target: got Net with empty tensors \['fc\.weight'\]; wanted tensors with numbers\."
    with pytest.raises(ValueError, match=wanted):
        TargetSpec("Net", (TensorSpec("fc.weight", (0, 3)), TensorSpec("fc.bias", (3,))))


def test_a_name_that_comes_twice_is_refused() -> None:
    first = TensorSpec("a", (2,), aliases=("b",))
    wanted = r"target: got the names \['b'\] twice; wanted each name once\."
    with pytest.raises(ValueError, match=wanted):
        TargetSpec("Net", (first, TensorSpec("b", (2,))))


def _changed(**changes: object) -> TargetSpec:
    spec = small_mlp()
    return replace(spec, tensors=(replace(spec.tensors[0], **changes), *spec.tensors[1:]))


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (_changed(shape=(5, 3)), ["'0.weight' has shape (5, 3), not (4, 3)"]),
        (_changed(dtype="float64"), ["'0.weight' has dtype float64, not float32"]),
        (_changed(aliases=("x",)), ["'0.weight' is tied to ('x',), not to ()"]),
        (_changed(name="w"), ["'0.weight' is missing", "'w' is not expected"]),
        (target(linear("2", 4, 2), linear("0", 3, 4)), ["the tensors come in another order"]),
        (target(linear("0", 3, 4)), ["'2.weight' is missing", "'2.bias' is missing"]),
    ],
    ids=["shape", "dtype", "ties", "name", "order", "missing"],
)
def test_differences_are_told_in_words(other: TargetSpec, found: list[str]) -> None:
    assert small_mlp().differences(other) == found


def test_a_trained_target_is_the_same_target() -> None:
    assert small_mlp().differences(_changed(mean=3.0, std=0.7)) == []
    assert small_mlp().differences(replace(small_mlp(), name="Other")) == []
