"""Rows of one batch that belong to different conditions, and networks that are held in the hand."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from tests._support.compare import close
from tests._support.on_torch import shaken
from tests.on_torch.cases import Attention, Tied, cnn, mlp

R = 7
INDEX = torch.tensor([2, 0, 2, 2, 1, 0, 2])
SOME = torch.tensor([3, 1, 0])  # ids


class Branches(nn.Module):
    """Control flow on values, which vmap cannot; no row sees another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        while bool((y.abs() > 0.5).any()):
            y = torch.where(y.abs() > 0.5, y / 2, y)
        return self.second(y)


class Places(nn.Module):
    """Tokens and places, looked up by an index that has as many entries as there may be rows."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(6, 4), nn.Embedding(9, 4)
        self.head = nn.Linear(4, 6)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.tokens(ids) + self.places(torch.arange(ids.shape[1])))


class Meets(nn.Module):
    """The mean over all rows is in each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y + y.mean(0)


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
        self.decoder = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 4))
        self.width = 2

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def decode(self, z: Tensor, *, scale: float = 1.0) -> Tensor:
        return self.decoder(z) * scale

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


def floats(*shape: int) -> Callable[[int], Tensor]:
    return lambda rows: torch.randn(rows, *shape, dtype=torch.float64)


def ids(*shape: int) -> Callable[[int], Tensor]:
    return lambda rows: torch.randint(0, 6, (rows, *shape))


TARGETS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    "mlp": (mlp, floats(4)),
    "mlp of sequences": (mlp, floats(3, 4)),
    "cnn": (cnn, floats(2, 4, 4)),
    "tied": (Tied, ids(5)),
    "attention": (Attention, floats(3, 4)),
    "branches": (Branches, floats(4)),
    "places": (Places, ids(R)),
}
FORMS = {"whole": hl.Whole(), "delta": hl.Delta(), "lora": hl.LoRA(2), "scale": hl.Scale()}


def over_matrices(target: nn.Module, form: Any = None, **options: Any) -> hl.HyperNetwork:
    named = {n for n, p in target.named_parameters() if p.ndim >= 2} if form else None
    layout = None if named is None else dict.fromkeys(sorted(named), hl.Full())
    options = {"layout": layout, "form": form, "condition": hl.Embedding(5, 3), **options}
    return shaken(hl.HyperNetwork(target.double(), **options))


def by_hand(hnet: hl.HyperNetwork, x: Tensor, conditions: Tensor, index: Tensor) -> Tensor:
    """Each condition on its rows: what rows= is defined by."""
    y = None
    for i in index.unique().tolist():
        own = hnet(x[index == i], condition=conditions[i])
        y = own.new_zeros(len(x), *own.shape[1:]) if y is None else y
        y = y.index_put(((index == i).nonzero().squeeze(-1),), own)
    assert y is not None
    return y


def grads(y: Tensor, hnet: hl.HyperNetwork) -> list[Tensor]:
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    parameters = list(hnet.parameters())
    return list(
        torch.autograd.grad(
            (y * weights).sum(), parameters, allow_unused=True, materialize_grads=True
        )
    )


# ---- rows= --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("target", TARGETS)
def test_rows_are_each_condition_on_its_rows(target: str, form: str) -> None:
    make, inputs = TARGETS[target]
    hnet, x = over_matrices(make(), FORMS[form]), inputs(R)
    for index in (INDEX, INDEX.sort().values, torch.tensor([0, 0, 0, 2, 2, 2, 2])):
        y, wanted = hnet(x, condition=SOME, rows=index), by_hand(hnet, x, SOME, index)
        close(y, wanted)
        close(grads(y, hnet), grads(wanted, hnet))
    assert hnet.explain(x, condition=SOME, rows=INDEX).strategy == "rows"
    with torch.no_grad():
        close(hnet(x, condition=SOME, rows=INDEX.tolist()), by_hand(hnet, x, SOME, INDEX))


def test_layouts_that_form_tensors() -> None:
    for layout in (hl.Chunked(7, embedding=2), hl.PerCondition(), hl.Grouped(embedding=2)):
        hnet, x = over_matrices(mlp(), layout=layout), floats(4)(R)
        y, wanted = hnet(x, condition=SOME, rows=INDEX), by_hand(hnet, x, SOME, INDEX)
        close(y, wanted)
        close(grads(y, hnet), grads(wanted, hnet))


