"""Generated tensors that Python sees where PyTorch's overrides do not reach: never other memory.

A product with a meta tensor gives uninitialised memory (torch 2.13, on the CPU).
"""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.utils.checkpoint import checkpoint

import hyperloom.torch as hl
from hyperloom.torch._target.placeholder import Placeholder
from tests.on_torch.silent import IDS, Two, assert_exact, inputs, loop, made, target

pytestmark = [
    pytest.mark.filterwarnings("ignore::hyperloom.SlowWarning"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated"),
    pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated"),
]


@functools.cache
def scripted() -> Any:
    def product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return x @ w

    return torch.jit.script(product)


class Holds(Two):
    """Keeps its matrix in other places than its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.listed = [self.matrix]
        self.nested = {"a": (self.matrix, [self.layer.weight])}
        self.partial = functools.partial(torch.matmul, other=self.matrix)


FORWARDS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "scripted": lambda self, x: scripted()(x, self.matrix),
    "vmap": lambda self, x: vmap(lambda w: x @ w, out_dims=-1)(self.matrix),
    "grad": lambda self, x: grad(lambda w: (x @ w).square().sum())(self.matrix),
    "partial": lambda self, x: functools.partial(torch.matmul, other=self.matrix)(x),
    "copy": lambda self, x: self.layer(x) @ copy.copy(self.matrix),
    "as-tensor": lambda self, x: x @ torch.as_tensor(self.matrix),
    "as-subclass": lambda self, x: x @ self.matrix.as_subclass(Tensor),
    "iterated": lambda self, x: x @ torch.stack(list(self.matrix)),
    "indexed": lambda self, x: x @ self.matrix[:, [0, 1, 2, 3]],
    "split": lambda self, x: x @ torch.cat([self.matrix[:2], self.matrix[2:]]),
    "einsum": lambda self, x: torch.einsum("ni,io->no", x, self.matrix),
    "chain": lambda self, x: torch.linalg.multi_dot([x, self.matrix, self.matrix]),
    "checkpoint": lambda self, x: checkpoint(torch.matmul, x, self.matrix, use_reentrant=False),
    "held-in-a-list": lambda self, x: self.layer(x) @ self.listed[0],
    "held-deeper": lambda self, x: x @ self.nested["a"][0] @ self.nested["a"][1][0],
    "held-in-a-partial": lambda self, x: self.partial(self.layer(x)),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_numbers_are_those_of_the_definition(name: str) -> None:
    module = target(FORWARDS[name])
    if name.startswith("held"):
        module = target(FORWARDS[name], Holds)
        x, hnet = inputs(), made(module)
        plain = torch.stack([hnet.instantiate(i)(x[i]) for i in IDS])  # copies its lists too
        torch.testing.assert_close(hnet(x, condition=IDS), plain)
        torch.testing.assert_close(hnet(x[1], condition=1), plain[1])
        assert hnet.explain(x, condition=IDS).strategy in ("rows", "loop")
        return
    assert_exact(module)
    assert_exact(module, form={"matrix": hl.LoRA(1)})  # a stand-in, not a tensor


def test_vmap_alone_refuses_and_says_why() -> None:
    low, held = (
        made(target(FORWARDS["scripted"]), form={"matrix": hl.LoRA(1)}),
        made(target(FORWARDS["held-in-a-list"], Holds)),
    )
    for hnet, text in ((low, "TorchScript"), (held, "attribute 'listed'")):
        hnet.execution = hl.Execution(strategy="vmap")
        with pytest.raises(RuntimeError, match=text):
            hnet(inputs(), condition=IDS)


@pytest.mark.parametrize(
    "norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm], ids=["old", "new"]
)
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # the older one, in a graph
@pytest.mark.parametrize("name", ["batch", "one"])
def test_compiled_weight_norm(name: str, norm: Any) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    module = norm(nn.Conv1d(2, 2, 2)).double()
    hnet, x = made(module), inputs(2, 2, 5)
    ids, x = (torch.tensor(IDS), x) if name == "batch" else (torch.tensor(1), x[1])
    ours = torch.compile(hnet, backend="eager")(x, condition=ids)
    torch.testing.assert_close(ours, hnet(x, condition=ids))


USES: dict[str, Callable[[Tensor], Any]] = {
    "product": lambda p: torch.ones(2, 4) @ p,
    "linear": lambda p: torch.nn.functional.linear(torch.ones(2, 4), p),
    "sum": lambda p: p.sum(),
    "vmap": lambda p: vmap(lambda x: x @ p)(torch.ones(3, 2, 4)),
    "scripted": lambda p: scripted()(torch.ones(2, 4), p),
    "index": lambda p: p[0],
    "to": lambda p: p.to(torch.float64),
    "list": lambda p: p.tolist(),
    "numpy": lambda p: p.detach().numpy(),
    "item": lambda p: bool(p.detach().any()),
    "copy": lambda p: torch.empty(4, 4).copy_(p),
}


@pytest.mark.parametrize("name", USES)
def test_placeholders_raise_at_any_use(name: str) -> None:
    placeholder = nn.Parameter(Placeholder.of(torch.ones(4, 4)))
    with pytest.raises(RuntimeError):  # PlaceholderError, or torch's own before it
        USES[name](placeholder)
    for again in (copy.deepcopy(placeholder), pickle.loads(pickle.dumps(placeholder))):
        assert isinstance(again, nn.Parameter)
        assert (again.shape, again.dtype) == (placeholder.shape, placeholder.dtype)


@pytest.mark.parametrize("old", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_weights_that_hooks_compute_do_not_outlive_the_call(old: Any) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(old(nn.Linear(4, 4)), nn.Tanh()).double().eval()
    hnet, x = made(module).eval(), inputs()
    batch = hnet(x, condition=IDS)
    plain: Any = hnet.instantiate(1)
    torch.testing.assert_close(plain(x[1]), batch[1])
    fresh: Any = hnet.instantiate(1)
    torch.testing.assert_close(fresh[0].weight, plain[0].weight)
    again = pickle.loads(pickle.dumps(copy.deepcopy(hnet)))
    torch.testing.assert_close(again(x, condition=IDS), batch)


# ---- functions that hold on to the original ----------------------------------------------------


def _nested(layer: nn.Module) -> Any:
    def one(x: Tensor) -> Any:
        def two() -> Any:
            return lambda: (lambda: layer(x))()

        return two()()

    return one


class Keeper:
    """An object of the user's, with a function in it."""

    def __init__(self, function: Any) -> None:
        self.function = function


KEPT: dict[str, Callable[[nn.Module], Any]] = {
    "partial": lambda layer: functools.partial(lambda x: layer(x)),
    "partial-of-a-partial": lambda layer: functools.partial(functools.partial(lambda x: layer(x))),
    "object": lambda layer: Keeper(lambda x: layer(x)),
    "object-in-a-list": lambda layer: [[{"a": Keeper(lambda x: layer(x))}]],
    "five-deep": _nested,
    "default": lambda layer: lambda x, layer=layer: layer(x),
    "keyword-default": lambda layer: lambda x, *, layer=layer: layer(x),
    "list-in-a-closure": lambda layer: (lambda held: lambda x: held[0](x))([layer]),
}


@pytest.mark.parametrize("name", KEPT)
def test_functions_that_hold_on_to_the_original_are_refused(name: str) -> None:
    module = target(lambda self, x: self.kept(x))
    module.kept = KEPT[name](module.layer)
    with pytest.raises(ValueError, match=r"^target: got a function in 'kept' that holds on to"):
        made(module)


ELSEWHERE: list[nn.Module] = []


def test_a_global_list_of_layers_is_refused() -> None:
    module = target(lambda self, x: ELSEWHERE[0](x))
    ELSEWHERE[:] = [module.layer]
    try:
        with pytest.raises(ValueError, match=r"^target: got a function in 'forward' that holds"):
            made(module)
    finally:
        ELSEWHERE.clear()


def test_a_name_of_an_attribute_is_no_global() -> None:
    """`self.ELSEWHERE` has nothing to do with a global of that name."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.ELSEWHERE(x)

    module = target(forward)
    module.ELSEWHERE = module.layer
    ELSEWHERE[:] = [module.layer]
    try:
        hnet, x = made(module), inputs()
        torch.testing.assert_close(hnet(x, condition=IDS), loop(hnet, module, x))
    finally:
        ELSEWHERE.clear()
