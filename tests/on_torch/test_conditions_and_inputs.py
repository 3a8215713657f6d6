"""What conditions may be written as, how they grow, and how inputs pair with them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import hyperloom.torch as hl
from tests.on_torch.builders import LAYOUTS, X, close, identical, make, mlp
from tests.on_torch.snapshots import unchanged

# ---- new conditions ------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_added_ids_leave_the_old_outputs_bitwise_the_same(layout: str) -> None:
    hnet = make(layout=LAYOUTS[layout], trunk=hl.MLP(6))
    before, y = hnet.generate([0, 1, 2]), hnet(X, condition=[0, 1])
    state = {name: value.clone() for name, value in hnet.state_dict().items()}
    for num, total in ((2, 5), (1, 6)):
        added = hnet.add_conditions(num)
        assert all(isinstance(p, nn.Parameter) and len(p) == num for p in added)
        own = {id(p) for p in hnet.parameters()}
        assert all(id(p) in own for p in added)
        assert hnet.plan.num_ids == total
        assert hnet.plan.num_parameters == sum(p.numel() for p in hnet.parameters())
    assert identical(before, hnet.generate([0, 1, 2]))
    assert torch.equal(y, hnet(X, condition=[0, 1]))
    for name, value in state.items():
        assert torch.equal(hnet.state_dict()[name], value)
    made = hnet.generate([3, 4, 5])
    if layout != "shared":
        assert not torch.equal(made["0.weight"][0], made["0.weight"][1])
    with pytest.raises(IndexError, match="the id 6"):
        hnet.generate(6)


def test_added_ids_start_at_the_scale_of_the_old() -> None:
    torch.manual_seed(0)
    hnet = hl.HyperNetwork(mlp(), condition=hl.Embedding(50, 16), layout=hl.PerCondition())
    hnet.add_conditions(50)
    made = hnet.generate(range(100))["2.weight"].flatten(1)
    old, new = made[:50].detach().std(), made[50:].detach().std()
    assert 0.8 < float(new / old) < 1.25
    rows = hnet.condition.table.rows()  # type: ignore[union-attr, operator]
    close(rows.square().mean(-1), torch.ones(100))


def test_an_optimizer_takes_added_ids() -> None:
    layout = {"0.*": hl.PerCondition(), "*": hl.Chunked(7, per_condition=True)}
    hnet = make(layout=layout)
    optimizer = torch.optim.Adam(hnet.parameters(), lr=0.01)

    def step(condition: int) -> float:
        optimizer.zero_grad()
        loss = (hnet(X[0], condition=condition) - 1).square().mean()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    step(0)
    moments = {p: optimizer.state[p]["exp_avg"].clone() for p in hnet.parameters()}
    added = hnet.add_conditions(2)
    assert len(added) == 3  # the condition, the table, the chunks
    optimizer.add_param_group({"params": added})
    for parameter, moment in moments.items():  # the old parameters are the same objects
        assert torch.equal(optimizer.state[parameter]["exp_avg"], moment)
    before = [p.detach().clone() for p in added]
    losses = [step(3) for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
    for parameter, then in zip(added, before, strict=True):
        assert not torch.equal(parameter[0], then[0])
        assert torch.equal(parameter[1], then[1])  # id 4 was not asked for
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in hnet.parameters()}


def test_ids_grow_inside_concat() -> None:
    hnet = make(condition=hl.Concat(hl.Vector(2), hl.Embedding(3, 4)), layout=hl.PerCondition())
    vectors = torch.ones(3, 2)
    before = hnet.generate((vectors, [0, 1, 2]))
    hnet.add_conditions(2)
    assert hnet.plan.condition == hl.Concat(hl.Vector(2), hl.Embedding(5, 4))
    assert identical(before, hnet.generate((vectors, [0, 1, 2])))
    assert hnet.generate((vectors, [2, 3, 4]))["0.weight"].shape == (3, 4, 3)


# ---- conditions: what they may be written as -----------------------------------------------------


def test_ways_to_write_ids() -> None:
    hnet = make()
    batch = hnet.generate(torch.tensor([0, 1, 2]))
    for ids in (
        [0, 1, 2],
        (0, 1, 2),
        range(3),
        torch.tensor([0, 1, 2], dtype=torch.int32),
        torch.tensor([0, 1, 2], dtype=torch.uint8),
    ):
        assert identical(batch, hnet.generate(ids))
    for one in (1, torch.tensor(1), torch.tensor(1, dtype=torch.int16)):
        made = hnet.generate(one)
        assert made["0.weight"].shape == (4, 3)
        close(made, {name: value[1] for name, value in batch.items()})
    assert hnet.generate([1])["0.weight"].shape == (1, 4, 3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_batch_of_batches(layout: str) -> None:
    hnet = make(layout=LAYOUTS[layout], form={"0.*": hl.Delta()})
    ids = torch.tensor([[0, 1, 2], [2, 2, 0]])
    made = hnet.generate(ids)
    assert made["0.weight"].shape == (2, 3, 4, 3)
    x = torch.randn(2, 3, 7, 3)
    y = hnet(x, condition=ids)
    assert y.shape == (2, 3, 7, 2)
    for i, j in itertools.product(range(2), range(3)):
        close({n: v[i, j] for n, v in made.items()}, hnet.generate(ids[i, j]))
        close(y[i, j], hnet(x[i, j], condition=ids[i, j]))
    close(hnet.run(made, x), y)
    # One input for all.
    close(hnet(x[0, 0], condition=ids, in_dims=None)[1, 2], hnet(x[0, 0], condition=ids[1, 2]))


def test_vectors_and_noise() -> None:
    hnet = make(condition=hl.Vector(4))
    v = torch.randn(2, 3, 4)
    assert hnet.generate(v)["0.weight"].shape == (2, 3, 4, 3)
    close(hnet.generate(v[0, 1])["0.weight"], hnet.generate(v)["0.weight"][0, 1])
    leaf = v[0].clone().requires_grad_()
    hnet(X, condition=leaf[:2]).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad[:2].all()
    noise = make(condition=hl.Noise(4, std=3.0))
    assert noise.generate(None)["0.weight"].shape == (4, 3)
    assert noise.generate(6)["0.weight"].shape == (6, 4, 3)
    assert not identical(noise.generate(2), noise.generate(2))
    assert identical(noise.generate(v[0]), noise.generate(v[0]))
    draws = noise.condition(2000).vector  # type: ignore[operator]
    assert 2.8 < float(draws.std()) < 3.2


def test_parts_of_concat() -> None:
    hnet = make(condition=hl.Concat(hl.Embedding(3, 2), hl.Vector(4), hl.Noise(1)))
    v, n = torch.randn(2, 4), torch.randn(2, 1)
    batch = hnet.generate(([0, 2], v, n))
    close(hnet.generate((2, v[1], n[1])), {name: value[1] for name, value in batch.items()})
    # One id, one vector for all.
    close(hnet.generate((0, v[0], n))["0.weight"][0], batch["0.weight"][0])
    # Noise is drawn for each condition.
    drawn = hnet.generate(([0, 0], v[0], None))["0.weight"]
    assert not torch.equal(drawn[0], drawn[1])


# ---- inputs --------------------------------------------------------------------------------------


class Sum(nn.Module):
    """Takes two tensors, a flag and keyword tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.other = nn.Linear(3, 2)

    def forward(
        self, x: Tensor, y: Tensor, twice: bool = False, *, shift: Tensor | None = None
    ) -> Tensor:
        made = self.fc(x) + self.other(y)
        made = made if shift is None else made + shift
        return 2 * made if twice else made


