"""Every public argument of `hyperloom.jax` is given every wrong value; see `wrong_values`."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import hyperloom as core
import hyperloom.jax as hl
from tests import wrong_values
from tests.core.test_wrong_values import ELSEWHERE, missing
from tests.wrong_values import BOOLS, NOT_NEGATIVE, Door, knock, public

ARRAYS: dict[str, Any] = {
    "an int array": jnp.ones((2, 3), jnp.int32),
    "a bool array": jnp.ones((2, 3), bool),
    "a complex array": jnp.ones((2, 3), jnp.complex64),
    "a wide array": jnp.ones((2, 7)),
    "a long array": jnp.ones((5, 3)),
    "a scalar array": jnp.asarray(0.5),
    "an empty array": jnp.ones(0),
    "a key": jax.random.key(0),
}


@functools.cache
def target() -> nnx.Module:
    rngs = nnx.Rngs(0)
    return nnx.Sequential(nnx.Linear(3, 4, rngs=rngs), jnp.tanh, nnx.Linear(4, 2, rngs=rngs))


CONDITIONS: dict[str, tuple[Any, Any, Any]] = {  # the choice, one raw value, and a batch of two
    "ids": (hl.Embedding(3, 4), 1, [0, 2]),
    "vector": (hl.Vector(3), jnp.ones(3), jnp.ones((2, 3))),
    "noise": (hl.Noise(3), None, 2),
    "concat": (
        hl.Concat(hl.Embedding(3, 4), hl.Vector(3)),
        (1, jnp.ones(3)),
        ([0, 2], jnp.ones((2, 3))),
    ),
    "carry": (hl.Recurrent(3, 4), jnp.ones(3), jnp.ones((2, 3))),
}
X, X_B = jnp.ones((5, 3)), jnp.ones((2, 5, 3))


@functools.cache
def made(condition: str = "ids") -> hl.HyperNetwork:
    return hl.HyperNetwork(
        target(),
        condition=CONDITIONS[condition][0],
        trunk=hl.MLP(6),
        layout={"*.kernel": hl.Chunked(7, embedding=3), "*.bias": hl.Full()},
        rngs=nnx.Rngs(0),
    )


@functools.cache
def given(batch: bool = False) -> dict[str, Any]:
    """What `made()` generates."""
    return made().generate(CONDITIONS["ids"][2 if batch else 1])


def variables(module: nnx.Module) -> list[tuple[Any, nnx.Variable[Any]]]:
    """Return all that a module holds and where; random streams aside, which go on with a call."""
    found = [
        (path, leaf) for path, leaf in nnx.iter_graph(module) if isinstance(leaf, nnx.Variable)
    ]
    return [(path, leaf) for path, leaf in found if not isinstance(leaf, nnx.RngState)]


class Held:
    """An array, equal to itself and to one with the same bits."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Held):
            return NotImplemented
        mine, others = self.array, other.array
        return mine is others or np.asarray(mine).tobytes() == np.asarray(others).tobytes()


# ---- what is legal, and why ---------------------------------------------------------------------

# JAX casts what is added and multiplied; (2, 3) is a good input of one, and a batch of two rows.
CAST = ("a NumPy array", "an int array", "a bool array", "a complex array")
LONG = ("a long array",)  # (5, 3): as good as the input, and a batch of five vectors
FLOATS = ("a NumPy array", "a complex array", "a wide array", *LONG)
FLOATS_TOO = ("a scalar array", "an empty array")  # the second is refused as a target
PAIRED = ("a NumPy array",)  # (2, 3) of float64, which is cast: as good as an array
# A dict says what differs from the default, by name: nothing.
DIMS = {
    1: ("None", "0", "2", "-1", "a huge int", "an empty dict"),
    2: ("None", "0", "an empty dict"),
}
VALUES = {
    "ids": {1: ("0", "2", "a NumPy int"), 2: ("0", "2", "a NumPy int")},
    "vector": {1: LONG, 2: PAIRED},
    "noise": {1: ("None", *LONG), 2: ("None", "2", "a NumPy int", *PAIRED)},
    "concat": {1: (), 2: ()},
    "carry": {1: LONG, 2: PAIRED},
}
NO_ID = ("an empty list", "an empty tuple")
# A tuple is a support set, with its inputs first.
SETS = tuple(v for v in NO_ID if v != "an empty tuple")
OF_IDS = ("0", "2", "a NumPy int", "an int array", *NO_ID)
BATCHES = {  # where no input has to pair with them
    "ids": ("an int array", *NO_ID),
    "vector": (*LONG, *PAIRED),
    "noise": ("2", "a NumPy int", *LONG, *PAIRED),
    "concat": (),
    "carry": (*LONG, *PAIRED),
}
NONE = ("None",)
EMPTY = ("None", "an empty dict")
KEYS = ("None", "a key")  # no streams: the hypernetwork's own
STATE = EMPTY


