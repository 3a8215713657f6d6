"""How batches are run: chosen, said, remembered; and always what the loop gives."""

from __future__ import annotations

import copy
import warnings
from types import MethodType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hyperloom.torch as hl
from tests.on_torch.builders import shaken

X = torch.randn(3, 5, 4, dtype=torch.float64)
IDS = [2, 0, 3]


def build(make: Any, condition: Any = None, **options: Any) -> hl.HyperNetwork:
    torch.manual_seed(0)
    condition = condition or hl.Embedding(4, 3)
    return shaken(hl.HyperNetwork(make().double(), condition=condition, **options))


def close(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)


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


LOOPED = [Reads, WritesFresh, Custom, Remembers, Counts, Cumulative]


@pytest.mark.parametrize("make", LOOPED)
def test_what_vmap_cannot_run_is_run_in_a_loop(make: type[nn.Module]) -> None:
    hnet = build(make)
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
    assert explained.strategy == "loop"
    assert explained.slow
    assert explained.slow[0] in explained.reason
    assert "run as loop: one after the other, because of" in repr(explained)


def test_a_strategy_can_be_set() -> None:
    hnet = build(Reads)
    hnet.execution = hl.Execution(batch=hl.Loop())
    y = hnet(X, condition=IDS)  # no warning: it is meant
    close(y, torch.stack([hnet(X[i], condition=IDS[i]) for i in range(3)]))
    assert hnet.explain(X, condition=IDS).reason == "Execution(batch=Loop()) asks for it"
    hnet.execution = hl.Execution(batch=hl.Vmap())
    with pytest.raises(RuntimeError, match="item"):
        hnet(X, condition=IDS)
    chain = build(lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh()))
    y = chain(X, condition=IDS)
    assert chain.explain(X, condition=IDS).strategy == "chain"
    for batch, name in ((hl.Loop(), "loop"), (hl.Vmap(), "vmap")):
        chain.execution = hl.Execution(batch=batch)
        close(chain(X, condition=IDS), y)
        assert chain.explain(X, condition=IDS).strategy == name


def test_several_batch_dimensions_in_a_loop() -> None:
    hnet = build(lambda: nn.Linear(4, 3), condition=hl.Vector(2))
    c, x = torch.randn(2, 3, 2).double(), torch.randn(2, 3, 5, 4).double()
    y = hnet(x, condition=c)
    hnet.execution = hl.Execution(batch=hl.Loop())
    close(hnet(x, condition=c), y)
    close(hnet(x[0, 0], condition=c, in_dims=None)[1, 2], hnet(x[0, 0], condition=c[1, 2]))


class Fails(Layer):
    def forward(self, x: Tensor) -> Tensor:
        raise LookupError(f"inside {self.layer(x).shape}")


def test_an_error_of_the_targets_own_is_raised_as_it_is() -> None:
    hnet = build(Fails)
    for _ in range(2):
        with pytest.raises(LookupError, match=r"inside torch.Size\(\[5, 3\]\)"):
            hnet(X, condition=IDS)
    assert hnet._strategist.fallbacks == {}


class Norms(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).renorm(2, 0, 1.0)


def test_what_vmap_runs_slowly_is_said_once_by_name() -> None:
    hnet = build(lambda: nn.Sequential(Norms()))
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


@pytest.mark.parametrize("batch", [hl.Auto(), hl.Loop()], ids=repr)
def test_outputs_that_are_no_tensors(batch: Any) -> None:
    hnet = build(ReturnsMuch)
    hnet.execution = hl.Execution(batch=batch)
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
    hnet.execution = hl.Execution(batch=batch, max_memory=1)
    parts = hnet(X, condition=IDS)
    close(parts["y"], out["y"])
    assert parts["none"] is None


def test_objects_come_back_as_a_list() -> None:
    hnet = build(ReturnsObject)
    with pytest.warns(hl.SlowWarning, match="it returns a Record"):
        y, records = hnet(X, condition=IDS)
    assert [type(record) for record in records] == [Record] * 3
    close(records[2].y, y[2])


class Selects(Layer):
    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y[y > 0]


