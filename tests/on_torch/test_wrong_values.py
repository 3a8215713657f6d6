"""Every public argument of `hyperloom.torch` is given every wrong value; see `wrong_values`."""

from __future__ import annotations

import functools
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hyperloom as core
import hyperloom.torch as hl
from tests import wrong_values
from tests.core.test_wrong_values import ELSEWHERE, missing
from tests.on_torch.snapshots import refused, snapshot
from tests.wrong_values import BOOLS, NOT_NEGATIVE, WRONG, Door, knock, public

TENSORS: dict[str, Any] = {
    "an int tensor": torch.ones(2, 3, dtype=torch.int64),
    "a bool tensor": torch.ones(2, 3, dtype=torch.bool),
    "a complex tensor": torch.ones(2, 3, dtype=torch.complex64),
    "a float64 tensor": torch.ones(2, 3, dtype=torch.float64),
    "a wide tensor": torch.ones(2, 7),
    "a long tensor": torch.ones(5, 3),
    "a scalar tensor": torch.tensor(0.5),
    "an empty tensor": torch.ones(0),
    "a meta tensor": torch.ones(2, 3, device="meta"),
    "a layer": nn.ReLU(),
}


@functools.cache
def target() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


class Plain(nn.Module):
    """A target with a forward of its own: no chain of layers, a buffer, a keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        y = x @ self.fc.weight.t() + self.fc.bias
        return y if shift is None else y + shift


CONDITIONS: dict[str, tuple[Any, Any, Any]] = {  # the choice, one raw value, and a batch of two
    "ids": (hl.Embedding(3, 4), 1, [0, 2]),
    "vector": (hl.Vector(3), torch.ones(3), torch.ones(2, 3)),
    "cos and sin": (hl.CosSin(3), torch.ones(3), torch.ones(2, 3)),
    "noise": (hl.Noise(3), None, 2),
    "concat": (
        hl.Concat(hl.Embedding(3, 4), hl.Vector(3)),
        (1, torch.ones(3)),
        ([0, 2], torch.ones(2, 3)),
    ),
    "carry": (hl.Recurrent(3, 4), torch.ones(3), torch.ones(2, 3)),
    "set": (hl.MeanPool(3), torch.ones(4, 3), torch.ones(2, 4, 3)),
}
X, X_B = torch.ones(5, 3), torch.ones(2, 5, 3)


@functools.cache
def made(condition: str = "ids", plain: bool = False) -> hl.HyperNetwork:
    torch.manual_seed(0)
    return hl.HyperNetwork(
        Plain() if plain else target(),
        condition=CONDITIONS[condition][0],
        trunk=hl.MLP(6),
        layout={"*.weight": hl.Chunked(7, embedding=3), "*.bias": hl.Full()},
    )


@functools.cache
def given(batch: bool = False) -> dict[str, Tensor]:
    """What `made()` generates, without gradient; the doors get copies of the dict."""
    condition = CONDITIONS["ids"][2 if batch else 1]
    return {name: value.detach() for name, value in made().generate(condition).items()}


# ---- what is legal, and why ---------------------------------------------------------------------

AN_ID = ("0", "2", "a NumPy int")
NO_ID = ("an empty list", "an empty tuple")
TWO = ("a NumPy array",)  # (2, 3): two vectors
SHAPES_OF_ONE = ("a long tensor",)  # (5, 3): as good as the input, and a batch of five vectors
# For one condition nothing pairs: any int is as good as any other.
DIMS = {
    1: ("None", "0", "2", "-1", "a huge int", "an empty dict"),
    2: ("None", "0", "an empty dict"),
}
VALUES = {
    "ids": {1: AN_ID, 2: AN_ID},  # one id with an input of any number of axes
    # Five vectors, and an input of five rows.
    "vector": {1: SHAPES_OF_ONE, 2: TWO},
    "cos and sin": {1: SHAPES_OF_ONE, 2: TWO},
    "noise": {1: ("None", *SHAPES_OF_ONE), 2: ("None", "2", *TWO)},
    "concat": {1: (), 2: ()},
    "carry": {1: SHAPES_OF_ONE, 2: TWO},
    # One set, of five elements or of two.
    "set": {1: (*SHAPES_OF_ONE, *TWO), 2: (*SHAPES_OF_ONE, *TWO)},
}
CONTAINERS = ("None", "an empty list", "a list", "an empty tuple", "a set")
CONTAINERS_TOO = ("an empty dict", "a dict", "a dict by int")
NONE = ("None",)
EMPTY = ("None", "an empty dict")


door = functools.partial(wrong_values.door, TENSORS)


def calls(method: str, function: Callable[[hl.HyperNetwork], Callable[..., Any]]) -> list[Door]:
    """The calls of a hypernetwork, for each kind of condition and target."""
    found = []
    for kind, (_, one, batch) in CONDITIONS.items():
        for size, value in ((1, one), (2, batch)):
            for plain in (False, True) if kind == "ids" else (False,):
                words = [kind, "a batch" if size == 2 else "one", *(["plain"] if plain else [])]
                good = {"*inputs": (X if size == 1 else X_B,), "condition": value, "in_dims": 0}
                legal = {
                    "*inputs": SHAPES_OF_ONE if size == 1 else (),
                    "condition": VALUES[kind][size],
                    "in_dims": DIMS[size],
                }
                title = f"HyperNetwork.{method} ({', '.join(words)})"
                found.append(door(title, function(made(kind, plain)), good, legal))
    return found


def generating() -> list[Door]:
    found = []
    for kind, (_, one, batch) in CONDITIONS.items():
        hnet = made(kind)
        for size, value in ((1, one), (2, batch)):
            title = f"HyperNetwork.generate ({kind}, {'a batch' if size == 2 else 'one'})"
            legal = {"condition": (*VALUES[kind][size], *OTHER_BATCH[kind])}
            found.append(door(title, hnet.generate, {"condition": value}, legal))
        ones = SHAPES_OF_ONE if kind != "set" else ()
        legal = {"condition": [name for name in VALUES[kind][1] if name not in ones]}
        found.append(
            door(f"HyperNetwork.instantiate ({kind})", hnet.instantiate, {"condition": one}, legal)
        )
    return found


# Batches of other sizes than two, where no input has to pair with them.
OTHER_BATCH = {
    "ids": ("an int tensor", *NO_ID),
    "vector": ("a long tensor", *TWO),
    "cos and sin": ("a long tensor", *TWO),
    "noise": ("2", "a long tensor", *TWO),
    "concat": (),
    "carry": ("a long tensor", *TWO),
    "set": (),
}


def rows_of_two() -> dict[str, Any]:
    return {"rows": [0, 1], "method": "forward"}


def lora(condition: str = "ids") -> hl.HyperNetwork:
    choice = CONDITIONS[condition][0]
    return hl.HyperNetwork(target(), condition=choice, form={"*.weight": hl.LoRA(1)})


def examined(*inputs: Any, **options: Any) -> None:
    """A call that fails is a finding of the doctor's: raise its text, as a call would."""
    for finding in made().doctor(*inputs, **options).about("call"):
        if finding.level == "fault":
            raise ValueError(finding.text.split(": ", 2)[2])