door = functools.partial(wrong_values.door, ARRAYS)


def calls(
    method: str,
    function: Callable[[hl.HyperNetwork], Callable[..., Any]],
    kinds: Collection[str] = CONDITIONS,
) -> list[Door]:
    """The calls of a hypernetwork, for each kind of condition."""
    found = []
    for kind in kinds:
        _, one, batch = CONDITIONS[kind]
        for size, value in ((1, one), (2, batch)):
            good = {"*inputs": (X if size == 1 else X_B,), "condition": value, "in_axes": 0}
            legal = {
                "*inputs": (*LONG, *CAST) if size == 1 else CAST,
                "condition": VALUES[kind][size],
                "in_axes": DIMS[size],
            }
            title = f"{method} ({kind}, {'a batch' if size == 2 else 'one'})"
            found.append(door(title, function(made(kind)), good, legal))
    return found


def generating() -> list[Door]:
    found = []
    for kind, (_, one, batch) in CONDITIONS.items():
        hnet = made(kind)
        for size, value in ((1, one), (2, batch)):
            title = f"HyperNetwork.generate ({kind}, {'a batch' if size == 2 else 'one'})"
            legal = {"condition": {*VALUES[kind][size], *BATCHES[kind]}}
            found.append(door(title, hnet.generate, {"condition": value}, legal))
        legal = {"condition": [name for name in VALUES[kind][1] if name not in LONG]}
        title = f"HyperNetwork.instantiate ({kind})"
        found.append(door(title, hnet.instantiate, {"condition": one}, legal))
    return found


def named(method: str) -> Callable[..., Any]:
    """Call with the options of `__call__`, one by one."""
    return functools.partial(getattr(made(), method))


