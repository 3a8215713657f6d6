"""What the weights depend on: condition objects without a framework.

A condition object says how a raw value becomes a vector of width `dim`. Backends turn it into
a module of theirs; a module of the user's own takes its place as `Custom`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hyperloom._core.choice import Choice
from hyperloom._core.errors import (
    a_string,
    call_it,
    finite_float,
    message,
    one_of,
    positive_int,
    shown,
)


@dataclass(frozen=True, repr=False)
class Condition(Choice, instead="Give a module of your framework as condition."):
    """Base class of the condition objects."""

    @property
    def width(self) -> int:
        """Width `E` of the vector that the trunk sees."""
        raise TypeError(f"{type(self).__name__} does not define a width")

    @property
    def context_width(self) -> int:
        """Width of the elements that a trunk over slots attends to; 0 without a context."""
        return 0

    @property
    def num_ids(self) -> int | None:
        """How many ids the condition knows; `None` when it has no ids."""
        return None

    @property
    def has_carry(self) -> bool:
        """Whether a state goes from call to call (`Recurrent`)."""
        return False

    @property
    def num_parameters(self) -> int:
        """Learned numbers."""
        return 0

    def with_more_ids(self, num: int) -> Condition:
        """Return the condition with `num` ids more, if it has any."""
        return self


@dataclass(frozen=True, repr=False)
class Embedding(Condition):
    """A learned vector for each id: task, client, user.

    Its rows start as normal draws that are scaled to root mean square `std`, each row exactly,
    so that no id starts with larger weights than another. The raw value is an int, a list of
    ints or an integer tensor, `()` for one condition or `(B,)` for a batch.

    Args:
        num: Number of ids.
        dim: Width of each vector.
        std: Root mean square of each row at the start. Default 1.

    Raises:
        ValueError: `num` or `dim` below 1, or `std` negative.
    """

    num: int
    dim: int
    std: float = 1.0

    def __post_init__(self) -> None:
        positive_int("Embedding(num=)", self.num)
        positive_int("Embedding(dim=)", self.dim)
        finite_float("Embedding(std=)", self.std, least=0.0)

    @property
    def width(self) -> int:
        return self.dim

    @property
    def num_ids(self) -> int | None:
        return self.num

    @property
    def num_parameters(self) -> int:
        return self.num * self.dim

    def with_more_ids(self, num: int) -> Condition:
        return replace(self, num=self.num + num)


@dataclass(frozen=True, init=False, repr=False)
class Ids(Embedding):
    """Ids without vectors: what differs from id to id is looked up elsewhere.

    For layouts that keep something for each id themselves: slot embeddings with
    `per_condition=True`, or `PerCondition()`. The raw value is that of an `Embedding`.

    Args:
        num: Number of ids.

    Raises:
        ValueError: `num` below 1.
    """

    def __init__(self, num: int) -> None:
        positive_int("Ids(num=)", num)
        object.__setattr__(self, "num", num)
        object.__setattr__(self, "dim", 0)
        object.__setattr__(self, "std", 1.0)

    def __repr__(self) -> str:
        return f"Ids({self.num})"

    def with_more_ids(self, num: int) -> Condition:
        return Ids(self.num + num)


@dataclass(frozen=True, repr=False)
class Vector(Condition):
    """A vector as given: a context, a coordinate, the output of another network.

    The raw value is a floating tensor `(dim,)` for one condition or `(B, dim)` for a batch.

    Args:
        dim: Width of the vector.
        std: Root mean square that its entries are expected to have; initialisation uses it.

    Raises:
        ValueError: `dim` below 1, or `std` not positive.
    """

    dim: int
    std: float = 1.0

    def __post_init__(self) -> None:
        positive_int(f"{type(self).__name__}(dim=)", self.dim)
        finite_float(f"{type(self).__name__}(std=)", self.std, least=1e-12)

    @property
    def width(self) -> int:
        return self.dim


@dataclass(frozen=True, repr=False)
class Noise(Vector):
    """Gaussian noise of standard deviation `std`: an implicit distribution over networks.

    The raw value is `None` (one draw; inside `Concat`, one draw for each condition), an int `B`
    (a batch of `B` draws), or the noise itself as a tensor `(dim,)` or `(B, dim)`.

    Args:
        dim: Width of the noise vector.
        std: Its standard deviation. Default 1.
    """


@dataclass(frozen=True, init=False, repr=False)
class CosSin(Vector):
    """Values in 0 .. 1, each as a point of the quarter circle: `cos(πγ/2)` and `sin(πγ/2)`.

    The vector has the same length whatever the values are, so that generated tensors do not
    shrink or grow with them. With `form=Delta(trained=True)` that is the magnitude-invariant
    parametrisation of Gonzalez Ortiz, Guttag and Dalca, "Magnitude Invariant Parametrizations
    Improve Hypernetwork Learning", ICLR 2024. The raw value is that of a `Vector(dim)`.

    Args:
        dim: Number of values; the vector is twice as wide, all cosines first.

    Raises:
        ValueError: `dim` below 1.
    """

    def __init__(self, dim: int) -> None:
        positive_int("CosSin(dim=)", dim)
        object.__setattr__(self, "dim", dim)
        object.__setattr__(self, "std", 0.5**0.5)

    def __repr__(self) -> str:
        return f"CosSin({self.dim})"

    @property
    def width(self) -> int:
        return 2 * self.dim


@dataclass(frozen=True, repr=False)
class Custom(Condition):
    """Stands for a condition module of the user's own.

    Args:
        dim: Width of the vector that the module returns.
        name: What it is, for printing.
        size: Its learned numbers.
        std: Root mean square that its output is expected to have.
        context: Width of the elements that it returns beside the vector; 0 for none.
    """

    dim: int
    name: str = "module"
    size: int = 0
    std: float = 1.0
    context: int = 0

    def __post_init__(self) -> None:
        name = type(self).__name__
        positive_int(f"{name}(context=)", self.context, least=0)
        positive_int(f"{name}(dim=)", self.dim, least=0 if self.context else 1)
        a_string(f"{name}(name=)", self.name)
        positive_int(f"{name}(size=)", self.size, least=0)
        finite_float(f"{name}(std=)", self.std, least=1e-12)

    @property
    def width(self) -> int:
        return self.dim

    @property
    def context_width(self) -> int:
        return self.context

    @property
    def num_parameters(self) -> int:
        return self.size


@dataclass(frozen=True, init=False, repr=False)
class Concat(Condition):
    """Several conditions side by side; the raw value is a tuple with a value for each.

    Args:
        *parts: Condition objects. Modules of the framework are welcome in the backend's
            `HyperNetwork`.

    Raises:
        ValueError: Fewer than two parts, or more than one with a context.
        TypeError: A part that is neither a condition object nor a module.
    """

    parts: tuple[Any, ...]

    def __init__(self, *parts: Any) -> None:
        object.__setattr__(self, "parts", tuple(parts))
        if len(parts) < 2:
            raise ValueError(message("Concat(*parts)", f"{len(parts)} part", "at least two"))
        for part in parts:
            # What is no condition object is a module; which, only the backend can tell.
            if not isinstance(part, Condition) and (isinstance(part, type) or not callable(part)):
                wanted = "condition objects or modules"
                raise TypeError(message("Concat(*parts)", shown(part), wanted, call_it(part)))
        contexts = [p for p in parts if isinstance(p, Condition) and p.context_width]
        if len(contexts) > 1:
            way_out = "Put the elements of both into one sequence, with a mark that tells them."
            got = " and ".join(map(str, contexts))
            raise ValueError(message("Concat(*parts)", got, "one context", way_out))

    def __repr__(self) -> str:
        return f"Concat({', '.join(map(repr, self.parts))})"

    @property
    def width(self) -> int:
        return sum(part.width for part in self.parts)

    @property
    def context_width(self) -> int:
        return sum(part.context_width for part in self.parts)

    @property
    def num_ids(self) -> int | None:
        known = [part.num_ids for part in self.parts if part.num_ids is not None]
        return known[0] if len(known) == 1 else None

    @property
    def has_carry(self) -> bool:
        return any(part.has_carry for part in self.parts)

    @property
    def num_parameters(self) -> int:
        return sum(part.num_parameters for part in self.parts)

    def with_more_ids(self, num: int) -> Condition:
        return Concat(*(part.with_more_ids(num) for part in self.parts))


NUM_GATES = {"rnn": 1, "gru": 3, "lstm": 4}


@dataclass(frozen=True, repr=False)
class Recurrent(Condition):
    """A recurrent cell: the weights depend on all inputs so far (a dynamic hypernetwork).

    Each call takes the raw value of this step and the state of the step before, and gives the
    next state back beside the result; nothing is kept inside. The vector is the cell's new hidden
    state `h`. With the target's own input as the raw value the weights follow the input. Ha, Dai
    and Le, "HyperNetworks", ICLR 2017.

    The raw value is a floating tensor `(dim,)` for one condition or `(*batch, dim)`. The state is
    `None` (zeros), or `h` of shape `(*batch, hidden)`; for `lstm` the pair `(h, c)`.

    The cells are the usual ones, with two biases, and parameters named and ordered as in
    PyTorch's `RNNCell` (tanh), `GRUCell` (reset, update, new) and `LSTMCell` (input, forget, cell,
    output): `weight_ih` `(gates * hidden, dim)`, `weight_hh` `(gates * hidden, hidden)`,
    `bias_ih` and `bias_hh` `(gates * hidden,)`, all uniform in `1 / sqrt(hidden)` at the start.

    Args:
        dim: Width of the raw value.
        hidden: Width of the hidden state.
        cell: `"gru"` (default), `"lstm"` or `"rnn"`.
        std: Root mean square that the raw value's entries are expected to have; initialisation
            runs the cell on such values. Default 1.

    Raises:
        ValueError: `dim` or `hidden` below 1, an unknown cell, or `std` not positive.
    """

    dim: int
    hidden: int
    cell: str = "gru"
    std: float = 1.0

    def __post_init__(self) -> None:
        positive_int("Recurrent(dim=)", self.dim)
        positive_int("Recurrent(hidden=)", self.hidden)
        finite_float("Recurrent(std=)", self.std, least=1e-12)
        way_out = "For another cell give a module with `has_carry = True`."
        one_of("Recurrent(cell=)", self.cell, tuple(NUM_GATES), way_out)

    @property
    def width(self) -> int:
        return self.hidden

    @property
    def has_carry(self) -> bool:
        return True

    @property
    def num_parameters(self) -> int:
        return NUM_GATES[self.cell] * self.hidden * (self.dim + self.hidden + 2)


@dataclass(frozen=True, repr=False)
class CustomRecurrent(Custom):
    """Stands for a condition module of the user's own that carries a state."""

    @property
    def has_carry(self) -> bool:
        return True
