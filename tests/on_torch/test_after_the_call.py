"""What a target does when the call is over: functions with a backward pass of their own, modules
that are run again, distributions that are evaluated later, leaves that gradients are taken for.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function

import hyperloom.torch as hl
from tests.on_torch.silent import IDS, close_and_some, gradients, inputs, made

pytestmark = pytest.mark.filterwarnings("ignore::hyperloom.SlowWarning")

FORMS: dict[str, Any] = {
    "whole": {},
    "lora": {"form": {"*.weight": hl.LoRA(1)}},
    "chunked": {"layout": hl.Chunked(5, embedding=2)},
}


def as_modules(hnet: hl.HyperNetwork, module: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return outputs and gradients of plain modules that own their weights, one by one."""
    params, outputs = hnet.generate(IDS), []
    found: dict[str, list[Tensor]] = {name: [] for name in params}
    for i in range(len(IDS)):
        one = copy.deepcopy(module)
        own = {n: nn.Parameter(value[i].detach().clone()) for n, value in params.items()}
        for name, value in own.items():
            path, _, key = name.rpartition(".")
            one.get_submodule(path)._parameters[key] = value
        y = one(x[i])
        y.square().sum().backward()
        outputs.append(y.detach())
        for name, value in own.items():
            found[name].append(torch.zeros_like(value) if value.grad is None else value.grad)
    grads = torch.autograd.grad(
        list(params.values()),
        list(hnet.parameters()),
        [torch.stack(found[name]) for name in params],
        allow_unused=True,
        materialize_grads=True,
    )
    return torch.stack(outputs), list(grads)


def assert_like_modules(module: nn.Module, **choices: Any) -> hl.HyperNetwork:
    """Compare every way of running with plain modules: outputs and gradients."""
    hnet, x = made(module, **choices), inputs()
    wanted, theirs = as_modules(hnet, module, x)
    rows, flat = torch.arange(3).repeat_interleave(2), x.flatten(0, 1)
    calls: dict[str, Any] = {
        "batch": lambda: hnet(x, condition=IDS),
        "alone": lambda: torch.stack([hnet(x[i], condition=i) for i in IDS]),
        "bound": lambda: hnet.bind(IDS)(x),
        "bound alone": lambda: torch.stack([hnet.bind(i)(x[i]) for i in IDS]),
        "rows": lambda: hnet(flat, condition=IDS, rows=rows).unflatten(0, (3, 2)),
    }
    executions = (hl.Execution(), hl.Execution(recompute=True), hl.Execution(strategy="loop"))
    for number, execution in enumerate(executions):
        hnet.execution = execution
        for name, call in list(calls.items())[: None if not number else 1]:
            for _ in range(2):
                y = call()
                torch.testing.assert_close(y, wanted, msg=lambda text, n=name: f"{n}: {text}")
                close_and_some(gradients(hnet, y), theirs)
    return hnet


# ---- functions with a backward pass of their own ------------------------------------------------


class Product(Function):
    """As they were written before `setup_context`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x @ w

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
        x, w = ctx.saved_tensors
        return g @ w.mT, x.mT @ g


class NewProduct(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, w: Tensor) -> Tensor:  # type: ignore[override]
        return x @ w

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
        return Product.backward(ctx, g)


class Late(Product):
    """Reads what it was given in the backward pass only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
        return g, ctx.saved_tensors[1] * g.sum()


