"""How batches are run: chosen, said, remembered; and always what the loop gives."""

from __future__ import annotations

import copy
from types import MethodType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hyperloom.torch as hl
from tests._support.on_torch import shaken
from tests.on_torch.small import IDS, Layer, X, close, of_ids


class Reads(Layer):
    """Takes a number out of a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y * y.mean().item()


class WritesFresh(Layer):
    """Writes into a fresh tensor in place, as state-space models do."""

    def forward(self, x: Tensor) -> Tensor:
        made = torch.zeros(5, 3, dtype=x.dtype)
        made[1:] = self.layer(x)[:-1]
        return made


class Square(torch.autograd.Function):
    """A function without `setup_context`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * ctx.saved_tensors[0] * grad


class Custom(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return Square.apply(self.layer(x))  # type: ignore[no-any-return]


class Remembers(Layer):
    """Keeps a tensor in an attribute."""

    last: Any = None

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        self.last = y if self.last is None else self.last
        return y + self.last.detach()


class Counts(Layer):
    """Counts its calls in a number, and in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen += 1
        return self.layer(x) * self.calls * self.seen


class Cumulative(Layer):
    """A norm without a momentum: each step is worth less than the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3, momentum=None)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x))


class Record:
    def __init__(self, y: Tensor) -> None:
        self.y = y


class ReturnsObject(Layer):
    def forward(self, x: Tensor) -> tuple[Tensor, Record]:
        y = self.layer(x)
        return y, Record(y)


LOOPED = [Reads, WritesFresh, Remembers, Counts, Cumulative]


@pytest.mark.parametrize("make", LOOPED)
def test_what_vmap_cannot_run_is_run_in_a_loop(make: type[nn.Module]) -> None:
    hnet = of_ids(make)
    each = copy.deepcopy(hnet)
    with pytest.warns(hl.SlowWarning, match=f"target: .*{make.__name__}|it writes|it k|norm"):
        y = hnet(X, condition=IDS)
    wanted = torch.stack([each(X[i], condition=IDS[i]) for i in range(3)])
    close(y, wanted)
    parameters = list(hnet.parameters())
    found = torch.autograd.grad(y.square().sum(), parameters)
    close(found, torch.autograd.grad(wanted.square().sum(), list(each.parameters())))
    close(dict(hnet.named_buffers()), dict(each.named_buffers()))
    # Said once; the next calls know.
    close(hnet(X, condition=IDS), torch.stack([each(X[i], condition=IDS[i]) for i in range(3)]))
    explained = hnet.explain(X, condition=IDS)
    if make is Remembers:  # once in its life: no reason to loop for ever
        assert explained.strategy == "vmap"
        return
    assert explained.strategy == "loop"
    assert explained.slow
    assert explained.slow[0] in explained.reason
    assert "run as loop: one after the other, because of" in repr(explained)


def test_what_vmap_cannot_run_is_run_on_rows_where_they_do_not_meet() -> None:
    hnet = of_ids(Custom)
    for _ in range(2):
        y = hnet(X, condition=IDS)
        wanted = torch.stack([hnet(X[i], condition=IDS[i]) for i in range(3)])
        close(y, wanted)
        parameters = list(hnet.parameters())
        found = torch.autograd.grad(y.square().sum(), parameters)
        close(found, torch.autograd.grad(wanted.square().sum(), parameters))
    explained = hnet.explain(X, condition=IDS)
    assert explained.strategy == "rows"
    assert "under vmap, Custom" in explained.reason


def test_a_strategy_can_be_set() -> None:
    hnet = of_ids(Reads)
    hnet.execution = hl.Execution(strategy="loop")
    y = hnet(X, condition=IDS)  # no warning: it is meant
    close(y, torch.stack([hnet(X[i], condition=IDS[i]) for i in range(3)]))
    assert hnet.explain(X, condition=IDS).reason == 'Execution(strategy="loop") asks for it'
    hnet.execution = hl.Execution(strategy="vmap")
    with pytest.raises(RuntimeError, match="item"):
        hnet(X, condition=IDS)
    chain = of_ids(lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh()))
    y = chain(X, condition=IDS)
    assert chain.explain(X, condition=IDS).strategy == "chain"
    for batch, name in (("loop", "loop"), ("vmap", "vmap"), ("rows", "rows")):
        chain.execution = hl.Execution(strategy=batch)
        close(chain(X, condition=IDS), y)
        assert chain.explain(X, condition=IDS).strategy == name