@pytest.mark.filterwarnings("ignore::hyperloom.SlowWarning")
def test_outputs_of_different_shapes_are_refused() -> None:
    hnet = build(Selects)
    with pytest.raises(ValueError, match=r"the target's output: got shapes .*Call the conditions"):
        hnet(X, condition=IDS)


# ---- draws --------------------------------------------------------------------------------------


class Drops(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.layer(x), 0.5, self.training)


@pytest.mark.parametrize("make", [Drops, lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))])
@pytest.mark.parametrize("batch", [hl.Auto(), hl.Loop()], ids=repr)
@pytest.mark.parametrize("max_memory", [None, 1])
def test_one_mask_for_all_conditions(make: Any, batch: Any, max_memory: int | None) -> None:
    hnet = build(make)
    for same in (True, False):
        hnet.execution = hl.Execution(batch=batch, same_draws=same, max_memory=max_memory)
        zeros = hnet(X, condition=IDS) == 0
        assert bool((zeros[0] == zeros).all()) is same
        assert 0 < zeros.double().mean() < 1


# ---- statistics ---------------------------------------------------------------------------------


class Normed(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x))


def test_statistics_of_each_id_are_kept_saved_and_grown(tmp_path: Any) -> None:
    hnet = build(Normed)
    for _ in range(3):
        hnet(X, condition=IDS)
    held = hnet.state_dict()["target_statistics.norm.running_mean"]
    assert held.shape == (4, 3)
    assert not held[1].any()  # an id that was not asked for
    assert held[[0, 2, 3]].any(-1).all()
    assert hnet.state_dict()["target_statistics.norm.num_batches_tracked"].tolist() == [3, 0, 3, 3]
    hnet.eval()
    y = hnet(X, condition=IDS)
    plain = hnet.instantiate(2)
    close(y[0], plain(X[0]).detach())
    close(hnet.run(hnet.generate(IDS), X, of=IDS), y)
    hl.save(hnet, tmp_path / "file")
    again = hl.load(tmp_path / "file", Normed().double()).eval()
    assert again.statistics == hl.PerConditionStatistics()
    close(again(X, condition=IDS), y)
    hnet.add_conditions(2)
    close(hnet(X, condition=IDS), y)
    assert hnet.state_dict()["target_statistics.norm.running_mean"].shape == (6, 3)
    close(hnet(X, condition=[5, 4, 4]).shape, y.shape)


def test_shared_statistics_are_those_of_a_loop() -> None:
    hnet = build(Normed, statistics=hl.SharedStatistics())
    each = copy.deepcopy(hnet)
    hnet(X, condition=IDS)
    for i in range(3):
        each(X[i], condition=IDS[i])
    close(dict(hnet.target_buffers.state_dict()), dict(each.target_buffers.state_dict()))
    assert int(hnet.target_buffers.get_buffer("norm.num_batches_tracked")) == 3
    assert "target_statistics.norm.running_mean" not in hnet.state_dict()


def test_batch_statistics(tmp_path: Any) -> None:
    hnet = build(Normed, statistics=hl.BatchStatistics())
    y = hnet(X, condition=IDS)
    close(hnet.eval()(X, condition=IDS), y)
    assert not list(hnet.instantiate(0).buffers())
    hl.save(hnet, tmp_path / "file")
    again = hl.load(tmp_path / "file", Normed().double())
    assert again.statistics == hl.BatchStatistics()
    close(again.eval()(X, condition=IDS), y)


def test_statistics_of_recomputed_runs_are_updated_once() -> None:
    hnet = build(Normed)
    plain = copy.deepcopy(hnet)
    hnet.execution = hl.Execution(recompute=True)
    hnet(X, condition=IDS).square().sum().backward()
    plain(X, condition=IDS).square().sum().backward()
    close(hnet.state_dict(), plain.state_dict())
    for a, b in zip(hnet.parameters(), plain.parameters(), strict=True):
        close(a.grad, b.grad)


def test_run_without_ids() -> None:
    hnet = build(Normed)
    made = hnet.generate(IDS)
    with pytest.warns(UserWarning, match=r"they are not kept. Pass it: run\(params, ..., of=ids"):
        y = hnet.run(made, X)
    close(y, hnet(X, condition=IDS))
    with pytest.raises(ValueError, match=r"of: got nothing, and the target's 'norm.running_mean'"):
        hnet.eval().run(made, X)
    with pytest.raises(ValueError, match=r"of: got conditions \(2,\) beside params of \(3,\)"):
        hnet.run(made, X, of=[0, 1])


