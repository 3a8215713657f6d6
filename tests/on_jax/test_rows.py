"""Rows of one batch that belong to many conditions, against a call for each condition."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import hyperloom.jax as hl
from hyperloom._core.backend.rows import groups_of_equal_counts
from tests.on_jax.plain import same

X = np.random.RandomState(0).randn(7, 3).astype(np.float32)
ROWS = np.array([1, 0, 1, 2, 1, 0, 2])
IDS = [4, 0, 2]


class Net(nnx.Module):
    """Two layers, and a method of its own."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.last = nnx.Linear(3, 5, rngs=rngs), nnx.Linear(5, 2, rngs=rngs)

    def __call__(self, x: Any, shift: Any = 0.0) -> Any:
        return {"y": self.last(jax.nn.relu(self.first(x))) + shift, "rows": x[:, 0]}

    def encode(self, x: Any) -> Any:
        return self.first(x)


def hypernetwork(**choices: Any) -> hl.HyperNetwork:
    net = Net(nnx.Rngs(0))
    choices.setdefault("layout", hl.Chunked(7, embedding=2))
    return hl.HyperNetwork(net, condition=hl.Embedding(5, 4), rngs=nnx.Rngs(1), **choices)


def one_by_one(hnet: hl.HyperNetwork, x: Any, rows: np.ndarray, **options: Any) -> Any:
    """Return what calls for single conditions return, in the rows' places."""
    found: Any = None
    for place in range(3):
        at = np.flatnonzero(rows == place)
        out = hnet(x[at], condition=IDS[place], **options)
        if found is None:
            found = jax.tree.map(lambda a: np.zeros((len(rows), *a.shape[1:]), a.dtype), out)
        for whole, part in zip(jax.tree.leaves(found), jax.tree.leaves(out), strict=True):
            whole[at] = part
    return found


@pytest.mark.parametrize(
    "choices",
    [{}, {"layout": {"*.kernel": hl.Full()}, "form": {"*.kernel": hl.LoRA(2)}}],
    ids=["chunked", "lora"],
)
def test_rows_are_calls_for_single_conditions(choices: dict[str, Any]) -> None:
    hnet = hypernetwork(**choices)
    same(hnet(X, condition=IDS, rows=ROWS), one_by_one(hnet, X, ROWS))
    same(hnet(X, condition=IDS, rows=list(ROWS)), one_by_one(hnet, X, ROWS))
    shifted = one_by_one(hnet, X, ROWS, shift=1.5)
    same(hnet(X, condition=IDS, rows=ROWS, shift=1.5), shifted)
    same(
        hnet(X, condition=IDS, rows=ROWS, method="encode"),
        one_by_one(hnet, X, ROWS, method="encode"),
    )
    # Every row three times in place, as beams are.
    beams = np.repeat(X, 3, 0)
    same(hnet(beams, condition=IDS, rows=ROWS), one_by_one(hnet, beams, np.repeat(ROWS, 3)))


def test_rows_under_jit_and_grad() -> None:
    hnet = hypernetwork()

    def loss(model: hl.HyperNetwork, x: Any) -> Any:
        return jnp.square(model(x, condition=IDS, rows=ROWS)["y"]).sum()

    def looped(model: hl.HyperNetwork, x: Any) -> Any:
        parts = (model(x[i == ROWS], condition=IDS[i])["y"] for i in range(3))
        return sum(jnp.square(part).sum() for part in parts)

    same(
        nnx.jit(nnx.grad(loss))(hnet, jnp.asarray(X)),
        nnx.jit(nnx.grad(looped))(hnet, jnp.asarray(X)),
    )