def hypernetwork_doors() -> list[Door]:
    choices = {
        "target": target(),
        "condition": hl.Embedding(3, 4),
        "trunk": hl.MLP(6),
        "layout": {"*.kernel": hl.Chunked(7, embedding=3), "*.bias": hl.Full()},
        "form": {"*": hl.Whole()},
        "init": hl.Native(),
        "axes": {"*.kernel": ("in", "out")},
        "execution": core.Execution(),
        "rngs": nnx.Rngs(0),
    }
    optional: dict[str, Any] = dict.fromkeys(choices, NONE)
    optional |= {"target": (), "condition": (), "rngs": ()}
    options = {"rngs": jax.random.key(0), "state": {}, "method": "__call__"}
    of_options = {"rngs": KEYS, "state": STATE, "method": ("None", "a function")}
    ids, carry = made(), made("carry")
    mutable = {"mutable": False}, {"mutable": BOOLS}
    start = {"condition": jnp.ones((2, 3)), "carry": jnp.ones((2, 4))}
    return [
        door("HyperNetwork", hl.HyperNetwork, choices, optional),
        door(
            "HyperNetwork.from_plan",
            hl.HyperNetwork.from_plan,
            {"target": target(), "plan": ids.plan, "condition": None, "trunk": None, "rngs": None},
            dict.fromkeys(("condition", "trunk", "rngs"), NONE),
        ),
        door(
            "HyperNetwork.__call__ (options)",
            functools.partial(ids, X, condition=1),
            {**options, **mutable[0]},
            {**of_options, **mutable[1]},
        ),
        door(
            "HyperNetwork.__call__ (rows)",
            functools.partial(ids, jnp.ones((2, 3)), condition=[0, 2]),
            {"rows": jnp.array([0, 1])},
            {"rows": NONE},  # two rows: a slice for each condition
        ),
        door(
            "HyperNetwork.explain (options)",
            functools.partial(ids.explain, X, condition=1),
            options,
            of_options,
        ),
        door(
            "HyperNetwork.run",
            ids.run,
            lambda: {"params": dict(given(True)), "*inputs": (X_B,), "in_axes": 0},
            {"in_axes": DIMS[2], "*inputs": CAST},
        ),
        door(
            "HyperNetwork.run (options)",
            functools.partial(ids.run, given(), X),
            {**options, **mutable[0]},
            {**of_options, **mutable[1]},
        ),
        door(
            "HyperNetwork.generate (options)",
            ids.generate,
            lambda: {
                "condition": 1,
                "rngs": jax.random.key(0),
                "carry": None,
                "parameters": dict(hl.functional(ids)[1]),
            },
            {
                "condition": OF_IDS,
                "rngs": KEYS,
                "carry": NONE,
                "parameters": EMPTY,
            },
        ),
        door(
            "HyperNetwork.generate (carry)",
            carry.generate,
            start,
            {"carry": NONE, "condition": PAIRED},
        ),
        door(
            "HyperNetwork.instantiate (carry)",
            carry.instantiate,
            {"condition": jnp.ones(3), "carry": jnp.ones(4), "state": {}},
            {"carry": NONE, "state": STATE},
        ),
        door(
            "HyperNetwork.encode",
            carry.encode,
            {**start, "rngs": jax.random.key(0)},
            {"carry": NONE, "condition": PAIRED, "rngs": KEYS},
        ),
        door(
            "HyperNetwork.bind",
            carry.bind,
            {**start, "rngs": jax.random.key(0)},
            {"carry": NONE, "condition": PAIRED, "rngs": KEYS},
        ),
        door(
            "HyperNetwork.bind (rows)",
            functools.partial(ids.bind, [0, 2]),
            {"rows": [0, 1, 1]},
            {"rows": NONE},
        ),
        *(
            door(
                f"HyperNetwork.bind ({what}, called)",
                net,
                {"*inputs": (x,), "in_axes": 0, "rngs": jax.random.key(0)},
                {
                    "in_axes": DIMS[1 if x is X else 2],
                    "rngs": KEYS,
                    "*inputs": (*CAST, *(LONG if x is X else ())),
                },
            )
            for what, net, x in (
                ("one", ids.bind(1), X),
                ("a batch", ids.bind([0, 2]), X_B),
                ("a part", ids.bind([0, 2]).layers[0], X_B),
            )
        ),
        door(
            "HyperNetwork.explain (rows)",
            functools.partial(ids.explain, jnp.ones((2, 3)), condition=[0, 2]),
            {"rows": [0, 1]},
            {"rows": NONE},
        ),
        door(
            "HyperNetwork.factors",
            lora().factors,
            {"condition": 1, "rngs": jax.random.key(0)},
            {"condition": OF_IDS, "rngs": KEYS},
        ),
        door(
            "HyperNetwork.factors (carry)",
            lora("carry").factors,
            start,
            {"carry": NONE, "condition": PAIRED},
        ),
        door(
            "HyperNetwork.initial_carry",
            carry.initial_carry,
            {"batch": 2},
            {"batch": ("0", "2", "an empty tuple")},
        ),
        door(
            "HyperNetwork.add_conditions",
            lambda num, rngs: plain().add_conditions(num, rngs=rngs),
            {"num": 1, "rngs": nnx.Rngs(0)},
            {"num": ("2",)},
        ),
        door("HyperNetwork.load", ids.load, {"path": saved()}),
    ]


@functools.cache
def lora(condition: str = "ids") -> hl.HyperNetwork:
    return hl.HyperNetwork(
        target(),
        condition=CONDITIONS[condition][0],
        form={"*.kernel": hl.LoRA(1)},
        rngs=nnx.Rngs(0),
    )