def test_in_dims() -> None:
    hnet = make(Sum())
    ids = [0, 1, 2]
    x, y = torch.randn(3, 5, 3), torch.randn(3, 5, 3)

    def loop(xs: Any, ys: Any, **kwargs: Any) -> Tensor:
        return torch.stack([hnet(xs[i], ys[i], condition=i, **kwargs) for i in ids])

    expected = loop(x, y)
    close(hnet(x, y, condition=ids), expected)
    close(hnet(x, y, condition=ids, in_dims=0), expected)
    close(hnet(x, y, condition=ids, in_dims=(0, 0)), expected)
    close(hnet(x, y, condition=ids, in_dims=[0, 0]), expected)  # type: ignore[arg-type]
    moved = x.movedim(0, 1)
    close(hnet(moved, y, condition=ids, in_dims=(1, 0)), expected)
    close(hnet(moved, y.movedim(0, 1), condition=ids, in_dims=1), expected)
    close(hnet(x.movedim(0, 2), y, condition=ids, in_dims=(-1, 0)), expected)
    close(hnet(x[0], y, condition=ids, in_dims=(None, 0)), loop([x[0]] * 3, y))
    close(hnet(x[0], y[0], condition=ids, in_dims=None), loop([x[0]] * 3, [y[0]] * 3))
    close(hnet.run(hnet.generate(ids), moved, y, in_dims=(1, 0)), expected)


