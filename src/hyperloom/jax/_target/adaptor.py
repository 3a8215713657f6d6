"""What is common to all targets: a network as a pure function of its tensors.

An adaptor holds the target without the values of its parameters. Its state (running statistics,
caches) and its random streams are its own, or given at each call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from flax import nnx
from jax import Array

from hyperloom._core.errors import did_you_mean, message
from hyperloom._core.target.spec import TargetSpec

Pure = Callable[..., tuple[Any, dict[str, Any]]]
Tap = Callable[[str, str, Any], Any]
Method = str | Callable[..., Any] | None


@dataclass(frozen=True, eq=False)
class Box:
    """Holds an object that NNX is to carry along and not look into."""

    held: Any


@dataclass(frozen=True)
class Read:
    """A target, read.

    Attributes:
        spec: Names, shapes, roles of its parameters.
        values: Their values by name.
        adaptor: The target without them.
    """

    spec: TargetSpec
    values: Mapping[str, Any]
    adaptor: Adaptor


@dataclass(frozen=True)
class _Hidden:
    """A method that `nnx.tabulate` does not see.

    It runs every public function of a module's class by `jax.jit`, with arrays in and out.
    """

    function: Callable[..., Any]

    def __get__(self, owner: Any, kind: type) -> Any:
        return self if owner is None else MethodType(self.function, owner)


class Adaptor(nnx.Module):
    """Base class: a target that is run with given tensors."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _hide_methods(cls)

    def state(self) -> dict[str, Any]:
        """Return the target's own state: all that is neither parameter nor random stream."""
        return {name: variable.get_value() for name, variable in self.state_variables()}

    def state_variables(self) -> Iterator[tuple[str, Any]]:
        """Yield what holds the arrays of the state, by name: variables, or cells of them."""
        raise TypeError(f"{type(self).__name__} does not define state_variables()")

    def keys(self, rngs: nnx.Rngs | None, method: Method = None) -> dict[str, Array]:
        """Return a fresh key for each random stream of the target."""
        raise TypeError(f"{type(self).__name__} does not define keys()")

    def advance(self, used: set[str], rngs: nnx.Rngs | None) -> None:
        """Let the target's own streams go on if they were used, so that the next call differs.

        Args:
            used: The streams that were used.
            rngs: Those of the call, which stand for all of the same name.
        """

    def keep(self, captured: Mapping[str, Any]) -> None:
        """Keep what `nnx.capture` around the hypernetwork is to find, by the variables' names."""

    def pure(self, notes: Notes, method: Method = None) -> Pure:
        """Return the target as `pure(tensors, state, keys, args, kwargs) -> (out, state)`.

        It closes over no array.

        Args:
            notes: Where to note what it does.
            method: What is called: `None` for the module itself, a name or dotted path of a
                method, or a function whose first argument is the module.
        """
        raise TypeError(f"{type(self).__name__} does not define pure()")

    def outline(self) -> Any:
        """Return an object with the attributes and methods of the target."""
        raise TypeError(f"{type(self).__name__} does not define outline()")

    def build(self, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> Any:
        """Return a plain module with the given tensors and state in it."""
        raise TypeError(f"{type(self).__name__} does not define build()")


def _hide_methods(cls: type) -> None:
    for name, value in list(vars(cls).items()):
        if isinstance(value, FunctionType) and not name.startswith("_"):
            setattr(cls, name, _Hidden(value))


_hide_methods(Adaptor)


class Notes:
    """What is seen while the target is traced.

    Attributes:
        written: Names of the state that the target changed.
        used: Names of the random streams that it used.
        tap: Who is shown what each layer returns, `tap(path, class, output)`, and returns what
            the layer is to return; `None` for nobody.
        anew: Names of what a call makes anew, which is no state: sown values, new collections.
        captured: Names of the variables that `nnx.capture` has put into it.
    """

    def __init__(self, tap: Tap | None = None) -> None:
        self.written: set[str] = set()
        self.used: set[str] = set()
        self.tap = tap
        self.anew: set[str] = set()
        self.captured: set[str] = set()


def method_of(module: Any, method: Method) -> Callable[..., Any]:
    """Return the method of a module that is to be called.

    Raises:
        TypeError: Neither a name nor a function, or nothing that can be called.
        ValueError: The module has no such method.
    """
    kind = type(module).__name__
    wanted = f"the name of a method of {kind}, or a function of the module and its inputs"
    if method is not None and not isinstance(method, str):
        if not callable(method) or isinstance(method, type):
            raise TypeError(message("method", method, wanted))
        return partial(method, module)
    names = [name for name in dir(type(module)) if not name.startswith("_")]
    try:
        function = module if method is None else reach(module, method)
    except (AttributeError, LookupError) as error:
        raise ValueError(
            message("method", repr(method), wanted, did_you_mean(method, names))
        ) from error
    if not callable(function) or isinstance(function, nnx.Variable):
        got = f"{method!r}, which cannot be called" if method else "none"
        why = "" if method else f"{kind} itself cannot be called. "
        raise TypeError(message("method", got, wanted, why + did_you_mean("", names)))
    return function


def reach(module: Any, path: str) -> Any:
    """Return what a dotted path leads to; a number in it is an index where it is no name.

    Raises:
        AttributeError: There is no such name.
        LookupError: There is no such item.
    """
    for step in path.split("."):
        by_index = step.isdigit() and not hasattr(module, step)
        module = module[int(step)] if by_index else getattr(module, step)
    return module


def dotted(path: tuple[Any, ...]) -> str:
    """Return a path as a name."""
    return ".".join(map(str, path))