def test_more_rows_belong_to_the_same_conditions() -> None:
    hnet, x = over_matrices(mlp()), floats(4)(R)
    y = hnet(x.repeat_interleave(3, 0), condition=SOME, rows=INDEX)
    close(y, hnet(x, condition=SOME, rows=INDEX).repeat_interleave(3, 0))


def test_inputs_that_all_rows_share() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor, y: Tensor, *, z: Tensor) -> Tensor:
            return self.layer(x + y) * z

    hnet, x = over_matrices(Two()), floats(4)(R)
    shared, z = torch.randn(4).double(), torch.randn(R, 1).double()
    y = hnet(x, shared, condition=SOME, rows=INDEX, in_dims=(0, None), z=z)
    for i in range(R):
        close(y[i], hnet(x[i : i + 1], shared, condition=SOME[INDEX[i]], z=z[i : i + 1])[0])


def test_rows_that_meet_are_run_one_condition_after_the_other() -> None:
    hnet, x = over_matrices(Meets()), floats(4)(R)
    with pytest.warns(hl.SlowWarning, match="target: its rows meet"):
        y = hnet(x, condition=SOME, rows=INDEX)
    close(y, by_hand(hnet, x, SOME, INDEX))
    explained = hnet.explain(x, condition=SOME, rows=INDEX)
    assert explained.strategy == "loop"
    assert "its rows meet" in explained.reason
    hnet.execution = hl.Execution(strategy="rows")
    with pytest.raises(RuntimeError, match="its rows meet"):
        hnet(x, condition=SOME, rows=INDEX)


def test_rows_that_meet_in_one_number_are_seen() -> None:
    """For the condition that has the largest number, nothing is different."""

    class Largest(Meets):
        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            return y / y.abs().max()

    for seed in range(8):
        torch.manual_seed(seed)
        hnet, x = over_matrices(Largest()), floats(4)(R)
        with pytest.warns(hl.SlowWarning, match="its rows meet"):
            close(hnet(x, condition=SOME, rows=INDEX), by_hand(hnet, x, SOME, INDEX))


def test_rows_that_are_sorted_by_their_values_are_seen() -> None:
    """Those of the first call are in order already: nothing moves."""

    class Sorting(Meets):
        def forward(self, x: Tensor) -> Tensor:
            order = x[:, 0].argsort()
            y = self.layer(x[order]).tanh()
            return y[order.argsort()]

    hnet, x = over_matrices(Sorting()), floats(4)(R)
    first = x[x[:, 0].argsort()]
    with pytest.warns(hl.SlowWarning, match="it changes the order of its rows"):
        close(hnet(first, condition=SOME, rows=INDEX), by_hand(hnet, first, SOME, INDEX))
    close(hnet(x, condition=SOME, rows=INDEX), by_hand(hnet, x, SOME, INDEX))


def test_rows_that_meet_are_seen_though_all_conditions_are_equal() -> None:
    """A change starts at zero: with the weights of the call no difference would show."""
    hnet = hl.HyperNetwork(Places().double(), condition=hl.Embedding(5, 3), form=hl.Delta())
    x = ids(R)(R)
    y = hnet(x, condition=SOME, rows=INDEX)
    close(shaken(hnet)(x, condition=SOME, rows=INDEX), by_hand(hnet, x, SOME, INDEX))
    assert y.shape == (R, R, 6)
    met = hl.HyperNetwork(Meets().double(), condition=hl.Embedding(5, 3), form=hl.Delta())
    with pytest.warns(hl.SlowWarning, match="its rows meet"):
        met(floats(4)(R), condition=SOME, rows=INDEX)


def test_batch_statistics_are_those_of_each_condition() -> None:
    target = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    hnet = over_matrices(target)
    each, x = copy.deepcopy(hnet), floats(4)(R)
    index = torch.tensor([2, 0, 2, 2, 1, 0, 1])
    with pytest.warns(hl.SlowWarning, match="running statistics"):
        y = hnet(x, condition=SOME, rows=index)
    close(y, by_hand(each, x, SOME, index))
    close(dict(hnet.named_buffers()), dict(each.named_buffers()))
    hnet.eval()
    each.eval()
    close(hnet(x, condition=SOME, rows=index), by_hand(each, x, SOME, index))
    assert hnet.explain(x, condition=SOME, rows=index).strategy == "rows"


