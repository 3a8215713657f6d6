"""Objects in and out of ordinary batches: dataclasses, registered trees, and any other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import register_pytree_node

import hyperloom.torch as hl

IDS = [3, 0, 2]


@dataclass
class State:
    """A recurrent state, as a dataclass."""

    h: Tensor
    step: int = 0
    more: dict[str, Tensor] | None = None

    def __post_init__(self) -> None:
        self.h.sum()


@dataclass(frozen=True)
class Outer:
    """A dataclass in one."""

    inner: State
    name: str


class Registered:
    """A class that PyTorch's trees know."""

    def __init__(self, h: Tensor) -> None:
        self.h = h


register_pytree_node(Registered, lambda r: ([r.h], None), lambda parts, _: Registered(*parts))


class Cell(nn.Module):
    """A step of a recurrence whose state is an object."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.inner, self.outer = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        h = self.outer(x) + (0 if state is None else self.inner(self.read(state)))
        h = h.tanh()
        if self.kind == "state":
            return h, State(h, 0 if state is None else state.step + 1, {"x": x})
        if self.kind == "outer":
            return h, Outer(State(h), "outer")
        if self.kind == "registered":
            return h, Registered(h)
        return h, torch.distributions.Normal(h, 1.0)

    def read(self, state: Any) -> Tensor:
        if self.kind == "outer":
            return state.inner.h
        return state.loc if self.kind == "distribution" else state.h

    def spoil(self, x: Tensor, state: State) -> Tensor:
        state.h = x
        return self.outer(x)


def hypernetwork(kind: str, strategy: Any = "auto") -> hl.HyperNetwork:
    torch.manual_seed(0)
    execution = hl.Execution(strategy=strategy)
    return hl.HyperNetwork(Cell(kind), condition=hl.Embedding(5, 4), execution=execution)


@pytest.mark.filterwarnings("ignore::hyperloom.SlowWarning")
@pytest.mark.parametrize("way", ["call", "bind", "loop", "rows"])
@pytest.mark.parametrize("kind", ["state", "outer", "registered", "distribution"])
def test_what_one_call_returns_the_next_one_takes(kind: str, way: str) -> None:
    hnet = hypernetwork(kind, way if way in ("loop", "rows") and kind != "distribution" else "auto")
    x = torch.randn(3, 2, 4)
    net: Any = hnet.bind(IDS) if way == "bind" else lambda *a: hnet(*a, condition=IDS)
    state: Any = None
    for _ in range(2):
        y, state = net(x)
        y, state = net(x, state)
        for i, number in enumerate(IDS):
            alone, its = hnet(x[i], condition=number)
            alone, its = hnet(x[i], its, condition=number)
            assert torch.allclose(y[i], alone, atol=1e-6)
            if kind == "state":
                assert state.step == its.step == 1
                assert torch.equal(state.more["x"][i], x[i])
    kinds = {"state": State, "outer": Outer, "registered": Registered, "distribution": list}
    assert isinstance(state, kinds[kind])
    if kind != "distribution":
        assert hnet.explain(x, state, condition=IDS).strategy != ("loop" if way == "call" else "")


def test_one_condition_gets_and_gives_the_objects_themselves() -> None:
    class Same(nn.Linear):
        def forward(self, state: State) -> State:  # type: ignore[override]
            return state

    hnet, state = hl.HyperNetwork(Same(4, 4), condition=hl.Embedding(5, 4)), State(torch.ones(2))
    assert hnet(state, condition=1) is state


@pytest.mark.filterwarnings("ignore::hyperloom.SlowWarning")
def test_a_dataclass_that_is_changed_and_objects_too_few_are_refused() -> None:
    hnet, x = hypernetwork("state"), torch.randn(3, 2, 4)
    state = hnet(x, condition=IDS)[1]
    with pytest.raises(ValueError, match="inputs: got a State that the target changes; wanted one"):
        hnet(x, state, condition=IDS, method="spoil")
    with pytest.raises(ValueError, match=r"input 1.h: got shape \(3, 2, 4\) beside"):
        hnet(x[:2], state, condition=IDS[:2])
    hnet = hypernetwork("distribution")
    normals = hnet(x, condition=IDS)[1]
    wanted = r"input 1: got 3 objects beside conditions \(2,\); wanted one for each condition"
    with pytest.raises(ValueError, match=wanted):
        hnet(x[:2], normals, condition=IDS[:2])