def test_several_batch_dimensions_in_a_loop() -> None:
    hnet = of_ids(lambda: nn.Linear(4, 3), condition=hl.Vector(2))
    c, x = torch.randn(2, 3, 2).double(), torch.randn(2, 3, 5, 4).double()
    y = hnet(x, condition=c)
    hnet.execution = hl.Execution(strategy="loop")
    close(hnet(x, condition=c), y)
    close(hnet(x[0, 0], condition=c, in_dims=None)[1, 2], hnet(x[0, 0], condition=c[1, 2]))


class Fails(Layer):
    def forward(self, x: Tensor) -> Tensor:
        raise LookupError(f"inside {self.layer(x).shape}")


def test_an_error_of_the_targets_own_is_raised_as_it_is() -> None:
    hnet = of_ids(Fails)
    for _ in range(2):
        with pytest.raises(LookupError, match=r"inside torch.Size\(\[5, 3\]\)"):
            hnet(X, condition=IDS)
    assert hnet._runner.memory.fallbacks == {}


class Norms(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).renorm(2, 0, 1.0)


def test_what_vmap_runs_slowly_is_said_once_by_name() -> None:
    hnet = of_ids(lambda: nn.Sequential(Norms()))
    text = r"target: '0' \(Norms\): vmap has no rule for aten::renorm and runs it one condition"
    with pytest.warns(hl.SlowWarning, match=text):
        y = hnet(X, condition=IDS)
    close(y, torch.stack([hnet(X[i], condition=IDS[i]) for i in range(3)]))
    close(hnet(X, condition=IDS), y)
    with torch.no_grad():
        explained = hnet.explain(X, condition=IDS)
    assert explained.strategy == "vmap"
    assert "aten::renorm" in explained.slow[0]
    assert "slow: '0' (Norms)" in repr(explained)


# ---- outputs ------------------------------------------------------------------------------------


class ReturnsMuch(Layer):
    def forward(self, x: Tensor) -> dict[str, Any]:
        y = self.layer(x)
        return {"y": y, "none": None, "kind": "logits", "size": 3, "more": (y.sum(), [True])}


@pytest.mark.parametrize("batch", ["auto", "loop"], ids=repr)
def test_outputs_that_are_no_tensors(batch: Any) -> None:
    hnet = of_ids(ReturnsMuch)
    hnet.execution = hl.Execution(strategy=batch)
    out = hnet(X, condition=IDS)
    one = hnet(X[1], condition=IDS[1])
    close(out["y"][1], one["y"])
    close(out["more"][0][1], one["more"][0])
    assert out["more"][1] == [True]
    assert {k: out[k] for k in ("none", "kind", "size")} == {
        "none": None,
        "kind": "logits",
        "size": 3,
    }
    hnet.execution = hl.Execution(strategy=batch, max_memory=1)
    parts = hnet(X, condition=IDS)
    close(parts["y"], out["y"])
    assert parts["none"] is None


def test_objects_come_back_as_a_list() -> None:
    hnet = of_ids(ReturnsObject)
    y, records = hnet(X, condition=IDS)
    assert hnet.explain(X, condition=IDS).strategy == "rows"
    assert [type(record) for record in records] == [Record] * 3
    close(records[2].y, y[2])
    hnet.execution = hl.Execution(strategy="loop")
    _, alone = hnet(X, condition=IDS)
    assert type(alone) is not list
    for ours, theirs in zip(records, alone, strict=True):
        close(ours.y, theirs.y)


class Selects(Layer):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y[y > 0]


@pytest.mark.filterwarnings("ignore::hyperloom.SlowWarning")
def test_outputs_of_different_shapes_are_refused() -> None:
    hnet = of_ids(Selects)
    with pytest.raises(ValueError, match=r"the target's output: got shapes .*Call the conditions"):
        hnet(X, condition=IDS)


# ---- draws --------------------------------------------------------------------------------------


class Drops(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.layer(x), 0.5, self.training)


