"""What a target keeps from call to call, and what an attempt could leave behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import hyperloom.torch as hl
from tests.on_torch.silent import IDS, Two, gradients, inputs, loop, made, target

pytestmark = pytest.mark.filterwarnings("ignore::hyperloom.SlowWarning")


class Counter:
    """Counts in an object."""

    def __init__(self) -> None:
        self.n = 0

    def next(self) -> int:
        self.n += 1
        return self.n


class Keeps(Two):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.number = True, 0
        self.named = {"n": 0}
        self.listed: list[Any] = []
        self.counter = Counter()
        self.tensors = {"a": [torch.zeros((), dtype=torch.float64)]}
        self.deep = [[{"n": [0]}]]


def _bool(self: Any, x: Tensor) -> Tensor:
    y = self.layer(x) * (10 if self.first else 1)
    self.first = False
    return y


def _number(self: Any, x: Tensor) -> Tensor:
    self.number += 1
    return self.layer(x) * self.number


def _dict(self: Any, x: Tensor) -> Tensor:
    self.named["n"] += 1
    return self.layer(x) * self.named["n"]


def _list(self: Any, x: Tensor) -> Tensor:
    self.listed.append(1)
    return self.layer(x) * len(self.listed)


def _tensor(self: Any, x: Tensor) -> Tensor:
    self.tensors["a"][0].add_(1.0)
    return self.layer(x) * self.tensors["a"][0]


def _last(self: Any, x: Tensor) -> Tensor:
    y = self.layer(x)
    self.listed = [y, *self.listed][:2]
    return y + self.listed[-1].detach()


def _deep(self: Any, x: Tensor) -> Tensor:
    held = self.deep[0][0]["n"]
    held[0] += 1
    return self.layer(x) * held[0]


STATES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "bool": _bool,
    "number": _number,
    "dict": _dict,
    "list": _list,
    "object": lambda self, x: self.layer(x) * self.counter.next(),
    "tensor-two-levels-deep": _tensor,
    "last-output": _last,
    "four-levels-deep": _deep,
}


def _one_after_the_other(hnet: hl.HyperNetwork, x: Tensor, calls: int) -> list[Tensor]:
    return [torch.stack([hnet(x[i], condition=i) for i in IDS]) for _ in range(calls)]


@pytest.mark.parametrize("name", STATES)
def test_a_batch_keeps_what_single_calls_would(name: str) -> None:
    module, x = target(STATES[name], Keeps), inputs()
    hnet, singles = made(module), made(module)
    for wanted in _one_after_the_other(singles, x, 3):
        torch.testing.assert_close(hnet(x, condition=IDS), wanted)


@pytest.mark.parametrize("name", STATES)
def test_vmap_alone_refuses_what_is_kept(name: str) -> None:
    module, x = target(STATES[name], Keeps), inputs()
    hnet = made(module)
    hnet.execution = hl.Execution(strategy="vmap")
    for _ in range(2):
        with pytest.raises(RuntimeError):
            hnet(x, condition=IDS)
    hnet.execution = hl.Execution()  # and has left no trace
    torch.testing.assert_close(hnet(x, condition=IDS), *_one_after_the_other(made(module), x, 1))


def _late(self: Any, x: Tensor) -> Tensor:
    if x.shape[0] > 2:
        self.number += 1
    return self.layer(x) * (1 + self.number)


def test_what_is_changed_for_the_first_time_in_a_later_call() -> None:
    module = target(_late, Keeps)
    hnet, singles = made(module), made(module)
    for x in (inputs(), inputs(), inputs(5, 4), inputs(5, 4), inputs()):
        (wanted,) = _one_after_the_other(singles, x, 1)
        torch.testing.assert_close(hnet(x, condition=IDS), wanted)


def test_what_is_computed_once_is_no_reason_to_loop() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        if getattr(self, "table", None) is None:
            self.table = torch.arange(4.0, dtype=x.dtype)
        self.named.setdefault("sizes", x.shape[-1])
        return self.layer(x) + self.table

    module = target(forward, Keeps)
    hnet, x = made(module), inputs()
    torch.testing.assert_close(hnet(x, condition=IDS), loop(hnet, module, x))
    assert hnet.explain(x, condition=IDS).strategy == "vmap"


def test_counts_of_targets_that_checkpoint() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        self.number += 1
        return self.number * checkpoint(self.layer, x, use_reentrant=False)

    hnet, x = made(target(forward, Keeps)), inputs()
    plain = made(target(lambda self, x: self.layer(x), Keeps))(x[0], condition=0)
    for number in (1, 2, 3):
        torch.testing.assert_close(hnet(x[0], condition=0), number * plain)


# ---- inputs -------------------------------------------------------------------------------------


def test_an_attempt_writes_into_no_input() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        x.mul_(2.0)
        y = self.layer(x)
        return y if y.sum().item() > -1e9 else x

    hnet = made(target(forward))
    wanted = loop(hnet, target(forward), inputs())
    with torch.no_grad():  # slices of one input that are written are not to be differentiated
        for _ in range(3):
            x = inputs()
            torch.testing.assert_close(hnet(x, condition=IDS), wanted)
            torch.testing.assert_close(x, 2 * inputs())  # once, as a plain call would


@torch.no_grad()
def test_inputs_that_are_written_at_once() -> None:
    module = target(lambda self, x: self.layer(x.mul_(2.0)))
    for strategy in ("auto", "vmap", "loop"):
        hnet, x = made(module), inputs()
        hnet.execution = hl.Execution(strategy=strategy)  # type: ignore[arg-type]
        for power in (2, 4):
            hnet(x, condition=IDS)
            torch.testing.assert_close(x, power * inputs())


def test_lists_that_the_target_fills() -> None:
    def forward(self: Any, x: Tensor, found: list[Any], named: dict[str, Any]) -> Tensor:
        found.append(self.layer(x).square().mean())
        named["n"] = named.get("n", 0) + 1
        return self.layer(x)

    hnet, x = made(target(forward)), inputs()
    for _ in range(2):
        found: list[Any] = []
        named: dict[str, Any] = {}
        y = hnet(x, found, condition=IDS, named=named)
        assert named == {"n": 3}
        torch.testing.assert_close(torch.stack(found), y.square().mean((1, 2)))
        (torch.stack(found).sum()).backward()


def test_features_that_hooks_store_can_be_used_after_the_call() -> None:
    features: dict[str, Tensor] = {}
    module: Any = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).double()
    module[0].register_forward_hook(lambda m, i, o: features.update(a=o))
    hnet, x = made(module), inputs()
    y = hnet(x, condition=IDS)
    torch.testing.assert_close(features["a"].relu(), y[-1])
    assert any(bool(g.any()) for g in gradients(hnet, features["a"]))


SEEN: list[Any] = []


def test_a_global_list_gets_an_entry_of_each_condition() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        SEEN.append(len(SEEN))
        return self.layer(x)

    hnet = made(target(forward))
    SEEN.clear()
    hnet(inputs(), condition=IDS)
    assert SEEN == [0, 1, 2]
