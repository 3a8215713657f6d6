"""Conditions that carry a state: the cells, the state's way through a call, and `unroll`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import hyperloom.torch as hl
from hyperloom._core.reference import executor
from hyperloom.torch._tools.checkpoint import neutral_tensors
from tests._support import compare, targets
from tests._support.on_torch import hypernetwork

CELLS = {"rnn": nn.RNNCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell}
DIM, HIDDEN = 3, 5


def over_mlp(cell: str = "gru", **choices: Any) -> hl.HyperNetwork:
    choices = {"condition": hl.Recurrent(DIM, HIDDEN, cell=cell), **choices}
    return hypernetwork(lambda: targets.mlp(4, 4, 2).double(), **choices)


def draws(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


close = partial(compare.close, tolerance=1e-12)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("batch", [(), (1,), (6,), (2, 3)], ids=str)
def test_the_cells_are_those_of_torch(cell: str, batch: tuple[int, ...]) -> None:
    hnet = over_mlp(cell)
    theirs = CELLS[cell](DIM, HIDDEN).double()
    theirs.load_state_dict(dict(hnet.condition.named_parameters()))
    state, expected = None, None
    for _ in range(3):
        x = draws(*batch, DIM)
        params, state = hnet.generate(x, carry=state)
        expected = theirs(x.reshape(-1, DIM), expected)
        pairs = zip(state, expected, strict=True) if cell == "lstm" else [(state, expected)]
        for ours, their in pairs:
            assert ours.shape == (*batch, HIDDEN)
            close(ours, their.reshape(*batch, HIDDEN))
        assert params["0.weight"].shape == (*batch, 4, 4)


@pytest.mark.parametrize("cell", CELLS)
def test_the_numpy_oracle_agrees(cell: str) -> None:
    hnet = over_mlp(cell, trunk=hl.MLP(6), layout=hl.Chunked(7, embedding=2))
    arrays = {name: t.numpy() for name, t in neutral_tensors(hnet, with_base=True).items()}
    state, numpy_state = None, None
    for _ in range(3):
        x = draws(DIM)
        with torch.no_grad():
            params, state = hnet.generate(x, carry=state)
        made = executor.generate(hnet.plan, arrays, (x.numpy(), numpy_state))
        choice: Any = hnet.plan.condition
        numpy_state = executor.recurrent_step(choice, arrays, x.numpy(), numpy_state)
        for name, value in made.items():
            np.testing.assert_allclose(params[name].numpy(), value, atol=1e-12)


@pytest.mark.parametrize("layout", [hl.Full(), hl.Chunked(9, embedding=2)], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_a_batch_is_a_loop_over_its_rows(cell: str, layout: Any) -> None:
    """Each row has a network and a state of its own, with the current input as condition."""
    hnet = over_mlp(
        cell, trunk=hl.MLP(6), layout=layout, condition=hl.Recurrent(4, HIDDEN, cell=cell)
    )
    state: Any = None
    states: list[Any] = [None] * 6
    for _ in range(3):
        x = draws(6, 4)
        y, state = hnet(x, condition=x, carry=state)
        assert y.shape == (6, 2)
        for i in range(6):
            alone, states[i] = hnet(x[i], condition=x[i], carry=states[i])
            close(y[i], alone)
            first = state[0] if cell == "lstm" else state
            close(first[i], states[i][0] if cell == "lstm" else states[i])


def test_nothing_is_kept_between_calls() -> None:
    hnet = over_mlp()
    x, c = draws(6, 7, 4), draws(6, DIM)
    before = {name: value.clone() for name, value in hnet.state_dict().items()}
    first, state = hnet(x, condition=c)
    hnet(x, condition=c, carry=state)
    again, same = hnet(x, condition=c)
    close(again, first)
    close(same, state)
    assert hnet(x[:2], condition=c[:2])[0].shape == (2, 7, 2)  # another batch size
    for name, value in hnet.state_dict().items():
        assert torch.equal(value, before[name])
    second, _ = hnet(x, condition=c, carry=state)
    assert not torch.allclose(second, first)


def test_gradients_flow_through_the_state() -> None:
    hnet = over_mlp("lstm")
    c = draws(3, 2, DIM).requires_grad_()
    y, state = hnet(draws(2, 4), condition=c[0])
    for step in (1, 2):
        y, state = hnet(draws(2, 4), condition=c[step], carry=state)
    y.sum().backward()
    assert (c.grad[0].abs() > 0).all()  # type: ignore[index]
    assert all(p.grad is not None for p in hnet.parameters())


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_unroll_is_a_loop_over_steps(cell: str, batch: tuple[int, ...]) -> None:
    hnet = over_mlp(cell, trunk=hl.MLP(6))
    c, x = draws(5, *batch, DIM), draws(5, *batch, 7, 4)
    ys, last = hl.unroll(hnet, x[:3], condition=c[:3])
    more, last = hl.unroll(hnet, x[3:], condition=c[3:], carry=last)
    state = None
    for step, y in enumerate(torch.cat([ys, more])):
        expected, state = hnet(x[step], condition=c[step], carry=state)
        close(y, expected)
    close(last, state)


def test_unroll_with_ids_beside_the_state() -> None:
    parts = hl.Concat(hl.Embedding(4, 2), hl.Recurrent(DIM, HIDDEN))
    hnet = over_mlp(condition=parts, layout={"2.*": hl.PerCondition(), "0.*": hl.Full()})
    ids, c, x = torch.tensor([3, 0]), draws(5, 2, DIM), draws(5, 2, 4)
    one, state = hl.unroll(hnet, x, condition=(ids.expand(5, 2), c))
    assert state[0] is None
    assert state[1].shape == (2, HIDDEN)
    expected, new = hnet(x[0], condition=(ids, c[0]), carry=None)
    close(one[0], expected)
    assert new[0] is None
    same, _ = hl.unroll(hnet, x[:, 0], condition=(3, c[:, 0]))  # an int: the same at every step
    close(same, one[:, 0])


class Running(nn.Module):
    """A recurrent condition of a user's own: the mean of all vectors so far, and their number."""

    dim = DIM
    has_carry = True

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        total, count = (torch.zeros_like(x), 0) if state is None else state
        total, count = total + x, count + 1
        return total / count, (total, count)


