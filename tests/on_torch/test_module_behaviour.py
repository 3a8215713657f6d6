"""A hypernetwork is a module: it moves, switches modes, copies, saves and trains like any other,
and the template it was given stays as it was.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hyperloom.torch as hl
from tests._support.on_torch import shaken
from tests.on_torch.builders import LAYOUTS, X, close, identical, make, mlp
from tests.on_torch.snapshots import unchanged

# ---- dtype and device ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_to_a_dtype(layout: str, dtype: torch.dtype) -> None:
    hnet = make(layout=LAYOUTS[layout], form={"0.*": hl.Delta()})
    before = hnet.generate([0, 1])
    ways: list[Callable[[hl.HyperNetwork], Any]] = [lambda h: h.to(dtype)]
    if dtype is torch.float64:
        ways.append(lambda h: h.double())
    if dtype is torch.float16:
        ways.append(lambda h: h.half())
    for way in ways:
        moved = way(copy.deepcopy(hnet))
        held = (*moved.state_dict().values(), *dict(moved.bases.tensors()).values())
        assert {p.dtype for p in held if p.is_floating_point()} == {dtype}
        made = moved.generate([0, 1])
        assert {value.dtype for value in made.values()} == {dtype}
        tolerance = {torch.float64: 1e-6, torch.float16: 2e-2, torch.bfloat16: 1e-1}[dtype]
        close({n: v.float() for n, v in made.items()}, before, tolerance=tolerance)
        y = moved(X.to(dtype), condition=[0, 1])
        assert y.dtype == dtype
        close(y.float(), hnet(X, condition=[0, 1]), tolerance=tolerance)
        assert {p.dtype for p in moved.instantiate(0).parameters()} == {dtype}
        # And back.
        assert {v.dtype for v in moved.float().generate(0).values()} == {torch.float32}


def test_a_target_of_another_dtype() -> None:
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        hnet = make(mlp().to(dtype), layout=LAYOUTS["mix"], form={"0.*": hl.Delta()})
        assert {v.dtype for v in hnet.generate([0, 1]).values()} == {dtype}
        assert hnet(X.to(dtype), condition=[0, 1]).dtype == dtype
        learned = torch.float64 if dtype is torch.float64 else torch.float32
        assert {p.dtype for p in hnet.parameters()} == {learned}


def test_a_float64_target_with_modules_of_ones_own() -> None:
    trunk = nn.Sequential(nn.Linear(6, 8), nn.Tanh()).double()
    trunk.dim = 8  # type: ignore[assignment]
    hnet = make(mlp().double(), condition=nn.Linear(2, 6).double(), trunk=trunk)
    assert hnet(X.double(), condition=torch.ones(2, 2).double()).dtype == torch.float64


def test_a_target_of_mixed_dtypes() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2).half()
            self.out = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.fc(x.half()).float())

    hnet = make(Mixed(), layout=hl.Chunked(5))
    dtypes = {name: value.dtype for name, value in hnet.generate(0).items()}
    assert dtypes == {
        "fc.weight": torch.float16,
        "fc.bias": torch.float16,
        "out.weight": torch.float32,
        "out.bias": torch.float32,
    }
    assert hnet(X, condition=[0, 1]).dtype == torch.float32


def test_integers_stay_integers() -> None:
    target = nn.BatchNorm1d(3)
    hnet = make(target).half()
    buffers = dict(hnet.instantiate(0).named_buffers())
    assert buffers["num_batches_tracked"].dtype == torch.int64
    assert buffers["running_mean"].dtype == torch.float16


def test_to_the_meta_device_shapes_only() -> None:
    hnet = make(layout=hl.Chunked(7)).to("meta")
    made = hnet.generate(torch.zeros(2, dtype=torch.int64, device="meta"))
    assert {v.device.type for v in made.values()} == {"meta"}
    assert made["0.weight"].shape == (2, 4, 3)


@pytest.mark.parametrize("layout", ["chunked", "grouped"])
@pytest.mark.parametrize("assign", [False, True])
def test_from_the_meta_device_a_state_dict_is_all_there_is(layout: str, assign: bool) -> None:
    # The slots' signs are not among the state: they follow from the plan.
    hnet = shaken(make(layout=LAYOUTS[layout]))
    other = make(layout=LAYOUTS[layout]).to("meta")
    if not assign:
        other = other.to_empty(device="cpu")
    other.load_state_dict(hnet.state_dict(), assign=assign)
    identical(other.generate([0, 1]), hnet.generate([0, 1]))


def test_the_template_is_not_moved() -> None:
    target = mlp()
    hnet = make(target, layout={"0.*": hl.Full()})
    with unchanged(target):
        hnet.double().to("meta")


# ---- modes ---------------------------------------------------------------------------------------


def test_modes_reach_the_target() -> None:
    class Modes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) * 0 + float(self.training)

    target = Modes()
    hnet = make(target)
    for mode in (True, False, True):
        with unchanged(target):
            hnet.train(mode)
        assert bool((hnet(X, condition=[0, 1]) == float(mode)).all())
        assert bool((hnet(X[0], condition=0) == float(mode)).all())
        assert hnet.instantiate(0).training == mode
    assert hnet.eval() is hnet
    assert not hnet.training


def test_a_target_in_eval_mode_is_run_in_the_mode_of_the_hypernetwork() -> None:
    target = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).eval()
    hnet = make(target)
    assert hnet.training
    assert not target.training


def test_dropout_in_the_target() -> None:
    target = nn.Sequential(nn.Linear(3, 50), nn.Dropout(0.5))
    hnet = make(target)
    x = torch.ones(2, 1, 3)
    first, second = hnet(x, condition=[0, 0]), hnet(x, condition=[0, 0])
    assert not torch.equal(first, second)
    # Each condition has a mask of its own.
    assert not torch.equal(first[0] == 0, first[1] == 0)
    assert 0.2 < float((first == 0).float().mean()) < 0.8
    hnet.eval()
    close(hnet(x, condition=[0, 0]), hnet(x, condition=[0, 0]))
    assert not bool((hnet(x, condition=[0, 0]) == 0).any())


def test_dropout_in_the_trunk() -> None:
    hnet = make(trunk=hl.MLP(50, dropout=0.5))
    assert not identical(hnet.generate(0), hnet.generate(0))
    hnet.eval()
    assert identical(hnet.generate(0), hnet.generate(0))


def test_batch_norm_in_the_target() -> None:
    target = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    with torch.no_grad():
        target[1].running_mean += 3.0  # type: ignore[operator, union-attr]
    hnet = make(target)
    params = hnet.generate([0, 1])
    for mode in (False, True):
        hnet.train(mode)
        with unchanged(target):
            y = hnet(X, condition=[0, 1])
        for i in range(2):
            h = F.linear(X[i], params["0.weight"][i], params["0.bias"][i])
            mean = h.mean(0) if mode else torch.full((4,), 3.0)
            var = h.var(0, correction=0) if mode else torch.ones(4)
            h = (h - mean) / (var + 1e-5).sqrt()
            close(y[i], h * params["1.weight"][i] + params["1.bias"][i], tolerance=1e-4)


def test_batch_norm_without_statistics() -> None:
    target = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False))
    y = make(target)(X, condition=[0, 1])
    assert y.shape == (2, 7, 4)


# ---- state dict, copies --------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", [hl.Whole(), hl.Delta(), hl.Delta(trained=True)], ids=repr)
def test_a_state_dict_carries_everything(layout: str, form: hl.Delta) -> None:
    first = make(mlp(seed=1), seed=1, layout=LAYOUTS[layout], form=form)
    # Bases and kept tensors are held where they are: the state dict has their fingerprint.
    second = make(mlp(seed=1), seed=2, layout=LAYOUTS[layout], form=form)
    assert not identical(first.generate([0, 1, 2]), second.generate([0, 1, 2]))
    state = copy.deepcopy(first.state_dict())
    second.load_state_dict(state)
    # Scales are measured on the template.
    assert ("scales" in state) == first.plan.has_scales
    assert identical(first.generate([0, 1, 2]), second.generate([0, 1, 2]))
    assert torch.equal(first(X, condition=[0, 1]), second(X, condition=[0, 1]))
    assert identical(first.instantiate(0).state_dict(), second.instantiate(0).state_dict())


def test_scales_come_with_the_state_dict() -> None:
    first, second = (make(mlp(seed=s), layout=hl.Chunked(7)) for s in (1, 2))
    assert not torch.equal(first.scales, second.scales)  # type: ignore[arg-type]
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.scales, second.scales)  # type: ignore[arg-type]


def test_a_state_dict_of_another_layout_is_refused() -> None:
    with pytest.raises(RuntimeError, match="Missing key"):
        make(layout=hl.Full()).load_state_dict(make(layout=hl.Chunked(7)).state_dict())


COPIES: dict[str, Callable[[hl.HyperNetwork], hl.HyperNetwork]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda hnet: pickle.loads(pickle.dumps(hnet)),
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_copies(layout: str, way: str) -> None:
    hnet = make(layout=LAYOUTS[layout], form={"0.*": hl.Delta(trained=True)})
    hnet(X, condition=[0, 1])  # whatever a first call caches is not shared
    hnet.eval()
    with unchanged(hnet):
        again = COPIES[way](hnet)
        assert again.plan == hnet.plan
        assert not again.training
        assert identical(hnet.generate([0, 1]), again.generate([0, 1]))
        assert torch.equal(hnet(X, condition=[0, 1]), again(X, condition=[0, 1]))
        # Nothing is shared.
        own = {t.data_ptr() for t in hnet.state_dict().values()}
        assert own.isdisjoint(t.data_ptr() for t in again.state_dict().values())
        again.train().double()
        shaken(again)
        again.add_conditions(1)
    assert hnet(X, condition=[0, 1]).dtype == torch.float32


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_taken_after_a_call_runs_its_own_modules(way: str) -> None:
    target = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    hnet = hl.HyperNetwork(target, condition=hl.Vector(4))
    x, c = torch.randn(2, 5, 3), torch.randn(2, 4)
    hnet(x, condition=c)  # what is decided for such calls is remembered
    copied = COPIES[way](hnet)
    copied.eval()
    assert hnet.training
    assert torch.equal(copied(x, condition=c), copied(x, condition=c))


def test_a_replica_runs_with_its_own_tensors() -> None:
    """What `nn.DataParallel` makes of a module, on one device: shallow, with other submodules."""
    target = nn.Sequential(nn.Linear(3, 4), nn.GroupNorm(2, 4), nn.Linear(4, 2))
    hnet = hl.HyperNetwork(target, condition=hl.Vector(4), layout={"0.*": hl.Full()})
    x, c = torch.randn(2, 5, 3), torch.randn(2, 4)
    replica = hnet._replicate_for_data_parallel()
    for name, module in hnet._modules.items():
        setattr(replica, name, copy.deepcopy(module))
    for name, tensor in list(replica.kept.tensors()):
        replica.kept.add_reference(name, torch.zeros_like(tensor))
    assert not replica(x, condition=c).any()
    assert hnet(x, condition=c).all()


# ---- what is learned -----------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("trunk", [None, hl.MLP(6, 5), hl.MLP(6, norm="batch")], ids=repr)
def test_the_plan_counts_the_parameters(layout: str, trunk: Any) -> None:
    form = {"0.*": hl.Delta(trained=True)}
    hnet = make(layout=LAYOUTS[layout], trunk=trunk, form=form)
    assert hnet.plan.num_parameters == sum(p.numel() for p in hnet.parameters())
    made = hnet.generate([0, 1])
    assert hnet.plan.num_generated == sum(v[0].numel() for v in made.values())
    assert hnet.plan.output_bytes(2) == sum(v.numel() * 4 for v in made.values())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_template_is_no_part_of_the_hypernetwork(layout: str) -> None:
    target = mlp()
    hnet = make(target, layout=LAYOUTS[layout], form={"0.*": hl.Delta(trained=True)})
    inside = {id(p) for p in (*hnet.parameters(), *hnet.buffers())}
    inside |= {id(module) for module in hnet.modules()}
    assert inside.isdisjoint(map(id, (*target.parameters(), *target.buffers(), *target.modules())))
    memory = {t.data_ptr() for t in (*hnet.parameters(), *hnet.buffers())}
    assert memory.isdisjoint(p.data_ptr() for p in target.parameters())
    assert all(p.requires_grad for p in hnet.parameters())
    assert not any(p.is_meta for p in hnet.parameters())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_template_is_bitwise_unchanged(layout: str) -> None:
    target = mlp()
    with unchanged(target):
        hnet = make(target, layout=LAYOUTS[layout], form={"0.*": hl.Delta(trained=True)})
        optimizer = torch.optim.SGD(hnet.parameters(), lr=0.1)
        for condition, x in ((0, X[0]), ([0, 1], X)):
            optimizer.zero_grad()
            hnet(x, condition=condition).square().sum().backward()
            optimizer.step()
        with pytest.raises(ValueError, match="input 0: got"):
            hnet(torch.ones(2, 7, 99), condition=[0, 1])
        hnet.run(hnet.generate(0), X[0])
        hnet.instantiate(0)(X).sum().backward()
        hnet.add_conditions(1)
        hnet.eval().double()


def test_a_base_is_held_where_it_is() -> None:
    target = mlp()
    hnet = make(target, layout={"0.*": hl.Full()}, form={"0.bias": hl.Delta()})
    state = hnet.state_dict()
    held = {**dict(hnet.kept.tensors()), **dict(hnet.bases.tensors())}
    for name, value in held.items():
        assert value.data_ptr() == target.get_parameter(name).data_ptr()
        assert not value.requires_grad
    assert not [name for name in state if name.startswith(("kept.", "bases."))]
    twin = copy.deepcopy(hnet)
    assert all(t.data_ptr() == held[n].data_ptr() for n, t in twin.kept.tensors())
    before = hnet(X, condition=[0, 1])
    hnet.double()  # converts what the hypernetwork holds, not the user's module
    assert {p.dtype for p in target.parameters()} == {torch.float32}
    close(hnet(X.double(), condition=[0, 1]).float(), before, tolerance=1e-5)
    with torch.no_grad():  # whoever trains the target on sees it in the networks
        for parameter in target.parameters():
            parameter.fill_(7.0)
    assert not torch.equal(twin(X, condition=[0, 1]), before)


def test_values_of_a_base_are_not_dropped() -> None:
    hnet = make(mlp(), layout={"0.*": hl.Full()}, form={"0.bias": hl.Delta()})
    state, before = hnet.state_dict(), hnet(X, condition=[0, 1])
    hnet.to("meta").to_empty(device="cpu")
    hnet.load_state_dict(state)
    assert torch.equal(hnet(X, condition=[0, 1]), before)


def test_a_state_dict_beside_another_base_is_refused() -> None:
    first, second = (
        make(mlp(seed=s), layout={"0.*": hl.Full()}, form={"0.bias": hl.Delta()}) for s in (1, 2)
    )
    with pytest.raises(RuntimeError, match="state_dict: got that of another base; wanted the base"):
        second.load_state_dict(first.state_dict())
    state = {k: v for k, v in first.state_dict().items() if k != "base_fingerprint"}
    with pytest.raises(RuntimeError, match="base_fingerprint"):
        second.load_state_dict(state)
    around = nn.ModuleDict({"h": second})
    with pytest.raises(RuntimeError, match="state_dict: got that of another base"):
        around.load_state_dict({f"h.{k}": v for k, v in first.state_dict().items()})
    around.load_state_dict(nn.ModuleDict({"h": second}).state_dict())


def test_kept_parameters_keep_their_class_and_attributes() -> None:
    class Marked(nn.Parameter):
        pass

    target = mlp()
    target[0].weight = Marked(target[0].weight.detach())  # type: ignore[index, assignment]
    target[0].weight.sharded = "rows"  # type: ignore[index, union-attr]
    hnet = make(target, layout={"2.*": hl.Full()})
    kept = dict(hnet.kept.tensors())["0.weight"]
    assert type(kept) is Marked
    assert kept.sharded == "rows"  # type: ignore[attr-defined]


def test_gradients_reach_all_that_is_learned() -> None:
    hnet = make(layout=LAYOUTS["mix"], trunk=hl.MLP(6), form={"0.*": hl.Delta(trained=True)})
    hnet(X, condition=[0, 1]).square().sum().backward()
    without = [n for n, p in hnet.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    # Ids that were not asked for get none.
    assert not hnet.condition.table[0].grad[2].any()  # type: ignore[index, union-attr]
