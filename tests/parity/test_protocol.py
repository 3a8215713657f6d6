"""What a backend owes is written down, and each has it: names, arguments, docstrings."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import pytest

import hyperloom.jax
import hyperloom.torch
from hyperloom._core import names
from hyperloom._core.backend import protocol
from hyperloom._core.backend.documented import CALLED, completes, merged
from hyperloom.jax._generate import heads as jax_heads
from hyperloom.torch._generate import heads as torch_heads

BACKENDS = [hyperloom.torch, hyperloom.jax]
# What one framework has and the other has no use for.
OWN = {
    "torch": {"BatchStatistics", "PerConditionStatistics", "SharedStatistics", "peft"},
    "jax": {"Function", "Functional", "Linen", "functional"},
}


def members(owner: Any) -> dict[str, Any]:
    """Return what a protocol says by name: functions and properties."""
    found = {n: m for n, m in vars(owner).items() if callable(m) or is_property(m)}
    return {n: m for n, m in found.items() if not n.startswith("_") or n in CALLED}


def is_property(member: Any) -> bool:
    return isinstance(member, property)


def parameters(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters) - {"self"}


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda m: m.__name__)
def test_a_backend_has_what_it_owes(backend: ModuleType) -> None:
    public: Any = protocol.Backend
    for name, function in members(public).items():
        own = getattr(backend, name)
        assert name in backend.__all__
        assert parameters(function) <= parameters(own), name
        assert own.__doc__.startswith(function.__doc__.strip().splitlines()[0])
    for name in public.__annotations__:
        assert name in backend.__all__
        twin = getattr(protocol, name, None)
        for method, member in {} if twin is None else members(twin).items():
            own = getattr(backend, name)
            found = vars(own).get(CALLED.get(method, "")) or getattr(own, method)
            first = member.__doc__.strip().splitlines()[0]
            assert found.__doc__.startswith(first), (name, method)
            if not is_property(member):
                assert parameters(member) <= parameters(found), (name, method)


@pytest.mark.parametrize("module", [torch_heads, jax_heads], ids=lambda m: m.__name__)
def test_heads_have_their_methods(module: ModuleType) -> None:
    heads = module._HEADS
    assert len(set(heads.values())) == len(heads) == 4
    for head in heads.values():
        for name, method in members(protocol.HeadModule).items():
            found = inspect.signature(getattr(head, name))
            assert len(found.parameters) == len(inspect.signature(method).parameters)


def test_the_backends_have_the_same_names() -> None:
    torch, jax = (set(backend.__all__) for backend in BACKENDS)
    assert torch - jax <= OWN["torch"] | {"Finding", "Report", "SlowWarning"}
    assert jax - torch <= OWN["jax"]
    assert set(names.__all__) <= torch & jax


# ---- how docstrings are completed ----------------------------------------------------------------

SHARED = """Does it.

    More of that.

    Args:
        one: The first
            argument.
        two: The second.

    Returns:
        What it did.

    Raises:
        ValueError: Not one.
    """


def test_a_docstring_is_completed() -> None:
    own = """Here it is fast.

    Args:
        two: Another second.
        three: The third.

    Returns:
        Nothing.

    Example:
        >>> it()
    """
    assert merged(SHARED, own) == (
        "Does it.\n\nMore of that.\n\nHere it is fast.\n\n"
        "Args:\n    one: The first\n        argument.\n    two: Another second.\n"
        "    three: The third.\n\n"
        "Returns:\n    Nothing.\n\nRaises:\n    ValueError: Not one.\n\nExample:\n    >>> it()"
    )
    assert merged(SHARED, None) == inspect.cleandoc(SHARED)
    assert merged(None, "Own.") == "Own."


def test_a_class_is_completed_with_its_methods() -> None:
    class Twin:
        """A twin."""

        @property
        def plan(self) -> int:
            """The plan."""
            return 0

        def __call__(self) -> None:
            """Run."""

        def missing(self) -> None:
            """Do what not every backend does."""

    @completes(Twin)
    class Own:
        @property
        def plan(self) -> int:
            return 1

        def forward(self) -> None:
            """Slowly."""

        def _hidden(self) -> None:
            pass

    assert (Own.__doc__, Own.plan.__doc__) == ("A twin.", "The plan.")
    assert Own.forward.__doc__ == "Run.\n\nSlowly."
    assert Own._hidden.__doc__ is None
