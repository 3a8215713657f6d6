"""The two libraries under test, each as one namespace, and what was asked of one."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from torch import Tensor

from hyperloom.compat.hypnettorch import hnets
from hyperloom.compat.hypnettorch.hnets import hnet_helpers, structured_hmlp_examples
from hyperloom.compat.hypnettorch.utils import hnet_regularizer


class Library:
    """The public names of several modules."""

    def __init__(self, *modules: Any) -> None:
        self.modules = modules

    def __getattr__(self, name: str) -> Any:
        for module in self.modules:
            if hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(name)


OURS = Library(hnets, hnet_helpers, structured_hmlp_examples, hnet_regularizer)
THEIR_MODULES = [
    pytest.importorskip(f"hypnettorch.{name}")
    for name in (
        "hnets",
        "hnets.hnet_helpers",
        "hnets.structured_hmlp_examples",
        "utils.hnet_regularizer",
    )
]
THEIRS = Library(*THEIR_MODULES)


Asked = list[tuple[str, str, dict[str, Any] | None]]


class Watch:
    """A library, or an object of one, which writes down what is asked of it.

    Args:
        what: It is asked instead.
        asked: `(owner, name, None)` of what is read, and `(owner, name, arguments)` of calls.
            The owner of a function or class is "".
    """

    def __init__(self, what: Any, asked: Asked) -> None:
        self._what = what
        self._asked = asked
        self._owner = "" if isinstance(what, Library) else type(what).__name__

    def __getattr__(self, name: str) -> Any:
        self._asked.append((self._owner, name, None))
        found = getattr(self._what, name)
        if not callable(found) or isinstance(found, Tensor):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = bare(args), bare(kwargs)
            bound = inspect.signature(found).bind(*args, **kwargs)
            self._asked.append((self._owner, name, dict(bound.arguments)))
            made = found(*args, **kwargs)
            return Watch(made, self._asked) if inspect.isclass(found) else made

        return call


def bare(value: Any) -> Any:
    """Return a value without watches, in lists and dicts too."""
    if isinstance(value, Watch):
        return value._what
    if isinstance(value, dict):
        return {key: bare(one) for key, one in value.items()}
    return type(value)(map(bare, value)) if type(value) in (list, tuple) else value