def hypernetwork_doors() -> list[Door]:
    choices = {
        "target": target(),
        "condition": hl.Embedding(3, 4),
        "trunk": hl.MLP(6),
        "layout": {"*.weight": hl.Chunked(7, embedding=3), "*.bias": hl.Full()},
        "form": {"*": hl.Whole()},
        "init": hl.Native(),
        "axes": {"*.weight": ("out", "in")},
        "statistics": hl.SharedStatistics(),
        "execution": hl.Execution(),
    }
    rows = rows_of_two()
    of_none = {"rows": NONE}  # two rows: a slice for each condition
    of_rows = functools.partial(made(), torch.ones(2, 3), condition=[0, 2])
    told = functools.partial(made().explain, torch.ones(2, 3), condition=[0, 2])
    optional: dict[str, Any] = dict.fromkeys(choices, NONE) | {"target": (), "condition": ()}
    plan = made().plan
    return [
        door("HyperNetwork", hl.HyperNetwork, choices, optional),
        door(
            "HyperNetwork.from_plan",
            hl.HyperNetwork.from_plan,
            {
                "target": target(),
                "plan": plan,
                "condition": None,
                "trunk": None,
                "statistics": None,
            },
            dict.fromkeys(("condition", "trunk", "statistics"), NONE),
        ),
        door(
            "HyperNetwork.execution",
            lambda execution: setattr(shallow(), "execution", execution),
            {"execution": core.Execution()},
            {"execution": ("a layer",)},  # PyTorch takes any module for a submodule
        ),
        door("HyperNetwork.forward (rows)", of_rows, rows, of_none),
        door("HyperNetwork.explain (rows)", told, rows, of_none),
        door(
            "HyperNetwork.bind (one, called)",
            made().bind(1),
            {"*inputs": (X,)},
            {"*inputs": ("a long tensor",)},
        ),
        door("HyperNetwork.bind (a batch, called)", made().bind([0, 2]), {"*inputs": (X_B,)}),
        door(
            "HyperNetwork.bind",
            made().bind,
            {"condition": [0, 2], "rows": [0, 1, 1], "carry": None},
            {"rows": NONE, "carry": NONE},
            condition="(condition|rows)",
        ),
        door("HyperNetwork.train", made().train, {"mode": True}, {"mode": BOOLS}),
        door("HyperNetwork.add_conditions", grown, {"num": 1}, {"num": ("2",)}),
        door("HyperNetwork.load", made().load, {"path": saved()}),
        door(
            "HyperNetwork.generate (parameters)",
            made().generate,
            lambda: {"condition": 1, "carry": None, "parameters": dict(made().named_parameters())},
            {
                "condition": (*AN_ID, *NO_ID, "an int tensor"),
                "carry": NONE,
                "parameters": EMPTY,
            },
        ),
        door(
            "HyperNetwork.generate (carry)",
            made("carry").generate,
            {"condition": torch.ones(2, 3), "carry": torch.ones(2, 4)},
            {"condition": TWO, "carry": NONE},
        ),
        door(
            "HyperNetwork.encode",
            made("carry").encode,
            {"condition": torch.ones(2, 3), "carry": torch.ones(2, 4)},
            {"condition": TWO, "carry": NONE},
        ),
        door(
            "HyperNetwork.instantiate (carry)",
            made("carry").instantiate,
            {"condition": torch.ones(3), "carry": torch.ones(4), "copy": True},
            {"carry": NONE, "copy": BOOLS},
        ),
        *running(),
    ]