class Codes(Layer):
    """Moves a codebook while training."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codebook", torch.zeros(3, dtype=torch.float64))

    codebook: Tensor

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if self.training:
            self.codebook.mul_(0.9).add_(0.1 * y.detach().mean(0))
        return y - self.codebook


def test_other_buffers_by_id() -> None:
    hnet = build(Codes, statistics=hl.PerConditionStatistics(also="code*"))
    each = copy.deepcopy(hnet)
    y = hnet(X, condition=IDS)  # at once, without a warning
    close(y, torch.stack([each(X[i], condition=IDS[i]) for i in range(3)]))
    close(hnet.state_dict(), each.state_dict())
    # Two rows of one id are steps one after the other.
    with pytest.warns(hl.SlowWarning, match="two conditions of one id write its buffer 'codebook'"):
        y = hnet(X, condition=[1, 1, 0])
    close(y, torch.stack([each(X[i], condition=c) for i, c in enumerate([1, 1, 0])]))
    close(hnet.state_dict(), each.state_dict())
    assert hnet.explain(X, condition=IDS).strategy == "vmap"


def test_statistics_inside_a_transform_are_not_kept() -> None:
    hnet = build(Normed)
    before = copy.deepcopy(hnet.state_dict())

    def loss(x: Tensor) -> Tensor:
        return hnet(x, condition=IDS).square().sum()

    with pytest.warns(UserWarning, match="inside a torch.func transform"):
        found = torch.func.grad(loss)(X)
    close(hnet.state_dict(), before)
    x = X.clone().requires_grad_()
    loss(x).backward()
    close(found, x.grad)


@pytest.mark.parametrize(
    ("statistics", "condition", "error", "text"),
    [
        (hl.BatchStatistics, None, TypeError, "Call it: BatchStatistics"),
        ("shared", None, TypeError, "statistics: got 'shared'; wanted PerConditionStatistics"),
        (hl.PerConditionStatistics(), hl.Vector(2), ValueError, "wanted a condition with ids"),
        (hl.PerConditionStatistics("no.*"), None, ValueError, "wanted patterns that name buffers"),
    ],
)
def test_statistics_that_are_refused(
    statistics: Any, condition: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        build(Normed, condition, statistics=statistics)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: hl.Execution(batch=hl.Loop), r"Call it: Loop\(...\)"),  # type: ignore[arg-type]
        (lambda: hl.Execution(batch="loop"), r"wanted Auto\(\), Vmap\(\) or Loop\(\)"),  # type: ignore[arg-type]
        (lambda: hl.Execution(same_draws=1), "same_draws=.: got 1; wanted a bool"),  # type: ignore[arg-type]
        (lambda: hl.PerConditionStatistics(also=3), "wanted a name pattern"),  # type: ignore[arg-type]
        (lambda: hl.Chunked(7, per_condition="yes"), "Chunked.*wanted a bool"),  # type: ignore[arg-type]
        (lambda: hl.Grouped(per_condition="yes"), "Grouped.*wanted a bool"),  # type: ignore[arg-type]
    ],
)
def test_choices_that_are_refused(make: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        make()


def test_a_wider_condition_is_refused() -> None:
    hnet = hl.HyperNetwork(nn.Linear(4, 3), condition=hl.Vector(2))
    with pytest.raises(TypeError, match=r"wanted torch.float32, in which the hypernetwork"):
        hnet(X[0].float(), condition=torch.zeros(2, dtype=torch.float64))
    hnet.double()(X[0], condition=torch.zeros(2))  # exact


def test_no_other_warning_comes() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(Normed)(X, condition=IDS)


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
    close(y, outer.run(outer.generate(c), x, condition=[0, 4]))
    close(y[1], outer.instantiate(c[1])(x[1], condition=[0, 4]).detach())
    close(outer(hl.Inputs(x[2], condition=[0, 4]), condition=c[2]), y[2])
    assert outer.explain(hl.Inputs(x, condition=[0, 4]), condition=c).conditions == 3
    assert repr(hl.Inputs(1, condition=2)) == "Inputs(1, condition=2)"
