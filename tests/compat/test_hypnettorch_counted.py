"""Counted: every option of hypnettorch stands in the tables at least twice, every member once."""

from __future__ import annotations

import contextlib
import inspect
import io
import warnings
from collections import Counter
from collections.abc import Callable, Generator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.compat.hypnettorch_building import LISTS, PROPERTIES, small
from tests.compat.hypnettorch_calls import HELPERS, METHODS, REPRESENTATIVES
from tests.compat.hypnettorch_cases import CASES
from tests.compat.hypnettorch_libraries import OURS, THEIR_MODULES, THEIRS, Asked, Watch
from tests.compat.hypnettorch_refused import REFUSED
from tests.compat.test_hypnettorch_chunking import CHUNKINGS
from tests.compat.test_hypnettorch_deconv import CHUNKED, WHOLE, deconv_net
from tests.compat.test_hypnettorch_init import (
    CHUNKED_HYPERFANS,
    HYPERFANS,
    filled,
    filled_chunked,
)
from tests.compat.test_hypnettorch_outside import HALVES, SPECTRAL
from tests.compat.test_hypnettorch_regularizer import options as regularizer_options

FORMATS = ("flattened", "sequential", "squeezed")
CLASSES = ("HMLP", "ChunkedHMLP", "StructuredHMLP", "HContainer", "HPerturbWrapper")
DECONVS = ("HDeconv", "ChunkedHDeconv")
# Values that are not numbers or switches but one of a few words: each is counted.
WORDS = {
    "method": ("in", "out", "harmonic"),
    "ret_format": FORMATS,
    "src_format": FORMATS,
    "trgt_format": FORMATS,
}


@contextlib.contextmanager
def quiet() -> Generator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def attempt(call: Callable[..., Any], *args: Any) -> Any:
    with quiet(), contextlib.suppress(Exception):
        return call(*args)


def ask_everything(lib: Watch) -> None:
    """Do to the watched library what the tests of the tables do."""
    for case in CASES:
        hnet = case.build(lib)
        for name in (*PROPERTIES, *LISTS):
            attempt(getattr, hnet, name)
        for ret_format in FORMATS:
            attempt(lambda h=hnet, c=case, f=ret_format: h.forward(ret_format=f, **c.inputs(1, h)))
    for case in REPRESENTATIVES:
        hnet = case.build(lib)
        for call in METHODS.values():
            attempt(call, hnet, case)
        for call in HELPERS.values():
            attempt(call, lib, hnet)
    for call in (*REFUSED.values(), *HALVES.values(), *SPECTRAL.values()):
        attempt(call, lib)
    for kwargs in HYPERFANS.values():
        attempt(filled, lib, kwargs)
    for kwargs in CHUNKED_HYPERFANS.values():
        attempt(filled_chunked, lib, kwargs)
    for function, make, kwargs in CHUNKINGS.values():
        attempt(lambda f=function, m=make, k=kwargs: getattr(lib, f)(m(), **k))
    hnet = small(lib)
    targets = [lib.get_current_targets(num, hnet) for num in (1, 3)][1]
    for kwargs in regularizer_options(hnet, targets):
        attempt(lambda k=kwargs: lib.calc_fix_target_reg(hnet, 3, **k))


@pytest.fixture(scope="module")
def asked() -> Asked:
    """What is asked of hypnettorch; of ours, where hypnettorch has nothing but a name."""
    made: Asked = []
    ask_everything(Watch(THEIRS, made))
    mine = Watch(OURS, made)
    for kind, table in zip(DECONVS, (WHOLE, CHUNKED), strict=True):
        for name in table:
            attempt(deconv_net, kind, name, mine)
            attempt(lambda k=kind, n=name: deconv_net(k, n, mine, no_uncond_weights=True))
            attempt(lambda k=kind, n=name: deconv_net(k, n, mine, no_cond_weights=True))
    return made


def is_default(value: Any, default: Any) -> bool:
    if isinstance(default, nn.Module):
        return isinstance(value, type(default))
    if isinstance(value, Tensor) or isinstance(default, Tensor):
        return value is default
    return bool(value is default or (type(value) is type(default) and value == default))