def test_a_bound_network_has_rows() -> None:
    hnet = hypernetwork(layout={"*.kernel": hl.Full()}, form={"*.kernel": hl.LoRA(2)})
    net = hnet.bind(IDS, rows=ROWS)
    assert repr(net) == "Bound(conditions (3,) for 7 rows: Net)"
    same(net(X), hnet(X, condition=IDS, rows=ROWS))
    encoded = hnet(X, condition=IDS, rows=ROWS, method="encode")
    same(jax.jit(lambda net, x: net.encode(x))(net, X), encoded)
    same(net(np.repeat(X, 2, 0)), one_by_one(hnet, np.repeat(X, 2, 0), np.repeat(ROWS, 2)))
    others = jax.tree.structure(hnet.bind(IDS, rows=ROWS[::-1]))
    assert others != jax.tree.structure(net) == jax.tree.structure(hnet.bind([1, 1, 3], rows=ROWS))
    with pytest.raises(ValueError, match=r"rows: got them beside state= or mutable="):
        net(X, mutable=True)


def test_the_reports_of_rows() -> None:
    hnet = hypernetwork(layout=hl.Full())
    told = hnet.explain(X, condition=IDS, rows=ROWS)
    assert (told.strategy, told.conditions) == ("vmap", 3)
    assert told.reason.endswith("those with equally many rows are one batch")
    layers = [use.layer for use in told.used if use.tensor == "first.kernel"]
    assert (2, 2) in {(layer.conditions, layer.rows) for layer in layers if layer}
    report = hnet.doctor(X, condition=IDS, rows=ROWS, method="encode")
    assert report.readings.conditions == 3
    assert [layer.name for layer in report.readings.layers] == ["first"]
    assert {f.where for f in report.about("gradient")} == {("last.bias", "last.kernel")}
    failed = hnet.doctor(X, condition=IDS, rows=ROWS + 1)
    assert "IndexError: rows: got the condition 3; wanted" in failed.findings[0].text


class Normed(nnx.Module):
    """A target whose rows meet: batch statistics."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.fc, self.norm = nnx.Linear(3, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.norm(self.fc(x))


@pytest.mark.filterwarnings("ignore:target. it updates its state")
def test_rows_that_meet_meet_those_of_their_condition() -> None:
    hnet = hl.HyperNetwork(Normed(nnx.Rngs(0)), condition=hl.Embedding(5, 4), rngs=nnx.Rngs(1))
    same(hnet(X, condition=IDS, rows=ROWS), one_by_one(hnet, X, ROWS))


@settings(max_examples=50)
@given(st.lists(st.integers(0, 4), max_size=12))
def test_groups_have_every_row_once(rows: list[int]) -> None:
    index = np.array(rows, dtype=int)
    seen = []
    for conditions, places in groups_of_equal_counts(index):
        assert places.shape[0] == len(conditions)
        for condition, row in zip(conditions, places, strict=True):
            assert list(row) == list(np.flatnonzero(index == condition))
        seen += list(places.reshape(-1))
    assert sorted(seen) == list(range(len(index)))


def test_bad_rows() -> None:
    hnet = hypernetwork()
    refused: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"rows": ROWS[:5]}, ValueError, "input 0: got"),
        ({"rows": ROWS * 1.0}, TypeError, "rows: got an array of float64; wanted integers"),
        ({"rows": ROWS[None]}, ValueError, r"rows: got shape \(1, 7\); wanted integers"),
        ({"rows": ROWS + 1}, IndexError, "rows: got the condition 3; wanted integers"),
        ({"rows": ROWS - 1}, IndexError, "rows: got the condition -1; wanted integers"),
        ({"rows": []}, ValueError, "rows: got no rows; wanted integers"),
        ({"rows": ROWS, "condition": 1}, ValueError, "rows: got rows beside conditions"),
        ({"rows": ROWS, "mutable": True}, ValueError, "rows: got them beside state= or mutable="),
    ]
    for options, kind, text in refused:
        call: Any = hnet
        with pytest.raises(kind, match=text):
            call(X, **{"condition": IDS, **options})
        if "mutable" not in options and "input 0" not in text:
            with pytest.raises(kind, match=text):
                call.bind(**{"condition": IDS, **options})
    with pytest.raises(TypeError, match="rows: got a traced array; wanted numbers that are known"):
        jax.jit(lambda rows: hnet(X, condition=IDS, rows=rows)["y"])(ROWS)
