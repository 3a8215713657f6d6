"""Bad choices and bad targets: refused by class and by text, with nothing changed.

A text names the argument, what it got, what was wanted, and where there is one the way out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from tests.on_torch.builders import make_shallow, shallow
from tests.on_torch.snapshots import refused

Call = Callable[[], Any]


# ---- layout, form, init: patterns and classes ----------------------------------------------------

LAYOUT_WANTED = "wanted a Layout object or a dict from name patterns to them."
FORM_WANTED = "wanted a Form object or a dict from name patterns to them."
CONDITION_WANTED = (
    "wanted a condition object (Embedding, Vector, Noise, Recurrent, Context, Concat) or a "
    "torch.nn.Mod"
)
TRUNK_WANTED = "wanted None, MLP(*widths), Transformer(width), Deconv(image) or a torch.nn.Module."
INIT_WANTED = "wanted an init object (Native, HyperfanIn, HyperfanOut, Harmonic, BiasHyperInit, "


class NoWidth(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


CHOICES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "pattern that names nothing": (
        {"layout": {"0.wieght": hl.Full()}},
        ValueError,
        "layout: got the pattern '0.wieght', which names no tensor of Sequential; wanted a pattern "
        "that names at least one. Did you mean '0.weight' or '2.weight' or '0.bias'?",
    ),
    "layout for a tensor that does not exist": (
        {"layout": {"0.*": hl.Full(), "4.weight": hl.Full()}},
        ValueError,
        "layout: got the pattern '4.weight', which names no tensor of Sequential; wanted",
    ),
    "form for a tensor that does not exist": (
        {"form": {"4.weight": hl.Delta()}},
        ValueError,
        "form: got the pattern '4.weight', which names no tensor of Sequential; wanted",
    ),
    "form for a tensor that is not generated": (
        {"layout": {"0.*": hl.Full()}, "form": {"2.*": hl.Delta()}},
        ValueError,
        "form: got a form for '2.weight', which no layout generates; wanted forms for generated",
    ),
    "two layouts, the second shadowed": (
        {"layout": {"*": hl.Full(), "0.weight": hl.Shared()}},
        ValueError,
        "layout: got two choices for the same tensors: '0.weight' names only what '*' has; wanted "
        "at most one for each. The first match wins: reorder.",
    ),
    "two forms, the second shadowed": (
        {"form": {"*": hl.Whole(), "0.weight": hl.Delta()}},
        ValueError,
        "form: got two choices for the same tensors: '0.weight' names only what '*' has; wanted",
    ),
    "no layout at all": (
        {"layout": {}},
        ValueError,
        f"layout: got an empty dict; {LAYOUT_WANTED}",
    ),
    "layout class": (
        {"layout": hl.Full},
        TypeError,
        f"layout: got the class Full; {LAYOUT_WANTED} Call it: Full(...).",
    ),
    "layout class in a dict": (
        {"layout": {"*": hl.Chunked}},
        TypeError,
        f"layout: got '*': the class Chunked; {LAYOUT_WANTED} Call it: Chunked(...).",
    ),
    "layout string": ({"layout": "full"}, TypeError, f"layout: got 'full'; {LAYOUT_WANTED}"),
    "layout is a form": ({"layout": hl.Delta()}, TypeError, "layout: got Delta(); wanted a Layout"),
    "form class": (
        {"form": hl.Delta},
        TypeError,
        f"form: got the class Delta; {FORM_WANTED} Call it: Delta(...).",
    ),
    "init class": (
        {"init": hl.HyperfanIn},
        TypeError,
        f"init: got the class HyperfanIn; {INIT_WANTED}Orthogonal, Unscaled). Call it: "
        "HyperfanIn(...).",
    ),
    "init string": ({"init": "native"}, TypeError, f"init: got 'native'; {INIT_WANTED}"),
    "condition class": (
        {"condition": hl.Embedding},
        TypeError,
        f"condition: got the class Embedding; {CONDITION_WANTED}ule. Call it: Embedding(...).",
    ),
    "condition number": ({"condition": 5}, TypeError, f"condition: got 5; {CONDITION_WANTED}"),
    "condition in Concat": (
        {"condition": hl.Concat(hl.Vector(2), len)},
        TypeError,
        f"condition: got <built-in function len>; {CONDITION_WANTED}",
    ),
    "condition module without a width": (
        {"condition": NoWidth()},
        TypeError,
        "condition: got a NoWidth whose output width cannot be told; wanted a module with an int "
        "attribute `dim`, the width of its output. Set it: module.dim = ...; then pass it as cond",
    ),
    "trunk class": (
        {"trunk": hl.MLP},
        TypeError,
        f"trunk: got the class MLP; {TRUNK_WANTED} Call it: MLP(...).",
    ),
    "trunk list": ({"trunk": [10, 10]}, TypeError, f"trunk: got [10, 10]; {TRUNK_WANTED}"),
    "trunk module without a width": (
        {"trunk": NoWidth()},
        TypeError,
        "trunk: got a NoWidth whose output width cannot be told; wanted a module with an int",
    ),
    "trunk module for inputs of another width": (
        {"trunk": nn.Linear(6, 8)},
        ValueError,
        "trunk: got a Linear that fails on 3 rows (mat1 and mat2 shapes cannot be multiplied (3x5 "
        "and 6x8)); wanted a module (rows, 5) -> (rows, 8).",
    ),
    "trunk module asked for two widths": (
        {
            "trunk": nn.Linear(5, 8),
            "layout": {"0.*": hl.Full(), "2.*": hl.Chunked(3, embedding=2)},
        },
        ValueError,
        "trunk: got one module for inputs of widths [5, 7]; wanted heads that agree on the input's "
        "width. Give the layouts one embedding width, or use MLP, which is built for each.",
    ),
    "PerCondition without ids": (
        {"condition": hl.Vector(3), "layout": hl.PerCondition()},
        ValueError,
        "layout: got per_condition heads that look up a condition id; wanted a condition with one "
        "set of ids, not Vector(3). Use Embedding(num, dim) as the condition, or as one part of",
    ),
    "chunk embeddings for each id without ids": (
        {"condition": NoWidth(), "layout": hl.Chunked(5, per_condition=True)},
        TypeError,
        "condition: got a NoWidth whose output width cannot be told",
    ),
    "PerCondition with two sets of ids": (
        {
            "condition": hl.Concat(hl.Embedding(3, 2), hl.Embedding(3, 2)),
            "layout": {"0.*": hl.PerCondition(), "*": hl.Full()},
        },
        ValueError,
        "layout: got per_condition heads that look up a condition id; wanted a condition with one "
        "set of ids, not Concat(Embedding(3, 2), Embedding(3, 2)).",
    ),
    "BiasHyperInit with Chunked": (
        {"layout": hl.Chunked(5), "init": hl.BiasHyperInit()},
        ValueError,
        "init: got BiasHyperInit() for '0.weight', which Chunked(5) generates; wanted a layout "
        "with a row for every number (Full). With form=Delta(trained=True) every layout starts as",
    ),
    "BiasHyperInit with Grouped": (
        {"layout": {"0.weight": hl.Full(), "*": hl.Grouped()}, "init": hl.BiasHyperInit()},
        ValueError,
        "init: got BiasHyperInit() for '0.bias', which Grouped() generates; wanted a layout with",
    ),
}


@pytest.mark.parametrize("name", CHOICES)
def test_choices(name: str) -> None:
    choices, error, text = CHOICES[name]
    target = shallow()
    modules = [choice for choice in choices.values() if isinstance(choice, nn.Module)]
    refused(lambda: make_shallow(target, **choices), error, text, target, *modules)


def test_two_layouts_for_one_tied_tensor() -> None:
    target = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    target[1].weight = target[0].weight
    text = (
        "layout: got two choices for one tensor: 0.weight and 1.weight are tied, '0.weight' and "
        "'1.weight' differ; wanted one choice for a tied tensor. Name it once, as '0.weight'."
    )
    layout = {"0.weight": hl.Full(), "1.weight": hl.Shared()}
    refused(lambda: make_shallow(target, layout=layout), ValueError, text, target)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: hl.Chunked(0), ValueError, "Chunked(size=): got 0; wanted an int of at least 1."),
        (
            lambda: hl.Chunked(-5),
            ValueError,
            "Chunked(size=): got -5; wanted an int of at least 1.",
        ),
        (lambda: hl.Chunked(2.0), TypeError, "Chunked(size=): got 2.0; wanted an int of at least"),  # type: ignore[arg-type]
        (
            lambda: hl.Chunked(5, embedding=0),
            ValueError,
            "Chunked(embedding=): got 0; wanted an int",
        ),
        (
            lambda: hl.Grouped(0),
            ValueError,
            "Grouped(embedding=): got 0; wanted an int of at least",
        ),
        (
            lambda: hl.Embedding(0, 5),
            ValueError,
            "Embedding(num=): got 0; wanted an int of at least",
        ),
        (lambda: hl.Vector(-1), ValueError, "Vector(dim=): got -1; wanted an int of at least 1."),
        (lambda: hl.MLP(10, 0), ValueError, "MLP(*widths): got 0; wanted an int of at least 1."),
        (
            lambda: hl.OutputRegularizer(-1.0),
            ValueError,
            "strength: got -1.0; wanted a finite number of at least 0.",
        ),
        (
            lambda: hl.OutputRegularizer(1.0, subset=0),
            ValueError,
            "subset: got 0; wanted an int of at least 1.",
        ),
    ],
)
def test_options(call: Call, error: type[Exception], text: str) -> None:
    refused(call, error, text)


# ---- the target ----------------------------------------------------------------------------------


class Holder(nn.Module):
    """A target with one odd parameter and one ordinary one."""

    def __init__(self, odd: Tensor) -> None:
        super().__init__()
        self.odd = nn.Parameter(odd, requires_grad=odd.is_floating_point())
        self.bias = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


DTYPE_TEXT = "wanted real floating-point tensors to generate. Leave it out of the layout's patterns"
TARGETS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "empty": (
        nn.Sequential,
        ValueError,
        "target: got Sequential, which has no parameters; wanted a network with at least one "
        "parameter to generate. Build its layers before it is given to the hypernetwork.",
    ),
    "without parameters": (
        nn.ReLU,
        ValueError,
        "target: got ReLU, which has no parameters; wanted",
    ),
    "only buffers": (
        lambda: nn.BatchNorm1d(3, affine=False),
        ValueError,
        "target: got BatchNorm1d, which has no parameters; wanted",
    ),
    "tensor without numbers": (
        lambda: Holder(torch.empty(0, 3)),
        ValueError,
        "target: got Holder with empty tensors ['odd']; wanted tensors with numbers.",
    ),
    "class": (
        lambda: nn.ReLU,
        TypeError,
        "target: got the class ReLU; wanted a torch.nn.Module. Call the class to make one.",
    ),
    "function": (
        lambda: torch.relu,
        TypeError,
        "target: got a builtin_function_or_method; wanted a torch.nn.Module.",
    ),
    "none": (lambda: None, TypeError, "target: got a NoneType; wanted a torch.nn.Module."),
    "lazy": (
        lambda: nn.Sequential(nn.LazyLinear(3)),
        TypeError,
        "target: got the lazy parameter '0.weight', which has no shape yet; wanted parameters with "
        "shapes. Run the target once on an example first.",
    ),
    "nan": (
        lambda: Holder(torch.full((2, 2), float("nan"))),
        ValueError,
        "target: got NaN or infinite values in 'odd'; wanted finite values, from which it is told",
    ),
}


@pytest.mark.parametrize("name", TARGETS)
def test_targets(name: str) -> None:
    build, error, text = TARGETS[name]
    target = build()
    modules = [target] if isinstance(target, nn.Module) else []
    refused(lambda: hl.HyperNetwork(target, condition=hl.Vector(3)), error, text, *modules)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.bool], ids=str)
def test_tensors_that_cannot_be_generated(dtype: torch.dtype) -> None:
    # Left alone by a layout for all, as they are not trained; here a pattern names them.
    target = Holder(torch.zeros(2, dtype=dtype))
    text = f"target: got 'odd' of dtype {str(dtype).removeprefix('torch.')}; {DTYPE_TEXT}"
    refused(lambda: make_shallow(target, layout={"odd": hl.Full()}), TypeError, text, target)


def test_tensors_that_overlap_in_memory() -> None:
    target = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 3, bias=False))
    target[1].weight = nn.Parameter(target.get_parameter("0.weight").detach().mT)
    text = (
        "target: got '0.weight' and '1.weight', which share memory with different shapes or "
        "strides; wanted parameters that are the same tensor or separate ones. Tie them in forward"
    )
    refused(lambda: make_shallow(target), ValueError, text, target)


def test_odd_parameters_may_be_kept() -> None:
    for dtype in (torch.complex64, torch.int64):
        hnet = make_shallow(Holder(torch.ones(2, dtype=dtype)), layout={"bias": hl.Full()})
        assert hnet(torch.zeros(2), condition=0).shape == (2,)


def test_values_are_needed_where_they_are_used() -> None:
    target = shallow().to("meta")
    text = (
        "target: got '0.weight' on the meta device, which has no values; wanted values to keep or "
        "to start from. Give the target its values, or generate this tensor."
    )
    refused(lambda: make_shallow(target, form=hl.Delta()), ValueError, text, target)
    refused(lambda: make_shallow(target, layout={"2.*": hl.Full()}), ValueError, text, target)
    assert make_shallow(target).generate(0)["0.weight"].shape == (4, 3)