def running() -> list[Door]:
    found = []
    for size, x in ((1, X), (2, X_B)):
        found.append(
            door(
                f"HyperNetwork.run ({size})",
                made().run,
                lambda size=size, x=x: {
                    "params": given(size == 2),
                    "*inputs": (x,),
                    "condition": [0, 2] if size == 2 else 1,
                    "in_dims": 0,
                },
                {
                    "*inputs": SHAPES_OF_ONE if size == 1 else (),
                    "condition": ("None", *(AN_ID if size == 1 else ())),
                    "in_dims": DIMS[size],
                },
            )
        )
    return found


def shallow() -> hl.HyperNetwork:
    return hl.HyperNetwork(target(), condition=hl.Embedding(3, 4))


def grown(num: Any) -> None:
    hnet = shallow()
    before = snapshot(hnet)
    try:
        hnet.add_conditions(num)
    except Exception:
        assert snapshot(hnet) == before
        raise


@functools.cache
def saved() -> Path:
    path = Path(tempfile.mkdtemp()) / "file"
    hl.save(made(), path)
    return path


def tool_doors() -> list[Door]:
    reg = hl.OutputRegularizer(1.0)
    reg.remember(made(), [0, 1])
    ids, plan = made(), made().plan
    perturbed = hl.Perturbed(ids, 0.1)
    assembled = hl.Assembled(target(), {"a": ids}, lambda parts: parts["a"])
    stages = hl.LayerByLayer({"a": ids}, lambda name, seen, *support: seen)
    noise = torch.ones(2, plan.num_generated)
    batch = {"*inputs": (X_B,), "condition": [0, 2], "in_dims": 0}
    of_batch = {"condition": AN_ID, "in_dims": DIMS[2]}
    names = dict(zip("abcd", ((4, 3), (4,), (2, 4), (2,)), strict=True))
    explanation = ids.explain(X, condition=1)
    report = ids.doctor(X_B, condition=[0, 2])
    return [
        door(
            "save",
            hl.save,
            {"hnet": ids, "path": Path("file"), "with_base": True},
            {"path": ("a string",), "with_base": BOOLS},
        ),
        door(
            "load",
            hl.load,
            {
                "path": saved(),
                "target": target(),
                "condition": None,
                "trunk": None,
                "translate": False,
            },
            {"condition": NONE, "trunk": NONE, "translate": (*BOOLS, "an empty dict")},
        ),
        door("flatten", hl.flatten, lambda: {"params": given(True), "plan": plan}),
        door("unflatten", hl.unflatten, {"flat": noise, "plan": plan}),
        door("unstack", hl.unstack, lambda: {"params": given(True)}),
        door("stack", hl.stack, lambda: {"samples": [given(), given()]}),
        door(
            "HyperNetwork.factors",
            lora().factors,
            {"condition": 1},
            {"condition": (*AN_ID, *NO_ID, "an int tensor")},
        ),
        door(
            "HyperNetwork.factors (carry)",
            lora("carry").factors,
            {"condition": torch.ones(2, 3), "carry": torch.ones(2, 4)},
            {"condition": TWO, "carry": NONE},
        ),
        door(
            "concatenate",
            hl.concatenate,
            lambda: {"factors": [lora().factors(0), lora().factors(2)], "weights": [1.0, 2.0]},
            {"factors": ("an empty dict",), "weights": NONE},
        ),
        door(
            "readings",
            hl.readings,
            {"hnet": ids, "condition": 1},
            {"condition": ("None", *AN_ID, *NO_ID, "an int tensor")},
        ),
        door("shared_parameters", hl.shared_parameters, {"hnet": ids}),
        door(
            "conditional_parameters",
            hl.conditional_parameters,
            {"hnet": ids, "cond_id": 1},
            {"cond_id": ("None", "0", "2")},
        ),
        door(
            "target_spec",
            hl.target_spec,
            {"target": target(), "measured": {"0.weight"}},
            {"measured": [n for n in WRONG if n in (*CONTAINERS, *CONTAINERS_TOO)]},
        ),
        door("param_groups", hl.param_groups, {"module": ids, "lr": 0.1}, {"lr": NOT_NEGATIVE}),
        door(
            "Shapes",
            hl.Shapes,
            lambda: {"shapes": dict(names), "dtype": torch.float64},
            {"dtype": NONE},
        ),
        door("Shapes (a list)", hl.Shapes, lambda: {"shapes": list(names.values())}),
        door(
            "unroll",
            hl.unroll,
            {
                "hnet": made("carry"),
                "*inputs": (X_B,),
                "condition": torch.ones(2, 3),
                "carry": torch.ones(4),
            },
            {"carry": NONE},
        ),
        door(
            "OutputRegularizer",
            hl.OutputRegularizer,
            lambda: {"strength": 1.0, "subset": 2, "weights": {"*": 1.0}},
            {"strength": NOT_NEGATIVE, "subset": ("None", "2"), "weights": (*EMPTY, "a dict")},
        ),
        door("OutputRegularizer.forward", reg, {"hnet": ids}),
        door(
            "OutputRegularizer.remember",
            hl.OutputRegularizer(1.0).remember,
            {"hnet": ids, "conditions": [0, 1]},
            {"conditions": ("an empty list", "an empty tuple")},
            conditions=r"conditions?",
        ),
        door(
            "Perturbed",
            hl.Perturbed,
            {"hnet": ids, "sigma": 0.1, "before": lambda c: c, "after": lambda p, c: p},
            {
                "sigma": NOT_NEGATIVE,
                "before": ("None", "a class", "a function", "a layer"),
                "after": ("None", "a class", "a function", "a layer"),
            },
        ),
        door(
            "Perturbed.generate",
            perturbed.generate,
            {"condition": [0, 2], "noise": noise},
            {"noise": NONE},
        ),
        door(
            "Perturbed.forward",
            perturbed,
            {**batch, "noise": noise},
            {"noise": NONE, "in_dims": DIMS[2]},
        ),
        door(
            "Assembled",
            hl.Assembled,
            lambda: {
                "target": target(),
                "parts": {"a": ids},
                "assemble": lambda parts: parts["a"],
            },
            {"assemble": ("a class", "a function", "a layer")},
        ),
        door(
            "Assembled.generate",
            assembled.generate,
            {"condition": [0, 2]},
            {"condition": (*AN_ID, *NO_ID, "an int tensor")},
        ),
        door("Assembled.forward", assembled, batch, of_batch),
        door(
            "LayerByLayer",
            hl.LayerByLayer,
            lambda: {"stages": {"a": ids}, "extract": lambda name, seen, *support: seen},
            {"extract": ("a class", "a function", "a layer")},
        ),
        door("LayerByLayer.bind", stages.bind, {"condition": [0, 2]}, {"condition": OF_STAGES}),
        door(
            "LayerByLayer.generate",
            stages.generate,
            {"condition": [0, 2]},
            {"condition": OF_STAGES},
        ),
        door(
            "LayerByLayer.instantiate", stages.instantiate, {"condition": 1}, {"condition": AN_ID}
        ),
        door(
            "LayerByLayer.forward",
            stages,
            {"*inputs": (X_B,), "condition": [0, 2]},
            {"condition": AN_ID},
        ),
        door("Report.about", report.about, {"check": "gradient"}),
        door("Explanation.__getitem__", explanation.__getitem__, {"tensor": "0.weight"}),
    ]