@pytest.mark.parametrize("make", [Drops, lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))])
@pytest.mark.parametrize("batch", ["auto", "loop"], ids=repr)
@pytest.mark.parametrize("max_memory", [None, 1])
def test_one_mask_for_all_conditions(make: Any, batch: Any, max_memory: int | None) -> None:
    hnet = of_ids(make)
    for same in (True, False):
        hnet.execution = hl.Execution(
            strategy=batch, randomness="same" if same else "different", max_memory=max_memory
        )
        zeros = hnet(X, condition=IDS) == 0
        assert bool((zeros[0] == zeros).all()) is same
        assert 0 < zeros.double().mean() < 1


# ---- a forward put on an instance ---------------------------------------------------------------


def wrapped_in_a_closure() -> nn.Module:
    layer = nn.Linear(4, 3)
    old = layer.forward
    layer.forward = lambda input: 2 * old(input)  # noqa: A006
    return nn.Sequential(layer, nn.Tanh())


def wrapped_by_a_hook() -> nn.Module:
    layer, other = nn.Linear(4, 3), nn.Linear(3, 3)
    layer.register_forward_hook(lambda module, args, y: other(y))
    return nn.Sequential(layer, other)


@pytest.mark.parametrize("make", [wrapped_in_a_closure, wrapped_by_a_hook])
def test_a_function_that_holds_on_to_the_original_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"target: got a function in '0\..*Write a subclass"):
        hl.HyperNetwork(make(), condition=hl.Embedding(4, 3))


def doubled(self: nn.Linear, x: Tensor) -> Tensor:
    return 2 * F.linear(x, self.weight, self.bias)


def with_bias(module: Any, args: Any, y: Any) -> Any:
    return y + module.bias


def test_a_method_put_on_an_instance_is_run() -> None:
    layer = nn.Linear(4, 3).double()
    layer.forward = MethodType(doubled, layer)
    layer.register_forward_hook(with_bias)
    hnet = shaken(hl.HyperNetwork(nn.Sequential(layer), condition=hl.Embedding(4, 3)))
    made = hnet.generate(IDS)
    wanted = torch.stack(
        [
            2 * F.linear(X[i], made["0.weight"][i], made["0.bias"][i]) + made["0.bias"][i]
            for i in range(3)
        ]
    )
    close(hnet(X, condition=IDS), wanted)
    close(hnet(X[1], condition=IDS[1]), wanted[1])


# ---- names that are taken -----------------------------------------------------------------------


def test_inputs_of_any_name() -> None:
    inner = hl.HyperNetwork(nn.Linear(4, 3).double(), condition=hl.Embedding(5, 2))
    outer = shaken(hl.HyperNetwork(inner, condition=hl.Vector(2)))
    c, x = torch.randn(3, 2).double(), torch.randn(3, 2, 5, 4).double()
    y = outer(hl.Inputs(x, condition=[0, 4]), condition=c)
    close(y, outer.run(outer.generate(c), hl.Inputs(x, condition=[0, 4])))
    close(y[1], outer.instantiate(c[1])(x[1], condition=[0, 4]).detach())
    close(outer(hl.Inputs(x[2], condition=[0, 4]), condition=c[2]), y[2])
    assert outer.explain(hl.Inputs(x, condition=[0, 4]), condition=c).conditions == 3
    assert repr(hl.Inputs(1, condition=2)) == "Inputs(1, condition=2)"


def test_how_batches_are_run_may_be_given_at_once() -> None:
    loop = hl.Execution(strategy="loop")
    hnet = hl.HyperNetwork(nn.Linear(3, 2), condition=hl.Embedding(6, 4), execution=loop)
    assert hnet.execution == loop
    assert hnet.explain(torch.randn(3, 5, 3), condition=[0, 1, 2]).strategy == "loop"
    assert hl.HyperNetwork(nn.Linear(3, 2), condition=hl.Vector(2)).execution == hl.Execution()
    with pytest.raises(TypeError, match="execution: got 'loop'"):
        hl.HyperNetwork(nn.Linear(3, 2), condition=hl.Vector(2), execution="loop")  # type: ignore[arg-type]


def test_shapes_of_a_dtype() -> None:
    hnet = hl.HyperNetwork(hl.Shapes([(3, 2)], dtype=torch.float64), condition=hl.Vector(2))
    assert hnet.generate(torch.ones(2, dtype=torch.float64))["0.weight"].dtype == torch.float64
    with pytest.raises(TypeError, match=r"dtype: got .half.; wanted a torch\.dtype"):
        hl.Shapes([(3, 2)], dtype="half")  # type: ignore[arg-type]