def test_a_module_of_ones_own_carries_a_state() -> None:
    hnet = over_mlp(condition=Running())
    plain = over_mlp(condition=hl.Vector(DIM))
    plain.heads.load_state_dict(hnet.heads.state_dict())
    c, x = draws(4, 2, DIM), draws(4, 2, 4)
    state: Any = None
    for step in range(4):
        y, state = hnet(x[step], condition=c[step], carry=state)
        close(y, plain(x[step], condition=c[: step + 1].mean(0)))
    assert state[1] == 4
    assert repr(hnet.plan.condition).startswith("CustomRecurrent(3")


def test_under_vmap_grad_and_functional_call() -> None:
    hnet = over_mlp("lstm")
    x, c = draws(6, 4), draws(6, DIM)
    state = (draws(6, HIDDEN), draws(6, HIDDEN))
    expected = hnet(x, condition=c, carry=state)
    close(vmap(lambda *a: hnet(a[0], condition=a[1], carry=a[2]))(x, c, state), expected)
    parameters = dict(hnet.named_parameters())

    def loss(p: Any, x: Tensor, c: Tensor) -> Tensor:
        return functional_call(hnet, p, (x,), {"condition": c})[0].sum()

    each = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, c)
    alone = grad(loss)(parameters, x[1], c[1])
    for name, value in alone.items():
        close(each[name][1], value)


def test_generate_run_explain_instantiate() -> None:
    hnet = over_mlp()
    x, c = draws(2, 7, 4), draws(2, DIM)
    _, state = hnet(x, condition=c)
    y, new = hnet(x, condition=c, carry=state)
    params, same = hnet.generate(c, carry=state)
    close(hnet.run(params, x), y)
    close(same, new)
    plain = hnet.instantiate(c[0], carry=state[0])
    close(plain(x[0]), y[0])
    assert "2 conditions" in repr(hnet.explain(x, condition=c, carry=state))