# A tuple is a support set, with its inputs first.
OF_STAGES = (*AN_ID, *(v for v in NO_ID if v != "an empty tuple"), "an int tensor")


@functools.cache
def doors() -> dict[str, Door]:
    found = [
        *calls("forward", lambda hnet: hnet),
        *calls("explain", lambda hnet: hnet.explain),
        *generating(),
        *hypernetwork_doors(),
        *tool_doors(),
        door(
            "HyperNetwork.doctor",
            examined,
            {"*inputs": (X_B,), "condition": [0, 2], "in_dims": 0, "optimizer": None},
            {"condition": AN_ID, "in_dims": DIMS[2], "optimizer": NONE},
        ),
        door(
            "HyperNetwork.doctor (rows)",
            functools.partial(examined, torch.ones(2, 3), condition=[0, 2]),
            rows_of_two(),
            {"rows": NONE},
        ),
    ]
    return {one.name: one for one in found}


def locked(module: nn.Module) -> None:
    module.lock = threading.Lock()  # type: ignore[assignment]


def logging(module: nn.Module) -> None:
    module.log = open(os.devnull, "w")  # type: ignore[assignment]  # noqa: SIM115 closed below


@pytest.mark.parametrize(
    ("change", "path"), [(locked, "lock"), (logging, "log"), (lambda m: locked(m.fc), "fc.lock")]
)
def test_a_target_that_cannot_be_copied_names_its_attribute(
    change: Callable[[nn.Module], None], path: str
) -> None:
    module = Plain()
    change(module)
    text = f"target: got Plain whose attribute {path!r} is <"
    refused(lambda: hl.HyperNetwork(module, condition=hl.Embedding(3, 4)), TypeError, text, module)
    if path == "log":
        module.log.close()  # type: ignore[operator,union-attr]