def test_keyword_inputs_pair_too() -> None:
    hnet = make(Sum())
    ids = [0, 1, 2]
    x, y, shift = torch.randn(3, 5, 3), torch.randn(3, 5, 3), torch.randn(3, 5, 2)

    def one(i: int, s: Tensor) -> Tensor:
        return hnet(x[i], y[i], True, shift=s, condition=i)

    expected = torch.stack([one(i, shift[i]) for i in ids])
    close(hnet(x, y, True, shift=shift, condition=ids), expected)
    close(hnet(x, y, twice=True, shift=shift, condition=ids), expected)
    close(hnet(x, y=y, twice=True, shift=shift, condition=ids), expected)
    # With a tuple for the positional inputs, keywords pair at dimension 0.
    close(hnet(x, y, True, shift=shift, condition=ids, in_dims=(0, 0, None)), expected)
    # An int or None is for all.
    moved = [v.movedim(0, 1) for v in (x, y, shift)]
    close(hnet(moved[0], moved[1], twice=True, shift=moved[2], condition=ids, in_dims=1), expected)
    shared = hnet(x[0], y[0], twice=True, shift=shift[0], condition=ids, in_dims=None)
    close(shared, torch.stack([hnet(x[0], y[0], True, shift=shift[0], condition=i) for i in ids]))


def test_inputs_in_containers() -> None:
    class Containers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, xs: list[Tensor], more: dict[str, Any]) -> dict[str, Any]:
            return {"sum": self.fc(xs[0] + xs[1]), "pair": (self.fc(more["x"]) * more["by"],)}

    hnet = make(Containers())
    a, b, c = torch.randn(3, 2, 5, 3)
    made = hnet([a, b], {"x": c, "by": 2.0}, condition=[0, 1])
    for i in range(2):
        one = hnet([a[i], b[i]], {"x": c[i], "by": 2.0}, condition=i)
        close(made["sum"][i], one["sum"])
        close(made["pair"][0][i], one["pair"][0])
    shared = hnet([a, b[0]], {"x": c[0], "by": 2.0}, condition=[0, 1], in_dims=([0, None], None))
    close(shared["sum"][1], hnet([a[1], b[0]], {"x": c[0], "by": 2.0}, condition=1)["sum"])


def test_a_target_with_no_inputs_at_all() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(2, 3))

        def forward(self, factor: float) -> Tensor:
            return self.w * factor

    hnet = make(Constant())
    close(hnet(3.0, condition=[0, 1]), 3.0 * hnet.generate([0, 1])["w"])


# ---- a hypernetwork as the target of a hypernetwork ----------------------------------------------


class WithTask(nn.Module):
    """A hypernetwork that takes its condition as an ordinary input."""

    def __init__(self, hnet: hl.HyperNetwork) -> None:
        super().__init__()
        self.hnet = hnet

    def forward(self, x: Tensor, task: Any) -> Tensor:
        return self.hnet(x, condition=task)


