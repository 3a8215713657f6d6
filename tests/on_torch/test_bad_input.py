"""Bad input: each kind is refused by class and by text, and nothing is changed by it.

A text names the argument, what it got, what was wanted, and where there is one the way out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from tests.on_torch.builders import X, make_shallow, shallow
from tests.on_torch.snapshots import refused, unchanged

# ---- the helper can fail -------------------------------------------------------------------------


def test_a_change_would_be_seen() -> None:
    hnet = make_shallow()

    def change() -> None:
        with torch.no_grad():
            hnet.condition.table[0][0, 0] += 1e-7  # type: ignore[index]
        raise ValueError("after the change")

    with pytest.raises(AssertionError, match=r"condition\.table\.0"):
        refused(change, ValueError, "after", hnet)
    with pytest.raises(AssertionError):
        refused(lambda: hnet.eval() and hnet.generate(-1), IndexError, "condition", hnet)
    with pytest.raises(AssertionError):
        refused(lambda: hnet.generate(-1), IndexError, "another text", hnet)
    with pytest.raises(AssertionError):
        refused(lambda: hnet.generate(-1), LookupError, "condition", hnet)


# ---- inputs and in_dims --------------------------------------------------------------------------

SHARED = "For one input that all conditions share, pass in_dims=None."
PAIR = f"wanted 2 at dimension 0, one slice for each condition of the batch. {SHARED}"
DIMS = "wanted an int or None, a tuple with an entry for each positional input, or a dict."


@pytest.mark.parametrize(
    ("inputs", "options", "error", "text"),
    [
        (
            (torch.ones(7, 3),),
            {},
            ValueError,
            f"input 0: got shape (7, 3) beside conditions (2,); {PAIR}",
        ),
        # Not broadcast: one slice for two conditions may be an error of the user's.
        (
            (torch.ones(1, 7, 3),),
            {},
            ValueError,
            f"input 0: got shape (1, 7, 3) beside conditions (2,); {PAIR}",
        ),
        (
            (torch.tensor(1.0),),
            {},
            ValueError,
            "input 0: got a torch.float32 tensor of shape (); wanted what Sequential takes. It",
        ),
        (
            (),
            {"input": torch.ones(3, 7, 3)},
            ValueError,
            f"input: got shape (3, 7, 3) beside conditions (2,); {PAIR}",
        ),
        (
            (X,),
            {"in_dims": 1},
            ValueError,
            "input 0: got shape (2, 7, 3) beside conditions (2,); wanted 2 at dimension 1, one",
        ),
        (
            (X,),
            {"in_dims": 5},
            ValueError,
            "input 0: got shape (2, 7, 3) beside conditions (2,); wanted 2 at dimension 5, one",
        ),
        (
            (X,),
            {"in_dims": (0, 0)},
            ValueError,
            "in_dims: got 2 entries for 1 inputs; wanted an entry for each positional input.",
        ),
        (
            (X,),
            {"in_dims": ()},
            ValueError,
            "in_dims: got 0 entries for 1 inputs; wanted an entry for each positional input.",
        ),
        (
            (X,),
            {"in_dims": [0, 0]},
            ValueError,
            "in_dims: got 2 entries for 1 inputs; wanted an entry for each positional input.",
        ),
        ((X,), {"in_dims": "0"}, TypeError, f"in_dims: got '0'; {DIMS}"),
        ((X,), {"in_dims": 0.0}, TypeError, f"in_dims: got 0.0; {DIMS}"),
        ((X,), {"in_dims": False}, TypeError, f"in_dims: got False; {DIMS}"),
        ((X,), {"in_dims": ((0,),)}, TypeError, f"in_dims: got (0,); {DIMS}"),
        ((X,), {"in_dims": ({"x": 0},)}, TypeError, f"in_dims: got {{'x': 0}}; {DIMS}"),
        (
            (X,),
            {"in_dims": {"x": 0}},
            ValueError,
            "in_dims: got the key 'x'; wanted places and keywords of inputs of this call.",
        ),
        (
            ({"a": X, "b": X},),
            {"in_dims": ({"a": 0, "B": 0},)},
            ValueError,
            "in_dims: got an entry for 'B' in those for input 0; wanted an entry for each of",
        ),
        (
            ({"a": X, "b": X},),
            {"in_dims": ({"a": 0},)},
            ValueError,
            "in_dims: got no entry for 'b' in those for input 0; wanted an entry for each of",
        ),
    ],
    ids=range(17),
)
def test_inputs(
    inputs: tuple[Any, ...], options: dict[str, Any], error: type[Exception], text: str
) -> None:
    target = shallow()
    hnet = make_shallow(target)
    refused(lambda: hnet(*inputs, condition=[0, 1], **options), error, text, target, hnet)
    params = {name: value.detach() for name, value in hnet.generate([0, 1]).items()}
    refused(lambda: hnet.run(params, *inputs, **options), error, text, target, hnet)


def test_inputs_in_containers_are_named() -> None:
    class Lists(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, xs: list[Tensor], extra: dict[str, Tensor]) -> Tensor:
            return self.fc(xs[0] + xs[1]) + extra["shift"]

    hnet = make_shallow(Lists())
    good, bad = torch.ones(2, 3), torch.ones(3, 3)
    text = "input 0[1]: got shape (3, 3) beside conditions (2,); wanted 2 at dimension 0"
    refused(lambda: hnet([good, bad], {"shift": good}, condition=[0, 1]), ValueError, text, hnet)
    text = "input 1['shift']: got shape (3, 3) beside conditions (2,); wanted 2 at dimension 0"
    refused(lambda: hnet([good, good], {"shift": bad}, condition=[0, 1]), ValueError, text, hnet)


def test_a_batch_of_batches_pairs_dimension_by_dimension() -> None:
    hnet = make_shallow()
    conditions = torch.zeros(2, 3, dtype=torch.int64)
    text = "input 0: got shape (2, 7, 3) beside conditions (2, 3); wanted 3 at dimension 0, one"
    refused(lambda: hnet(X, condition=conditions), ValueError, text, hnet)


def test_the_wrong_length_of_in_dims_is_seen_for_one_condition_too() -> None:
    hnet = make_shallow()
    text = "in_dims: got 2 entries for 1 inputs; wanted an entry for each positional input."
    refused(lambda: hnet(X[0], condition=0, in_dims=(0, 0)), ValueError, text, hnet)


# ---- run with given parameters -------------------------------------------------------------------


def _without(params: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in params.items() if key != name}


GIVEN: dict[str, tuple[Callable[[dict[str, Tensor]], Any], type[Exception], str]] = {
    "missing": (
        lambda p: _without(p, "0.bias"),
        ValueError,
        "params: got no tensor for '0.bias'; wanted a tensor for every generated name.",
    ),
    "empty": (
        lambda p: {},
        ValueError,
        "params: got no tensor for '0.bias', '0.weight', '2.bias', '2.weight'; wanted a tensor for",
    ),
    "unknown": (
        lambda p: {**p, "0.wieght": torch.zeros(4, 3)},
        ValueError,
        "params: got the name '0.wieght'; wanted names of the target. Did you mean '0.weight'",
    ),
    "no string": (
        lambda p: {**p, 0: torch.zeros(4, 3)},
        ValueError,
        "params: got the name 0; wanted names of the target. There are: '0.bias', '0.weight', ",
    ),
    "another shape": (
        lambda p: {**p, "0.bias": torch.zeros(5)},
        ValueError,
        "params['0.bias']: got shape (5,); wanted shape (4,).",
    ),
    "a bias that would broadcast": (
        lambda p: {**p, "0.bias": torch.zeros(7, 4)},
        ValueError,
        "params['0.bias']: got shape (7, 4); wanted shape (4,).",
    ),
    "a scalar that would broadcast": (
        lambda p: {**p, "0.bias": torch.zeros(())},
        ValueError,
        "params['0.bias']: got shape (); wanted shape (4,).",
    ),
    "the first too small": (
        lambda p: {**p, "0.weight": torch.zeros(3)},
        ValueError,
        "params['0.weight']: got shape (3,); wanted shape (*batch, 4, 3).",
    ),
    "transposed": (
        lambda p: {**p, "0.weight": torch.zeros(3, 4)},
        ValueError,
        "params['0.weight']: got shape (3, 4); wanted shape (*batch, 4, 3).",
    ),
    "another dtype": (
        lambda p: {**p, "0.bias": torch.zeros(4, dtype=torch.float64)},
        TypeError,
        "params['0.bias']: got torch.float64; wanted torch.float32. Convert it: .to(torch.float32)",
    ),
    "an integer": (
        lambda p: {**p, "0.bias": torch.zeros(4, dtype=torch.int64)},
        TypeError,
        "params['0.bias']: got torch.int64; wanted torch.float32.",
    ),
    "another device": (
        lambda p: {**p, "0.bias": torch.zeros(4, device="meta")},
        ValueError,
        "params['0.bias']: got meta; wanted cpu, as the hypernetwork.",
    ),
    "all on another device": (
        lambda p: {name: value.to("meta") for name, value in p.items()},
        ValueError,
        "params['0.weight']: got meta; wanted cpu, as the hypernetwork.",
    ),
    "an array": (
        lambda p: {**p, "0.bias": np.zeros(4)},
        TypeError,
        "params['0.bias']: got a float64 NumPy array of shape (4,); wanted a tensor, or Factors.",
    ),
    "a list": (
        lambda p: list(p.values()),
        TypeError,
        "params: got a list; wanted a dict from names to tensors.",
    ),
    "none": (
        lambda p: None,
        TypeError,
        "params: got a NoneType; wanted a dict from names to tensors.",
    ),
}


@pytest.mark.parametrize("name", GIVEN)
def test_given_parameters(name: str) -> None:
    change, error, text = GIVEN[name]
    target = shallow()
    hnet = make_shallow(target)
    params = {key: value.detach() for key, value in hnet.generate(0).items()}
    hnet.run(params, X)
    refused(lambda: hnet.run(change(params), X), error, text, target, hnet)


def test_given_batches_that_differ() -> None:
    hnet = make_shallow()
    params = {**hnet.generate([0, 1, 2]), "0.bias": torch.zeros(2, 4)}
    text = "params['0.bias']: got shape (2, 4); wanted shape (3, 4)."
    refused(lambda: hnet.run(params, X), ValueError, text, hnet)


def test_given_kept_tensors_are_not_batched() -> None:
    hnet = make_shallow(layout={"0.*": hl.Full()})
    params = {**hnet.generate([0, 1]), "2.bias": torch.zeros(2, 2)}
    text = "params['2.bias']: got shape (2, 2); wanted shape (2,)."
    refused(lambda: hnet.run(params, X), ValueError, text, hnet)


# ---- methods -------------------------------------------------------------------------------------


def test_ids_are_added_only_where_there_are_ids() -> None:
    wanted = "wanted a condition with one Embedding to grow."
    for condition, shown in [
        (hl.Vector(4), "Vector(4)"),
        (hl.Concat(hl.Vector(4), hl.Noise(2)), "Concat(Vector(4), Noise(2))"),
        (nn.Embedding(3, 4), "Custom(4, name='Embedding', size=12)"),
    ]:
        hnet = make_shallow(condition=condition)
        text = f"add_conditions: got {shown}; {wanted}"
        refused(lambda: hnet.add_conditions(1), ValueError, text, hnet)  # noqa: B023 called at once
    two = make_shallow(condition=hl.Concat(hl.Embedding(3, 4), hl.Embedding(3, 4)))
    refused(lambda: two.add_conditions(1), ValueError, "add_conditions: got Concat(", two)


@pytest.mark.parametrize(
    ("num", "error"), [(0, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError)]
)
def test_how_many_ids_are_added(num: Any, error: type[Exception]) -> None:
    hnet = make_shallow()
    text = f"num: got {num!r}; wanted an int of at least 1."
    refused(lambda: hnet.add_conditions(num), error, text, hnet)


def test_one_network_is_instantiated_at_a_time() -> None:
    hnet = make_shallow()
    text = (
        "condition: got a batch of conditions (2,); wanted one condition. Instantiate them one by"
    )
    refused(lambda: hnet.instantiate([0, 1]), ValueError, text, hnet)


def test_another_target_for_a_plan() -> None:
    hnet, other = make_shallow(), nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5))
    text = (
        "target: got '2.weight' has shape (5, 4), not (2, 4); '2.bias' has shape (5,), not (2,); "
        "wanted the tensors of Sequential."
    )
    refused(lambda: hl.HyperNetwork.from_plan(other, hnet.plan), ValueError, text, hnet, other)


def test_regularizers() -> None:
    hnet = make_shallow()
    reg = hl.OutputRegularizer(1.0, weights={"0.wieght": 2.0})
    text = "weights: got the pattern '0.wieght', which names no generated tensor; wanted patterns"
    refused(lambda: reg.remember(hnet, [0, 1]), ValueError, text, hnet)
    reg = hl.OutputRegularizer(1.0, weights={"*.bias": torch.ones(3)})
    text = (
        "weights['*.bias']: got a tensor of shape (3,) for '0.bias'; wanted a number, or a shape "
        "that broadcasts to (4,)."
    )
    refused(lambda: reg.remember(hnet, [0, 1]), ValueError, text, hnet)
    reg = hl.OutputRegularizer(1.0)
    text = "conditions: got conditions with dimensions (); wanted a batch (T,). For one: [id]."
    refused(lambda: reg.remember(hnet, 0), ValueError, text, hnet)
    text = "condition: got the id 3; wanted an int id"
    refused(lambda: reg.remember(hnet, range(4)), IndexError, text, hnet)
    assert reg.num_conditions == 0
    drawn = make_shallow(condition=hl.Concat(hl.Embedding(3, 2), hl.Noise(2)))
    text = (
        "conditions: got noise to be drawn anew; wanted conditions that are the same at each call"
    )
    refused(lambda: reg.remember(drawn, ([0, 1], None)), ValueError, text, drawn)
    reg.remember(drawn, ([0, 1], torch.zeros(2, 2)))


def test_a_failed_remember_keeps_what_was_remembered() -> None:
    hnet = make_shallow()
    reg = hl.OutputRegularizer(1.0)
    reg.remember(hnet, [0, 1])
    with torch.no_grad():
        hnet.heads["full"].bias += 0.1  # type: ignore[operator]
    before = reg(hnet)
    refused(lambda: reg.remember(hnet, [0, 7]), IndexError, "condition: got the id 7", hnet)
    assert torch.equal(reg(hnet), before)


# ---- an error of the target's own ----------------------------------------------------------------


def test_an_exception_inside_the_target_changes_nothing() -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)
            self.norm = nn.BatchNorm1d(2, track_running_stats=False)
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            x = self.norm(self.fc(x))
            raise RuntimeError("no more paper")

    target = Fails()
    hnet = make_shallow(target)
    for condition, x in ((0, X[0]), ([0, 1], X)):
        with unchanged(target, hnet), pytest.raises(RuntimeError, match=r"^no more paper$"):
            hnet(x, condition=condition)
    with unchanged(target, hnet), pytest.raises(TypeError, match="missing 1 required positional"):
        hnet(condition=0)