def plain() -> hl.HyperNetwork:
    return hl.HyperNetwork(target(), condition=hl.Embedding(3, 4), rngs=nnx.Rngs(0))


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
    noise = jnp.ones((2, plan.num_generated))
    batch = {"*inputs": (X_B,), "condition": [0, 2], "in_axes": 0, "rngs": jax.random.key(0)}
    of_batch = {
        "condition": ("0", "2", "a NumPy int"),
        "in_axes": DIMS[2],
        "rngs": KEYS,
        "*inputs": CAST,
    }
    names = dict(zip("abcd", ((4, 3), (4,), (2, 4), (2,)), strict=True))
    functions = ("None", "a class", "a function")
    net, params = hl.functional(ids)
    return [
        door(
            "save",
            hl.save,
            {"hnet": ids, "path": Path("file"), "with_base": True},
            {"path": ("a string",), "with_base": BOOLS},
        ),
        door(
            "param_groups",
            hl.param_groups,
            {"module": ids, "lr": 0.1},
            {"lr": (*NOT_NEGATIVE, "a class", "a function")},  # a schedule
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
                "rngs": None,
            },
            {
                "condition": NONE,
                "trunk": NONE,
                "translate": (*BOOLS, "an empty dict"),
                "rngs": NONE,
            },
        ),
        door("flatten", hl.flatten, lambda: {"params": dict(given(True)), "plan": plan}),
        door("unflatten", hl.unflatten, {"flat": noise, "plan": plan}),
        door("unstack", hl.unstack, lambda: {"params": dict(given(True))}),
        door("stack", hl.stack, lambda: {"samples": [given(), given()]}),
        door(
            "concatenate",
            hl.concatenate,
            lambda: {"factors": [lora().factors(0), lora().factors(2)], "weights": [1.0, 2.0]},
            {"factors": ("an empty dict",), "weights": NONE},
        ),
        door(
            "readings",
            hl.readings,
            {"hnet": ids, "condition": 1, "gradients": {}, "rngs": jax.random.key(0)},
            {"condition": ("None", *OF_IDS), "gradients": EMPTY, "rngs": KEYS},
        ),
        door("shared_parameters", hl.shared_parameters, {"hnet": ids}),
        door(
            "conditional_parameters",
            hl.conditional_parameters,
            {"hnet": ids, "cond_id": 1},
            {"cond_id": ("None", "0", "2")},
        ),
        door("target_spec", hl.target_spec, {"target": target()}),
        door(
            "Shapes",
            hl.Shapes,
            lambda: {"shapes": dict(names), "dtype": jnp.float32},
        ),
        door(
            "Linen",
            hl.Linen,
            {"module": nn.Dense(2), "*inputs": (X,), "rng": 0, "variables": None},
            {
                "*inputs": (*LONG, *CAST, "a wide array"),
                "rng": ("0", "2", "a key"),
                "variables": NONE,
            },
        ),
        door(
            "Function",
            hl.Function,
            {"apply": lambda p, x: x @ p["w"], "params": {"w": jnp.ones((3, 2))}},
            # An array is a tree of one array.
            {
                "apply": ("a function",),
                "params": [n for n in (*CAST, *ARRAYS) if n in (*FLOATS, *FLOATS_TOO)],
            },
        ),
        door("functional", hl.functional, {"hnet": ids}),
        door(
            "Functional.__call__",
            functools.partial(net, condition=1),
            lambda: {"params": dict(params), "*inputs": (X,)},
            {"*inputs": (*LONG, *CAST)},
        ),
        door(
            "Functional.generate",
            net.generate,
            lambda: {"params": dict(params), "condition": 1},
            {"condition": ("0", "2", "a NumPy int", "an int array", *NO_ID)},
        ),
        door(
            "Functional.bind",
            net.bind,
            lambda: {"params": dict(params), "condition": 1},
            {"condition": ("0", "2", "a NumPy int", "an int array", *NO_ID)},
        ),
        door("Functional.merge", net.merge, lambda: {"params": dict(params)}),
        door("Functional.update", net.update, lambda: {"hnet": plain_like(), "params": params}),
        door(
            "unroll",
            hl.unroll,
            {
                "hnet": made("carry"),
                "*inputs": (X_B,),
                "condition": jnp.ones((2, 3)),
                "carry": jnp.ones(4),
            },
            {"carry": NONE, "condition": PAIRED, "*inputs": CAST},
        ),
        door(
            "OutputRegularizer",
            hl.OutputRegularizer,
            lambda: {"strength": 1.0, "subset": 2, "weights": {"*": 1.0}},
            {"strength": NOT_NEGATIVE, "subset": ("None", "2"), "weights": (*EMPTY, "a dict")},
        ),
        door(
            "OutputRegularizer.__call__",
            reg,
            {"hnet": ids, "rngs": jax.random.key(0)},
            {"rngs": KEYS},
        ),
        door(
            "OutputRegularizer.remember",
            hl.OutputRegularizer(1.0).remember,
            {"hnet": ids, "conditions": [0, 1]},
            {"conditions": ("an empty list", "an empty tuple")},  # forget all
            conditions=r"conditions?",
        ),
        door(
            "Perturbed",
            hl.Perturbed,
            {"hnet": ids, "sigma": 0.1, "before": lambda c: c, "after": lambda p, c: p},
            {"sigma": NOT_NEGATIVE, "before": functions, "after": functions},
        ),
        door(
            "Perturbed.generate",
            perturbed.generate,
            {"condition": [0, 2], "noise": noise, "rngs": jax.random.key(0)},
            {"noise": NONE, "rngs": KEYS},
        ),
        door(
            "Perturbed.__call__",
            perturbed,
            {**batch, "noise": noise},
            {"noise": NONE, "rngs": KEYS, "in_axes": DIMS[2], "*inputs": CAST},
        ),
        door(
            "Assembled",
            hl.Assembled,
            lambda: {
                "target": target(),
                "parts": {"a": ids},
                "assemble": lambda parts: parts["a"],
            },
            {"assemble": ("a class", "a function")},
        ),
        door(
            "Assembled.generate",
            assembled.generate,
            {"condition": [0, 2], "rngs": jax.random.key(0)},
            {"condition": ("0", "2", "a NumPy int", "an int array", *NO_ID), "rngs": KEYS},
        ),
        door("Assembled.__call__", assembled, batch, of_batch),
        door(
            "LayerByLayer",
            hl.LayerByLayer,
            lambda: {"stages": {"a": ids}, "extract": lambda name, seen, *support: seen},
            {"extract": ("a class", "a function")},
        ),
        *(
            door(
                f"LayerByLayer.{method}",
                getattr(stages, method),
                {"condition": [0, 2], "rngs": jax.random.key(0)},
                {"condition": ("0", "2", "a NumPy int", "an int array", *SETS), "rngs": KEYS},
            )
            for method in ("bind", "generate")
        ),
        door(
            "LayerByLayer.__call__",
            stages,
            {"*inputs": (X_B,), "condition": [0, 2], "rngs": jax.random.key(0)},
            {"condition": ("0", "2", "a NumPy int"), "rngs": KEYS, "*inputs": CAST},
        ),
    ]