@pytest.mark.parametrize("inner_layout", [hl.Full(), hl.Chunked(7, 3), hl.Grouped(3)], ids=repr)
@pytest.mark.parametrize("layout", [hl.Full(), hl.Chunked(50, 3)], ids=repr)
def test_a_hypernetwork_generates_a_hypernetwork(inner_layout: Any, layout: Any) -> None:
    inner = make(layout=inner_layout)
    c = torch.randn(4, 2)
    with unchanged(inner):
        outer = make(inner, condition=hl.Vector(2), layout=layout)
        made = outer.generate(c)
        assert list(made) == [name for name, _ in inner.named_parameters()]
        ids, x = [0, 2], torch.randn(4, 2, 7, 3)
        # Both have the name `condition`: in `Inputs` it is the inner one's.
        y = outer.run(made, hl.Inputs(x, condition=ids))
        tensors = torch.tensor([ids] * 4)
        close(outer.run(made, hl.Inputs(x, condition=tensors)), y)
        for i in range(4):
            one = {name: value[i] for name, value in made.items()}
            expected = functional_call(inner, one, (x[i],), {"condition": ids})
            close(y[i], expected)
            close(outer.run(one, hl.Inputs(x[i], condition=ids)), expected)
            built = outer.instantiate(c[i])
            assert isinstance(built, hl.HyperNetwork)
            close(built(x[i], condition=ids), expected)
        close(outer.run(made, hl.Inputs(x[0], condition=ids), in_dims=None)[0], y[0])
        y.sum().backward()
    assert all(p.grad is not None for p in outer.parameters())


def test_a_hypernetwork_behind_a_module_of_ones_own() -> None:
    inner = make()
    outer = make(WithTask(inner), condition=hl.Vector(2))
    c, x, ids = torch.randn(4, 2), torch.randn(4, 2, 7, 3), [0, 2]
    y = outer(x, ids, condition=c)
    params = {n.removeprefix("hnet."): v for n, v in outer.generate(c).items()}
    for i in range(4):
        one = {name: value[i] for name, value in params.items()}
        close(y[i], functional_call(inner, one, (x[i],), {"condition": ids}))
        close(outer(x[i], ids, condition=c[i]), y[i])
    tensors = torch.tensor([[0, 2], [1, 1], [2, 0], [0, 0]])
    z = outer(x, tensors, condition=c)
    close(z[0], y[0])
    close(z[1], outer(x[1], [1, 1], condition=c[1]))


# ---- of NumPy, and Python's numbers --------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, np.uint16, np.uint32])
def test_ids_of_numpy(kind: Any) -> None:
    hnet = make()
    wanted = hnet(X, condition=[2, 0])
    close(hnet(X, condition=np.array([2, 0], kind)), wanted)
    close(hnet(X, condition=[kind(2), kind(0)]), wanted)
    close(hnet(X[0], condition=kind(2)), wanted[0])
    with pytest.raises(IndexError, match=r"condition: got the id 3; wanted"):
        hnet(X, condition=np.array([0, 3], kind))


def test_vectors_of_numpy_and_numbers() -> None:
    """NumPy's float64 and Python's floats are nobody's choice: they become the vector's dtype."""
    hnet, values = make(condition=hl.Vector(3)), np.linspace(-1, 1, 6).reshape(2, 3)
    wanted = hnet(X, condition=torch.tensor(values, dtype=torch.float32))
    close(hnet(X, condition=values), wanted)
    close(hnet(X, condition=values.astype(np.float32)), wanted)
    hnet = make(condition=hl.Vector(1))
    wanted = hnet(X[0], condition=torch.tensor([2.0]))
    for number in (2, 2.0, np.float32(2), np.float64(2), np.array(2.0), torch.tensor(2.0)):
        close(hnet(X[0], condition=number), wanted)
    with pytest.raises(TypeError, match=r"condition: got 2.0; wanted a floating tensor"):
        make(condition=hl.Vector(3))(X[0], condition=2.0)