def test_dropout_and_random_numbers_are_left_alone() -> None:
    hnet = over_matrices(nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)))
    x = floats(4)(R)
    state = torch.get_rng_state()
    first = hnet(x, condition=SOME, rows=INDEX)
    torch.set_rng_state(state)
    close(hnet(x, condition=SOME, rows=INDEX), first)
    assert bool((first == 0).any())
    assert bool((first != 0).any())


# ---- a strategy for ordinary batches ------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("target", TARGETS)
def test_a_batch_is_the_same_by_rows_vmap_and_loop(target: str, form: str) -> None:
    make, inputs = TARGETS[target]
    hnet, x = over_matrices(make(), FORMS[form]), inputs(6).unflatten(0, (3, 2))
    found = {}
    for strategy in ("rows", "loop", *(("vmap",) if target != "branches" else ())):
        hnet.execution = hl.Execution(strategy=strategy)
        y = hnet(x, condition=SOME)
        found[strategy] = y, grads(y, hnet)
        assert hnet.explain(x, condition=SOME).strategy == strategy
    for ours in found.values():
        close(ours, found["loop"])


def test_ids_that_repeat_are_run_on_rows() -> None:
    hnet, x = over_matrices(mlp(), layout=hl.Chunked(7, embedding=2)), floats(4)(12)
    repeated = torch.tensor([3, 1, 3, 3, 1, 1, 3, 3, 1, 3, 1, 3])
    y = hnet(x, condition=repeated)
    wanted = torch.stack([hnet(x[i], condition=repeated[i]) for i in range(12)])
    close(y, wanted)
    close(grads(y, hnet), grads(wanted, hnet))
    assert hnet.explain(x, condition=repeated).strategy == "rows"
    met = over_matrices(Meets(), layout=hl.Chunked(7, embedding=2))
    x = floats(2, 4)(12)
    wanted = torch.stack([met(x[i], condition=repeated[i]) for i in range(12)])
    close(met(x, condition=repeated), wanted)
    assert met.explain(x, condition=repeated).strategy == "vmap"


# ---- bound networks -----------------------------------------------------------------------------