class Complains(nn.Module):
    """Takes inputs of a negative sum, and says so itself."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.fc, self.error = nn.Linear(3, 2), error

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            raise self.error
        return self.fc(x)


@pytest.mark.parametrize("condition", [1, [0, 2]])
@pytest.mark.parametrize("error", [RuntimeError("no"), ValueError("no"), KeyError("no")])
def test_what_the_target_says_itself_stays(error: Exception, condition: Any) -> None:
    hnet = hl.HyperNetwork(Complains(error), condition=hl.Embedding(3, 4))
    with pytest.raises(type(error), match=r"^.?no.?$"):
        hnet(X if condition == 1 else X_B, condition=condition)


def test_several_inputs_are_all_shown() -> None:
    text = (
        "inputs: got input 0 a torch.float32 tensor of shape (5, 3), shift 'wrong'; wanted what "
        "Plain takes. It raised TypeError: unsupported operand type(s) for +: 'Tensor' and 'str'"
    )
    refused(lambda: made(plain=True)(X, shift="wrong", condition=1), ValueError, text)


@pytest.mark.parametrize("name", doors())
def test_every_wrong_value_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kind = next((kind for kind in CONDITIONS if f"({kind}" in name), "ids")
    watched = [target(), made(kind, "plain" in name)]
    assert knock(doors()[name], lambda: [snapshot(module) for module in watched]) == []


OF_MODULES = {"OutputRegularizer.set_extra_state"}  # what PyTorch calls with what it has saved


def test_every_public_argument_has_a_door() -> None:
    of_the_core = {name for name in hl.__all__ if getattr(core, name, None) is getattr(hl, name)}
    ours = [
        (name, function)
        for name, function in public(hl, (nn.Module,))
        if name.partition(".")[0] not in of_the_core or name in ELSEWHERE
    ]
    # Arguments of the target's own: whatever they are, they are carried to it.
    assert missing(ours, list(doors().values()), {"Inputs", "Shapes.forward", *OF_MODULES}) == []