class Applies(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.function.apply(self.first(x), self.last.weight) + self.last.bias


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("function", [Product, NewProduct])
def test_functions_with_a_backward_pass_of_their_own(function: Any, form: str) -> None:
    assert_like_modules(Applies(function).double(), **FORMS[form])


def test_a_stand_in_that_only_the_backward_pass_reads_is_no_secret() -> None:
    hnet, x = made(Applies(Late).double(), **FORMS["lora"]), inputs()
    y = hnet(x[0], condition=0)
    with pytest.raises(RuntimeError, match="uses a generated weight, which is to be formed"):
        y.sum().backward()


# ---- modules that are run again -----------------------------------------------------------------


class Again(Function):
    """Runs a module, and once more in the backward pass."""

    @staticmethod
    def forward(ctx: Any, run: Any, x: Tensor, *params: Tensor) -> Tensor:
        ctx.run = run
        ctx.save_for_backward(x, *params)
        with torch.no_grad():
            return run(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
        x, *params = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            found = torch.autograd.grad(ctx.run(x), [x, *params], g, allow_unused=True)
        return None, *found


class Checkpoints(nn.Module):
    """A checkpoint function of its own, around a layer, a method or steps of an ODE."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.inner, self.outer = nn.Linear(4, 4), nn.Linear(4, 4)

    def steps(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = x + self.inner(x).tanh() / 3
        return x

    def forward(self, x: Tensor) -> Tensor:
        run: Any = {"layer": self.inner, "ode": self.steps, "lambda": lambda x: self.inner(x).sin()}
        return self.outer(Again.apply(run[self.kind], x, *self.inner.parameters()))


class Implicit(Function):
    """The fixed point of a module; its backward pass runs the module."""

    @staticmethod
    def forward(ctx: Any, module: Any, x: Tensor, *params: Tensor) -> Tensor:
        z = torch.zeros_like(x)
        for _ in range(20):
            z = module.step(z, x)
        ctx.module = module
        ctx.save_for_backward(z, x, *params)
        return z

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
        z, x, *params = ctx.saved_tensors
        with torch.enable_grad():
            z, x = z.detach().requires_grad_(), x.detach().requires_grad_()
            y, total = ctx.module.step(z, x), g
            for _ in range(20):
                total = torch.autograd.grad(y, z, total, retain_graph=True)[0] + g
            return None, *torch.autograd.grad(y, [x, *params], total, allow_unused=True)


class FixedPoint(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 4), nn.Linear(4, 4)

    def step(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(0.03 * self.inner(z) + self.outer(x))

    def forward(self, x: Tensor) -> Tensor:
        return Implicit.apply(self, x, *self.parameters())


MODULES: dict[str, Any] = {
    "layer": functools.partial(Checkpoints, "layer"),
    "ode": functools.partial(Checkpoints, "ode"),
    "lambda": functools.partial(Checkpoints, "lambda"),
    "implicit": FixedPoint,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MODULES)
def test_modules_that_the_backward_pass_runs_again(name: str, form: str) -> None:
    assert_like_modules(MODULES[name]().double(), **FORMS[form])


# ---- what is evaluated later ---------------------------------------------------------------------


class Later:
    """A distribution that runs a layer when it is asked."""

    def __init__(self, layer: nn.Module, x: Tensor) -> None:
        self.layer, self.x = layer, x

    def log_prob(self, y: Tensor) -> Tensor:
        return -(y - self.layer(self.x)).square().sum(-1)


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Later:
        return Later(self.inner, x)


@pytest.mark.parametrize("strategy", ["auto", "loop"])
@pytest.mark.parametrize("form", FORMS)
def test_distributions_that_are_evaluated_later(form: str, strategy: Any) -> None:
    hnet, x, y = made(Lazy().double(), **FORMS[form]), inputs(), inputs()[0]
    hnet.execution = hl.Execution(strategy=strategy)
    params = hnet.generate(IDS)
    means = torch.einsum("bni,boi->bno", x, params["inner.weight"]) + params["inner.bias"][:, None]
    wanted = -(y - means).square().sum(-1)
    later: list[Tensor] = []
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            together, alone = hnet(x, condition=IDS), [hnet(x[i], condition=i) for i in IDS]
            later = [torch.stack([one.log_prob(y) for one in each]) for each in (together, alone)]
            torch.testing.assert_close(later, [wanted, wanted])
    theirs = gradients(hnet, wanted)
    for found in later:
        close_and_some(gradients(hnet, found), theirs)


def test_what_is_cached_by_module_is_no_reason_to_copy() -> None:
    class Cached(Lazy):
        @functools.lru_cache  # noqa: B019 as it is written in real targets
        def table(self) -> Tensor:
            return torch.arange(4.0, dtype=torch.float64)

        def forward(self, x: Tensor) -> Any:
            return self.inner(x) + self.table()

    module = Cached().double()
    hnet, x = made(module), inputs()
    for _ in range(3):
        y = hnet(x, condition=IDS)
        torch.testing.assert_close(y[1], hnet(x[1], condition=1))
    assert hnet.explain(x, condition=IDS).strategy == "vmap"
    assert not hnet._runner.skeleton.outliving


# ---- leaves that gradients are taken for --------------------------------------------------------


class Siren(nn.Module):
    """Takes its coordinates as a leaf, and returns it beside the output."""

    def __init__(self, assigns: bool = False) -> None:
        super().__init__()
        self.first, self.last, self.assigns = nn.Linear(2, 8), nn.Linear(8, 1), assigns

    def forward(self, coords: Tensor) -> tuple[Tensor, Tensor]:
        if self.assigns:
            coords = coords.clone().detach()
            coords.requires_grad = True
        else:
            coords = coords.clone().detach().requires_grad_(True)
        return self.last(self.first(coords).sin()), coords


def laplacian(y: Tensor, x: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
    return second


def together(hnet: hl.HyperNetwork, x: Tensor, how: str) -> Tensor:
    if how == "shared":
        return laplacian(*hnet(x[0], condition=IDS, in_dims=None))
    if how == "turned":
        return laplacian(*hnet(x.movedim(0, 1), condition=IDS, in_dims=1))
    if how == "two axes":
        return laplacian(*hnet(x[None], condition=torch.tensor([IDS]))).squeeze(0)
    if how == "bound":
        return laplacian(*hnet.bind(IDS)(x))
    if how == "rows":
        rows = torch.tensor([0, 1, 2]).repeat(5)
        of_rows = x.movedim(0, 1).flatten(0, 1)
        found = laplacian(*hnet(of_rows, condition=IDS, rows=rows))
        return found.unflatten(0, (5, 3)).movedim(0, 1)
    if how == "recomputed":
        hnet.execution = hl.Execution(recompute=True)
    return laplacian(*hnet(x, condition=IDS))


@pytest.mark.parametrize("form", [{}, {"form": {"*.weight": hl.LoRA(1)}}], ids=["whole", "lora"])
@pytest.mark.parametrize(
    "how", ["batch", "shared", "turned", "two axes", "bound", "rows", "recomputed"]
)
def test_a_leaf_that_is_returned_beside_the_output(how: str, form: Any) -> None:
    hnet, x = made(Siren(how == "shared").double(), **form), inputs(5, 2)
    for _ in range(2):
        found = together(hnet, x, how)
        each = x[:1].expand(3, 5, 2) if how == "shared" else x
        wanted = torch.stack([laplacian(*hnet(each[i], condition=i)) for i in IDS])
        torch.testing.assert_close(found, wanted)
        close_and_some(gradients(hnet, found), gradients(hnet, wanted))
    assert not x.requires_grad
    assert hnet.explain(x, condition=IDS).strategy == "vmap"


def test_an_input_is_not_made_a_leaf() -> None:
    class Marks(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x.requires_grad_())

    hnet, x = made(Marks(4, 4).double()), inputs()
    hnet(x, condition=IDS)
    y = hnet(x, condition=IDS)
    assert not x.requires_grad
    torch.testing.assert_close(y[2], hnet(x[2].clone(), condition=2))
    assert hnet.explain(x, condition=IDS).strategy == "loop"