def test_a_bound_network_is_the_target() -> None:
    hnet = over_matrices(Autoencoder()).eval()
    net = hnet.bind(3)
    x = floats(4)(5)
    close(net(x), hnet(x, condition=3))
    plain: Any = hnet.instantiate(3)
    close(net.decode(net.encode(x), scale=2.0), plain.decode(plain.encode(x), scale=2.0))
    assert isinstance(net, nn.Module)
    assert net.width == 2
    assert isinstance(net.decoder, nn.Sequential)
    close(net.decoder(x[:, :2]), plain.decoder(x[:, :2]))
    parameter = next(net.parameters())
    assert (parameter.device, parameter.dtype) == (torch.device("cpu"), torch.float64)
    assert [n for n, _ in net.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert repr(net) == "Bound(one condition: Autoencoder)"
    assert not net.training
    assert net.train().training
    assert net.decoder.training
    assert not hnet.training


def test_one_call_of_a_method() -> None:
    hnet = over_matrices(Autoencoder())
    z = floats(2)(6).unflatten(0, (3, 2))
    plain: list[Any] = [hnet.instantiate(i) for i in SOME]
    each = [net.decode(own, scale=0.5) for net, own in zip(plain, z, strict=True)]
    close(hnet(z, condition=SOME, method="decode", scale=0.5), torch.stack(each))
    close(hnet(z[0], condition=SOME[0], method="decode", scale=0.5), each[0])
    net = hnet.bind(SOME)
    close(net.decode(z, scale=0.5), torch.stack(each))
    close(net(floats(4)(3)).shape, torch.Size([3, 4]))
    y = hnet(z.flatten(0, 1), condition=SOME, rows=[0, 0, 1, 1, 2, 2], method="decode", scale=0.5)
    close(y.unflatten(0, (3, 2)), torch.stack(each))
    assert hnet.explain(z, condition=SOME, method="decode", scale=0.5).conditions == 3


@pytest.mark.parametrize("rows", [None, INDEX], ids=["one", "rows"])
def test_gradients_flow_through_all_calls_of_one_bind(rows: Tensor | None) -> None:
    hnet = over_matrices(Autoencoder(), hl.LoRA(2))
    condition = SOME if rows is not None else 2
    net, x = hnet.bind(condition, rows=rows), floats(4)(R)
    loss = sum(net.decode(net.encode(x * k)).square().sum() for k in (1.0, 2.0))
    assert isinstance(loss, Tensor)
    options = {} if rows is None else {"rows": rows}
    wanted = sum(hnet(x * k, condition=condition, **options).square().sum() for k in (1.0, 2.0))
    assert isinstance(wanted, Tensor)
    parameters = list(hnet.parameters())
    found = torch.autograd.grad(loss, parameters)
    close(found, torch.autograd.grad(wanted, parameters))


def test_only_what_a_method_uses_is_generated() -> None:
    hnet = over_matrices(Autoencoder(), layout={"encoder.*": hl.PerCondition(), "*": hl.Full()})
    net = hnet.bind(2)
    asked: list[str] = []
    worn, make = net._hand.worn, dict(net._hand.worn.make)
    for name, plain in make.items():
        worn.make[name] = lambda n=name, m=plain: (asked.append(n), m())[1]
    net = type(net)(net._hand)
    net._hand.seats = net._hand._seats()
    net._hand.module = hnet._runner.skeleton.holding(*net._hand.seats)
    net.decode(floats(2)(3))
    net.decode(floats(2)(3))
    names = ("decoder.0.bias", "decoder.0.weight", "decoder.2.bias", "decoder.2.weight")
    assert sorted(asked) == list(names)


def test_the_backward_pass_may_run_it_again() -> None:
    """A recomputation of the user's own, when the call is long over."""

    class Again(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, run: Any, x: Tensor, *parameters: Tensor) -> Tensor:
            ctx.run, ctx.parameters = run, parameters
            ctx.save_for_backward(x)
            with torch.no_grad():
                return run(x)

        @staticmethod
        def backward(ctx: Any, *grad: Tensor) -> Any:
            (x,) = ctx.saved_tensors
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                wanted = (x, *ctx.parameters)
                found = torch.autograd.grad(
                    ctx.run(x), wanted, grad[0], allow_unused=True, retain_graph=True
                )
            return None, *found

    for condition, rows in ((2, None), (SOME, INDEX)):
        hnet, x = over_matrices(Branches(), hl.LoRA(2)), floats(4)(R)
        net, parameters = hnet.bind(condition, rows=rows), list(hnet.parameters())
        y = Again.apply(net, x, *parameters)
        found = torch.autograd.grad(y.square().sum(), parameters)
        options = {} if rows is None else {"rows": rows}
        wanted = hnet(x, condition=condition, **options).square().sum()
        close(found, torch.autograd.grad(wanted, parameters))


def test_binding_leaves_the_target_and_the_hypernetwork_alone() -> None:
    target = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
    before = copy.deepcopy(target.state_dict())
    hnet = hl.HyperNetwork(target, condition=hl.Embedding(5, 3)).eval()
    own = copy.deepcopy(hnet.state_dict())
    net, x = hnet.bind(SOME, rows=[0, 0, 1, 1, 2, 2, 2]), floats(4)(R)
    net(x)
    net.train()
    with pytest.warns(hl.SlowWarning, match="running statistics"):
        net(x)
    close(dict(target.state_dict()), dict(before))
    assert not hnet.training
    tables = "target_statistics."
    learned = {k: v for k, v in hnet.state_dict().items() if not k.startswith(tables)}
    close(learned, {k: v for k, v in own.items() if not k.startswith(tables)})


def test_what_is_told_of_rows_is_told_once() -> None:
    hnet, x = over_matrices(Autoencoder()), floats(4)(R)
    first, second = (hnet.explain(x, condition=SOME, rows=INDEX) for _ in range(2))
    assert str(first) == str(second)
    assert len({use.tensor for use in first.used}) == len(first.used) == 8


def test_in_half_precision_with_a_generator_in_single() -> None:
    target = Autoencoder().bfloat16()
    hnet = hl.HyperNetwork(
        target, condition=hl.Embedding(5, 3), form=hl.LoRA(2), layout={"*.weight": hl.Full()}
    )
    x = floats(4)(R).bfloat16()
    y = hnet(x, condition=SOME, rows=INDEX)
    assert y.dtype == torch.bfloat16
    assert next(hnet.condition.parameters()).dtype == torch.float32
    torch.testing.assert_close(y, by_hand(hnet, x, SOME, INDEX), rtol=0.05, atol=0.05)


# ---- what is refused ----------------------------------------------------------------------------

WANTED = "wanted a tensor of ints (R,): for each row the place of its condition in the batch"
BAD_ROWS: dict[str, tuple[Any, type[Exception], str]] = {
    "floats": (INDEX.double(), TypeError, f"rows: got a torch.float64 tensor; {WANTED}"),
    "bools": (INDEX > 1, TypeError, f"rows: got a torch.bool tensor; {WANTED}"),
    "words": (["a"], TypeError, f"rows: got the list ['a']; {WANTED}"),
    "a number": (3, TypeError, f"rows: got 3; {WANTED}"),
    "two axes": (INDEX[None], ValueError, f"rows: got shape (1, 7); {WANTED}"),
    "none": (INDEX[:0], ValueError, "rows: got none; wanted one row or more"),
    "below": (INDEX - 1, IndexError, "rows: got the number -1; wanted numbers 0 to 2"),
    "above": (INDEX + 1, IndexError, "rows: got the number 3; wanted numbers 0 to 2"),
    "others": (
        INDEX[:4],
        ValueError,
        "input 0: got shape (7, 4) beside rows= of 4; wanted 4 rows in front, or a multiple: each "
        "row k times in place. For an input that all rows share, pass in_dims=None.",
    ),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_rows_are_refused(name: str) -> None:
    rows, kind, text = BAD_ROWS[name]
    with pytest.raises(kind, match=re.escape(text)):
        over_matrices(mlp())(floats(4)(R), condition=SOME, rows=rows)


def test_bad_calls_are_refused() -> None:
    hnet, x = over_matrices(Autoencoder()), floats(4)(R)
    with pytest.raises(ValueError, match="rows: got rows= beside one condition; wanted a batch"):
        hnet(x, condition=1, rows=INDEX)
    with pytest.raises(ValueError, match=r"method: got 'decod'; wanted .*Did you mean 'decode'"):
        hnet(x, condition=1, method="decod")
    with pytest.raises(TypeError, match="method: got 3; wanted the name of a method"):
        hnet(x, condition=1, method=3)
    with pytest.raises(ValueError, match="in_dims: got 1; wanted 0 or None with rows="):
        hnet(x, condition=SOME, rows=INDEX, in_dims=1)
    hnet.execution = hl.Execution(strategy="vmap")
    with pytest.raises(ValueError, match="beside rows=: vmap has no rows"):
        hnet(x, condition=SOME, rows=INDEX)


def test_a_loss_over_all_rows_is_refused() -> None:
    class Loss(Meets):
        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).mean()

    text = r"the target's output: got shapes \(\); wanted tensors with rows in front. A loss over"
    with pytest.raises(ValueError, match=text):
        over_matrices(Loss())(floats(4)(R), condition=SOME, rows=INDEX)


def test_a_bound_network_after_its_hypernetwork_changed() -> None:
    hnet, x = over_matrices(Autoencoder()), floats(4)(R)
    net = hnet.bind(2)
    hnet.add_conditions(1)
    with pytest.raises(ValueError, match="net: got a network that was bound before its"):
        net(x)
    net = hnet.bind(2)
    net.decode(x[:, :2])
    with torch.no_grad():
        next(hnet.parameters()).add_(1)
    net.decode(x[:, :2])
    with pytest.raises(ValueError, match=r"net: got 'encoder.0.weight' to generate with a hyper"):
        net.encode(x)
    with pytest.raises(AttributeError, match="Did you mean 'decode'"):
        _ = net.decodes
    with pytest.raises(TypeError, match="net: got a bound network to move; wanted a hypernetwork"):
        net.float()
    with pytest.raises(TypeError, match="net: got state_dict"):
        net.state_dict()
