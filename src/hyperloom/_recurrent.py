"""Conditions that carry a state from call to call, without a framework."""

from __future__ import annotations

from dataclasses import dataclass

from hyperloom._condition import Condition, Custom
from hyperloom._errors import finite_float, message, positive_int

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
        if self.cell not in NUM_GATES:
            way_out = "For another cell give a module with `has_carry = True`."
            raise ValueError(
                message("Recurrent(cell=)", repr(self.cell), "rnn, gru, lstm", way_out)
            )

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
