"""Layers evaluated from the parts of generated weights: the same as with dense weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, vmap

import hyperloom.torch as hl
from hyperloom import extend
from tests._support.cases import STRUCTURED
from tests.core.test_extend import Directions

WAYS = ("inputs", "outputs", "dense")


@dataclass(frozen=True, repr=False)
class Bounded(extend.OnBase):
    """A form of a user's own, with arithmetic of its own."""

    def structure(self, tensor: extend.TensorSpec) -> extend.Structure:
        return extend.Formed(lambda parts, base: base + parts[0] / (1 + abs(parts[0])))


FORMS = STRUCTURED | {
    "directions": Directions(2),
    "bounded": Bounded(),
}


class Custom(nn.Module):
    """A network with a forward of its own: not a chain."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8)
        self.second = nn.Linear(8, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.norm(self.first(x)))) + x[..., :4]


class Tied(nn.Module):
    """An embedding whose matrix is also the output layer, and is read in other ways."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.hidden = nn.Linear(6, 6)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        h = self.hidden(self.table(ids)).tanh()
        return F.linear(h, self.table.weight) + h @ self.table.weight.t() * 0.5


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x)[0]


class Flat(nn.Module):
    """Rows of many numbers in the input, one in the layer."""

    def __init__(self, rows: int = 1) -> None:
        super().__init__()
        self.layer, self.rows = nn.Linear(64, 32), rows

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1).repeat(self.rows, 1))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.ConvTranspose2d(4, 3, 2, stride=2),
    )


TARGETS = {
    "chain": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 4)),
        lambda b: torch.randn(b, 5, 6),
    ),
    "custom": (Custom, lambda b: torch.randn(b, 5, 6)),
    "one row": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4)),
        lambda b: torch.randn(b, 6),
    ),
    "rows of rows": (Custom, lambda b: torch.randn(b, 2, 3, 6)),
    "tied": (Tied, lambda b: torch.randint(0, 11, (b, 7))),
    "attention": (Attention, lambda b: torch.randn(b, 2, 5, 8)),
    "bilinear": (lambda: Two(nn.Bilinear(3, 4, 5)), lambda b: torch.randn(b, 6, 7)),
    "conv1d": (lambda: nn.Conv1d(2, 4, 3, padding="same"), lambda b: torch.randn(b, 3, 2, 8)),
    "conv2d": (convolutions, lambda b: torch.randn(b, 3, 2, 9, 9)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), lambda b: torch.randn(b, 2, 2, 4, 4, 4)),
    "unbatched conv": (lambda: nn.Conv2d(2, 3, 3), lambda b: torch.randn(b, 2, 5, 5)),
}