def plain_like() -> hl.HyperNetwork:
    return nnx.clone(made())


# Groups, made by the test and not when tests are collected: they are hypernetworks.
GROUPS: dict[str, Callable[[], list[Door]]] = {
    **{
        f"call ({kind})": functools.partial(
            calls, "HyperNetwork.__call__", lambda hnet: hnet, (kind,)
        )
        for kind in CONDITIONS
    },
    "explain": lambda: calls("HyperNetwork.explain", lambda hnet: hnet.explain, ("ids", "carry")),
    "generate": generating,
    "hypernetwork": hypernetwork_doors,
    "tools": tool_doors,
}


# Of JAX itself, about an input that is no array: an error in another version.
@pytest.mark.filterwarnings("ignore:shape requires ndarray:DeprecationWarning")
@pytest.mark.parametrize("group", GROUPS)
def test_every_wrong_value_is_named(
    group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doors = GROUPS[group]()
    kinds = {kind for kind in CONDITIONS if any(f"({kind}" in one.name for one in doors)}
    watched = [target(), *(made(kind) for kind in sorted({"ids", *kinds}))]
    before = [variables(module) for module in watched]

    def held() -> list[Held]:
        return [Held(leaf.get_value()) for found in before for _, leaf in found]

    found = []
    for i, one in enumerate(doors):
        folder = tmp_path / str(i)
        folder.mkdir()
        monkeypatch.chdir(folder)
        found += knock(one, held)
    assert found == []
    places = [[path for path, _ in found] for found in before]
    assert [[path for path, _ in variables(module)] for module in watched] == places


def test_every_public_argument_has_a_door() -> None:
    of_the_core = {name for name in hl.__all__ if getattr(core, name, None) is getattr(hl, name)}
    ours = [
        (name, function)
        for name, function in public(hl, (nnx.Module,))
        if name.partition(".")[0] not in of_the_core or name in ELSEWHERE
    ]
    # Arguments of the target's own; `functional` and JAX alone make a `Functional`; those of
    # `doctor` are a call's, whose failure is a finding of its report.
    elsewhere = {
        "HyperNetwork.doctor",
        "Inputs",
        "Functional",
        "Functional.tree_unflatten",
        *ELSEWHERE,
    }
    assert missing(ours, [one for group in GROUPS.values() for one in group()], elsewhere) == []