def test_the_start_has_the_scale_of_the_target() -> None:
    torch.manual_seed(0)
    target = nn.Linear(64, 64)
    hnet = hl.HyperNetwork(target, condition=hl.Recurrent(8, 32))
    with torch.no_grad():
        native = target(torch.randn(1000, 64)).std()
        made, _ = hl.unroll(hnet, torch.randn(10, 20, 64), condition=torch.randn(10, 20, 8))
    assert 0.5 < float(made[-1].std() / native) < 2


def test_checkpoint(tmp_path: Path) -> None:
    hnet = over_mlp("lstm")
    hl.save(hnet, tmp_path / "dynamic.safetensors")
    target = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    again = hl.load(tmp_path / "dynamic.safetensors", target)
    x, c = draws(2, 4), draws(2, DIM)
    _, state = hnet(x, condition=c)
    close(again(x, condition=c, carry=state), hnet(x, condition=c, carry=state))
    own = over_mlp(condition=Running())
    hl.save(own, tmp_path / "own.safetensors")
    again = hl.load(tmp_path / "own.safetensors", target, condition=Running())
    close(again(x, condition=c)[0], own(x, condition=c)[0])


def test_a_targets_own_argument_of_that_name() -> None:
    """Only a condition with a state takes `carry`."""

    class Carrying(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor, carry: Tensor) -> Tensor:
            return self.layer(x) + carry

    hnet = hl.HyperNetwork(Carrying(), condition=hl.Vector(2))
    x = torch.randn(4)
    y = hnet(x, condition=torch.ones(2), carry=x)
    close(y, hnet(x, condition=torch.ones(2), carry=torch.zeros(4)) + x)


def test_bad_states_and_values() -> None:
    hnet, c, x = over_mlp("gru"), draws(2, DIM), draws(2, 4)
    with pytest.raises(ValueError, match=r"carry: got .*shape \(3, 5\); wanted None, or a tensor"):
        hnet(x, condition=c, carry=draws(3, HIDDEN))
    with pytest.raises(TypeError, match=r"carry: got 0; wanted None.*Start a new batch with"):
        hnet(x, condition=c, carry=0)
    with pytest.raises(TypeError, match=r"carry: got .*wanted None, or a pair of tensors"):
        over_mlp("lstm")(x, condition=c, carry=draws(2, HIDDEN))
    with pytest.raises(ValueError, match=r"condition: got .*\(2, 4\); wanted a floating tensor"):
        hnet(x, condition=x)
    with pytest.raises(TypeError, match="condition: got 3; wanted a floating tensor"):
        hnet(x, condition=3)
    plain = over_mlp(condition=hl.Vector(DIM))
    with pytest.raises(TypeError, match=r"carry: got one with Vector\(3\); wanted .*Recurrent"):
        plain.generate(c, carry=c)
    with pytest.raises(TypeError, match=r"carry: got one with Vector\(3\)"):
        hl.unroll(plain, x, condition=c)
    with pytest.raises(ValueError, match=r"Recurrent.cell=.: got 'elman'; wanted 'rnn', "):
        hl.Recurrent(3, 4, cell="elman")
    with pytest.raises(ValueError, match="condition: got no tensor"):
        hl.unroll(
            over_mlp(condition=hl.Concat(hl.Embedding(2, 2), Running())), x, condition=(1, 0.0)
        )
    both = over_mlp(condition=hl.Concat(hl.Vector(2), Running()))
    with pytest.raises(ValueError, match=r"condition: got tensors with \[2, 5\] steps"):
        hl.unroll(both, x, condition=(draws(2, 2), draws(5, DIM)))
    with pytest.raises(ValueError, match=r"inputs: got shape \(2, 4\); wanted \(T, \*batch\)"):
        hl.unroll(hnet, x, condition=draws(5, 2, DIM))
    with pytest.raises(TypeError, match=r"carry: got .*wanted a tuple of 2 states"):
        both(x, condition=(draws(2, 2), c), carry=c)
    broken = Running()
    broken.forward = lambda x, state: x  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"condition module Running: .*wanted a pair"):
        over_mlp(condition=broken)(x, condition=c)