class Two(nn.Module):
    """Feeds two halves of its input to a layer of two inputs."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x[..., :3], x[..., 3:])


# The cost model has a say in sums of templates only; one way is enough for the other forms.
CASES = [
    pytest.param(form, way, id=f"{form}-{way}")
    for form in FORMS
    for way in (WAYS if form in ("whole", "delta", "templates") else ("inputs",))
]


def dense_run(hnet: hl.HyperNetwork, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    """Run plain modules on dense tensors, by hand."""
    params = hnet.generate(condition)
    module = hnet.instantiate(condition[0])
    own = dict(module.named_parameters())
    kept = {name: own[name].detach() for name in hnet.plan.kept}
    return vmap(lambda p, x: functional_call(module, {**kept, **p}, (x,)))(params, x)


def with_gradients(hnet: hl.HyperNetwork, y: torch.Tensor) -> list[torch.Tensor]:
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    parameters = list(hnet.parameters())
    gradients = torch.autograd.grad((y * weights).sum(), parameters, allow_unused=True)
    return [
        y,
        *(
            torch.zeros_like(p) if g is None else g
            for g, p in zip(gradients, parameters, strict=True)
        ),
    ]


def jiggle(hnet: hl.HyperNetwork) -> None:
    """Move every parameter off its start, where deltas are zero."""
    with torch.no_grad():
        for parameter in hnet.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


def forms_for(target: nn.Module, form: Any) -> dict[str, Any]:
    matrices = {n: form for n, p in target.named_parameters() if p.ndim >= 2}
    return (
        {**matrices, "*": hl.Whole()}
        if len(matrices) < len(list(target.parameters()))
        else matrices
    )


# The plain run under vmap, which ours is compared with, loops over bilinear layers and says so.
@pytest.mark.filterwarnings("ignore:There is a performance drop.*bilinear")
@pytest.mark.parametrize(("form", "way"), CASES)
@pytest.mark.parametrize("target", TARGETS)
def test_forms_equal_dense(target: str, form: str, way: str, take: Callable[[str], None]) -> None:
    take(way)
    make, inputs = TARGETS[target]
    module = make().double()
    hnet = hl.HyperNetwork(
        module, condition=hl.Embedding(4, 5), form=forms_for(module, FORMS[form])
    )
    jiggle(hnet)
    condition = torch.tensor([2, 0, 3])
    x = inputs(3)
    x = x.double() if x.is_floating_point() else x
    ours = with_gradients(hnet, hnet(x, condition=condition))
    theirs = with_gradients(hnet, dense_run(hnet, x, condition))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layout", [hl.Full(), hl.Chunked(3)], ids=repr)
@pytest.mark.parametrize("form", [hl.Shift(), hl.Scale(), hl.RankOne()], ids=repr)
@pytest.mark.parametrize(
    ("target", "shape"),
    [
        (nn.Conv2d(3, 4, 1), (3, 5, 5)),
        (nn.Conv1d(3, 1, 2), (3, 5)),
        (nn.Linear(3, 1), (3,)),
        (nn.Linear(1, 3), (1,)),
        (nn.Linear(1, 1), (1,)),
        (nn.Bilinear(2, 3, 4), None),
    ],
    ids=str,
)
def test_factors_of_axes_of_length_one(
    target: nn.Module, shape: tuple[int, ...] | None, form: extend.Form, layout: extend.Layout
) -> None:
    hnet = hl.HyperNetwork(
        target.double(), condition=hl.Vector(3), layout=layout, form={"weight": form}
    )
    jiggle(hnet)
    condition = torch.randn(5, 3).double()
    inputs = [torch.randn(5, 2, *s).double() for s in ((2,), (3,)) if shape is None]
    inputs = inputs or [torch.randn(5, 2, *(shape or ())).double()]
    made = hnet(*inputs, condition=condition)
    for i, row in enumerate(condition):
        alone = hnet(*(x[i] for x in inputs), condition=row)
        torch.testing.assert_close(made[i], alone, rtol=1e-10, atol=1e-10)


def test_a_layer_counts_the_rows_that_it_has() -> None:
    x, c = torch.randn(256, 1, 8, 8), torch.randn(256, 4)
    hnet = hl.HyperNetwork(Flat(), condition=hl.Vector(4))
    used = hnet.explain(x, condition=c)["layer.weight"]
    assert used.layer is not None
    assert used.layer.rows == 1
    assert used.choice != "dense"
    hnet(x, condition=c)
    assert all(way.from_parts for way in hnet._runner.memory.routes.values())
    many = hl.HyperNetwork(Flat(500), condition=hl.Vector(4))
    for _ in range(2):
        used = many.explain(x, condition=c)["layer.weight"]
        assert used.layer is not None
        assert (used.layer.rows, used.choice) == (500, "dense")


def test_ways_can_be_forced() -> None:
    x, c = torch.randn(8, 5, 6), torch.randn(8, 4)
    hnet = hl.HyperNetwork(Custom(), condition=hl.Vector(4))
    wanted = hnet(x, condition=c)
    for way in WAYS:
        hnet.execution = hl.Execution(ways={"first.*": way})
        torch.testing.assert_close(hnet(x, condition=c), wanted, rtol=1e-5, atol=1e-5)
        assert hnet.explain(x, condition=c)["first.weight"].choice == way
    images = hl.HyperNetwork(nn.Conv2d(2, 3, 3), condition=hl.Vector(4))
    images.execution = hl.Execution(ways={"weight": "inputs"})
    with pytest.raises(ValueError, match="'inputs' for 'weight'; wanted 'dense' or 'outputs'"):
        images(torch.randn(3, 2, 2, 5, 5), condition=c[:3])
    layout = {"first.weight": hl.Full()}
    lora = hl.HyperNetwork(Custom(), condition=hl.Vector(4), layout=layout, form=hl.LoRA(2))
    lora.execution = hl.Execution(ways={"first.weight": "outputs"})
    with pytest.raises(ValueError, match="wanted 'dense': it is no sum of templates"):
        lora(x, condition=c)
    lora.execution = hl.Execution(ways={"first.weight": "dense"})
    assert lora.explain(x, condition=c)["first.weight"].choice == "dense"
    with pytest.raises(ValueError, match=r"Execution\(ways=\): got 'third.*' which|third"):
        lora.execution = hl.Execution(ways={"third.*": "dense"})
    with pytest.raises(ValueError, match=r"Execution\(ways=\)\['a'\]: got 'formed'; wanted"):
        hl.Execution(ways={"a": "formed"})
    with pytest.raises(TypeError, match=r"Execution\(ways=\): got .*; wanted a dict"):
        hl.Execution(ways="dense")  # type: ignore[arg-type]


def test_shared_and_unused_tensors_are_named_as_such() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.scaled = nn.Linear(4, 3), nn.Parameter(torch.ones(3, 3))
            self.unused, self.all = nn.Linear(4, 3), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.all(self.used(x)) @ self.scaled.exp()

    layout = {"all.*": hl.Shared(), "*": hl.Full()}
    hnet = hl.HyperNetwork(Half(), condition=hl.Vector(4), layout=layout)
    for strategy in ("vmap", "rows"):
        hnet.execution = hl.Execution(strategy=strategy)
        told = hnet.explain(torch.randn(3, 2, 4), condition=torch.randn(3, 4))
        found = {use.tensor: use.choice for use in told.used if "bias" not in use.tensor}
        assert found["unused.weight"] == "unused"
        assert found["all.weight"] == "shared"
        assert "unused" not in (found["used.weight"], found["scaled"])
        assert "not used by this call" in repr(told)