def times_set(asked: Asked, owners: set[str], name: str, signature: inspect.Signature) -> Counter:
    """Count for each option how many calls set it, and for words how many set each."""
    made: Counter = Counter()
    for owner, called, arguments in asked:
        if called != name or owner not in owners or arguments is None:
            continue
        for option, parameter in signature.parameters.items():
            value = arguments.get(option, parameter.default)
            if option in WORDS:
                made[f"{option}={value}"] += 1
            elif option in arguments and not is_default(value, parameter.default):
                made[option] += 1
    return made


def wanted(signature: inspect.Signature) -> list[str]:
    made = []
    for option in signature.parameters:
        if option != "self":
            made += [f"{option}={word}" for word in WORDS.get(option, ())] or [option]
    return made


def functions() -> dict[str, Any]:
    made = {}
    for module in THEIR_MODULES[1:]:
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and not name.startswith("_"):
                made[name] = function
    made.pop("flatten_and_remove_out_heads")  # not of the reference: of main networks
    return made


def members(kind: str) -> dict[str, Any]:
    """Return the public members of a class that torch.nn.Module does not have."""
    found = inspect.getmembers(getattr(THEIRS, kind))
    return {
        name: member
        for name, member in found
        if not name.startswith("_") and (name == "forward" or not hasattr(nn.Module, name))
    }


@pytest.mark.parametrize("kind", [*CLASSES, *DECONVS])
def test_every_option_of_a_class_is_set_twice(asked: Asked, kind: str) -> None:
    signature = inspect.signature(getattr(THEIRS, kind))
    found = times_set(asked, {""}, kind, signature)
    assert {option: found[option] for option in wanted(signature) if found[option] < 2} == {}


@pytest.mark.parametrize("name", functions())
def test_every_option_of_a_function_is_set_twice(asked: Asked, name: str) -> None:
    signature = inspect.signature(functions()[name])
    found = times_set(asked, {""}, name, signature)
    assert {option: found[option] for option in wanted(signature) if found[option] < 2} == {}


@pytest.mark.parametrize("kind", CLASSES)
def test_every_member_is_asked_for(asked: Asked, kind: str) -> None:
    seen = {name for owner, name, _ in asked if owner == kind}
    assert set(members(kind)) - seen == set()
    assert set(members(kind)) - set(dir(getattr(OURS, kind))) == set()


def test_every_option_of_a_method_is_set_twice(asked: Asked) -> None:
    methods = {
        name: member
        for kind in CLASSES
        for name, member in members(kind).items()
        if callable(member)
    }
    lacking = {}
    for name, method in methods.items():
        signature = inspect.signature(method)
        found = times_set(asked, set(CLASSES), name, signature)
        few = {option: found[option] for option in wanted(signature) if found[option] < 2}
        lacking |= {name: few} if few else {}
    assert lacking == {}


def test_the_classes_are_all_there() -> None:
    found = {
        name
        for name, member in inspect.getmembers(THEIR_MODULES[0], inspect.isclass)
        if issubclass(member, nn.Module)
    }
    assert found == {*CLASSES, *DECONVS}
    for name in (*CLASSES, *DECONVS, "HyperNetInterface", *functions()):
        assert hasattr(OURS, name), name


def test_counting_can_fail() -> None:
    made: Asked = []
    small(Watch(THEIRS, made), use_bias=False)
    signature = inspect.signature(THEIRS.HMLP)
    found = times_set(made, {""}, "HMLP", signature)
    assert found["use_bias"] == 1
    assert found["dropout_rate"] == found["activation_fn"] == 0
    made.clear()
    hnet = small(Watch(THEIRS, made))
    hnet.forward(cond_id=0, ret_format="flattened")
    hnet.forward(cond_id=torch.zeros(1).int().tolist())
    found = times_set(made, {"HMLP"}, "forward", inspect.signature(THEIRS.HMLP.forward))
    assert (found["ret_format=flattened"], found["ret_format=squeezed"]) == (1, 1)
    assert (found["cond_id"], found["weights"]) == (2, 0)
