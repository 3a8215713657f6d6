"""Recurrent layers as a loop over time, for all conditions at once.

`vmap` has no rule for PyTorch's recurrent kernels. Written with products and elementwise functions,
by the equations in PyTorch's documentation of `nn.LSTM`, `nn.GRU` and `nn.RNN`, the layers need
none. The functions have the signatures of `torch.lstm`, `torch.gru` and so on, with the conditions
hidden.

Legend of suffixes: T steps, N sequences, I inputs, H hidden units, G rows of the gates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperloom.torch._rules.dtypes import as_plain
from hyperloom.torch._rules.registry import VMAP, rule
from hyperloom.torch._rules.standin import as_autocast, dense_leaf
from hyperloom.torch._target.private import pack_padded_sequence, pad_packed_sequence

# Hidden state, and for LSTM the cell state: (N, H) each.
State = tuple[Tensor, ...]
# Gates from the inputs (N, G), state, the layer's tensors -> next state.
Cell = Callable[[Tensor, State, "_Tensors"], State]


class _Tensors:
    """The tensors of one layer in one direction.

    Args:
        given: As the module has them.
        has_biases: Whether biases are among them.
        joined: Whether both biases meet in one sum, so that they are added once for all steps.
    """

    def __init__(self, given: Sequence[Any], has_biases: bool, joined: bool) -> None:
        self.w_ih = given[0]  # may be a stand-in: its product is taken once for all steps
        self.w_hh = dense_leaf(given[1])
        self.b_ih, self.b_hh = map(dense_leaf, given[2:4]) if has_biases else (None, None)
        if joined and self.b_ih is not None and self.b_hh is not None:
            self.b_ih, self.b_hh = self.b_ih + self.b_hh, None
        rest = given[4:] if has_biases else given[2:]
        self.w_hr = dense_leaf(rest[0]) if rest else None  # projection

    def from_inputs(self, x: Tensor) -> Tensor:
        """Return the inputs' part of the gates, `(*n, I)` -> `(*n, G)`."""
        return _affine(x, self.w_ih, self.b_ih)

    def from_state(self, h: Tensor) -> Tensor:
        """Return the state's part of the gates, `(N, H)` -> `(N, G)`."""
        return _affine(h, self.w_hh, self.b_hh)


def _state(h: Tensor) -> Tensor:
    """Convert a state as autocast does: on the CPU it leaves it as it is."""
    return h if h.device.type == "cpu" else as_autocast(h)


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `x W^T + b`; under autocast, vmap of the two in one has another dtype."""
    y = F.linear(x, weight)
    return y if bias is None else y + bias.to(y.dtype)


def _lstm_step(gates: Tensor, state: State, layer: _Tensors) -> State:
    h, c = state
    i, f, g, o = (gates + layer.from_state(h)).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return (h if layer.w_hr is None else F.linear(h, layer.w_hr)), c


def _gru_step(gates: Tensor, state: State, layer: _Tensors) -> State:
    (h,) = state
    r_x, z_x, n_x = gates.chunk(3, -1)
    r_h, z_h, n_h = layer.from_state(h).chunk(3, -1)
    z = (z_x + z_h).sigmoid()
    n = (n_x + (r_x + r_h).sigmoid() * n_h).tanh()
    return ((1 - z) * n + z * h,)


def _tanh_step(gates: Tensor, state: State, layer: _Tensors) -> State:
    return ((gates + layer.from_state(state[0])).tanh(),)


def _relu_step(gates: Tensor, state: State, layer: _Tensors) -> State:
    return ((gates + layer.from_state(state[0])).relu(),)


def _run(cell: Cell, gates_TNG: Tensor, state: State, layer: _Tensors) -> tuple[Tensor, State]:
    """Run one layer in one direction; return `(T, N, H)` and the last state."""
    states = []
    for gates in gates_TNG.unbind(0):
        state = cell(gates, state, layer)
        states.append(state[0])
    return torch.stack(states), state


def _run_packed(
    cell: Cell, gates: Tensor, sizes: list[int], start: State, layer: _Tensors, reverse: bool
) -> tuple[Tensor, State]:
    """Run on packed sequences, the longest first: step t has the first `sizes[t]` of them."""
    steps = list(gates.split(sizes))
    states: list[Tensor] = []
    if reverse:  # sequences join as they begin, from their ends
        state = tuple(s[: sizes[-1]] for s in start)
        for step in reversed(steps):
            joining = len(step) - len(state[0])
            if joining:
                new = (s[len(step) - joining : len(step)] for s in start)
                state = tuple(torch.cat(pair) for pair in zip(state, new, strict=True))
            state = cell(step, state, layer)
            states.append(state[0])
        return torch.cat(states[::-1]), state
    state, ended = start, []
    for step in steps:
        if len(step) < len(state[0]):  # sequences leave as they end
            ended.append(tuple(s[len(step) :] for s in state))
            state = tuple(s[: len(step)] for s in state)
        state = cell(step, state, layer)
        states.append(state[0])
    parts = [state, *reversed(ended)]
    return torch.cat(states), tuple(torch.cat(pieces) for pieces in zip(*parts, strict=True))


def _layers(cell: Cell, num_states: int) -> Callable[..., Any]:
    """Return the rule for a whole recurrent module."""
    joined = cell is not _gru_step  # which scales the part from the state, with its bias

    def run(*args: Any) -> Any:
        packed = isinstance(args[3], (list, tuple))  # after the sizes of the steps
        x, sizes = args[0], args[1].tolist() if packed else None
        hx, params, has_biases, num_layers, dropout, train, both = args[1 + packed : 8 + packed]
        batch_first = args[8] if not packed else False
        states = tuple(hx) if num_states > 1 else (hx,)
        x, states = as_autocast(dense_leaf(x)), tuple(map(_state, states))
        x = x.transpose(0, 1) if batch_first else x
        directions = 2 if both else 1
        size = len(params) // (num_layers * directions)
        last: list[State] = []
        for layer in range(num_layers):
            outputs = []
            for direction in range(directions):
                at = layer * directions + direction
                tensors = _Tensors(params[at * size : (at + 1) * size], has_biases, joined)
                state, gates = tuple(s[at] for s in states), tensors.from_inputs(x)
                if sizes is not None:
                    y, state = _run_packed(cell, gates, sizes, state, tensors, bool(direction))
                elif direction:
                    y, state = _run(cell, gates.flip(0), state, tensors)
                    y = y.flip(0)
                else:
                    y, state = _run(cell, gates, state, tensors)
                outputs.append(y)
                last.append(state)
            x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
            if dropout and train and layer < num_layers - 1:
                x = F.dropout(x, dropout)
        x = x.transpose(0, 1) if batch_first else x
        return x, *(torch.stack(parts) for parts in zip(*last, strict=True))

    return run


def _cell(cell: Cell, num_states: int) -> Callable[..., Any]:
    """Return the rule for a recurrent cell."""

    def step(x: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None) -> Any:
        tensors = _Tensors((w_ih, w_hh, b_ih, b_hh), b_ih is not None, cell is not _gru_step)
        state = tuple(hx) if num_states > 1 else (hx,)
        next_state = cell(tensors.from_inputs(as_autocast(x)), tuple(map(_state, state)), tensors)
        return next_state if num_states > 1 else next_state[0]

    return step


@rule(pack_padded_sequence, when=VMAP)
def _pack(padded: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
    """`torch._pack_padded_sequence`: lengths fall; return rows and the sequences of each step."""
    x_TN = padded.transpose(0, 1) if batch_first else padded
    numbers = [int(n) for n in lengths.tolist()]
    if not numbers or min(numbers) < 1 or len(numbers) != x_TN.shape[1]:
        raise ValueError(f"lengths {numbers} of {x_TN.shape[1]} sequences")
    if sorted(numbers, reverse=True) != numbers:
        raise RuntimeError("`lengths` array must be sorted in decreasing order")
    sizes = [sum(n > t for n in numbers) for t in range(numbers[0])]
    rows = torch.cat([x_TN[t, :num] for t, num in enumerate(sizes)])
    return rows, torch.tensor(sizes, dtype=torch.int64)


@rule(pad_packed_sequence, when=VMAP)
def _pad(
    data: Tensor, batch_sizes: Tensor, batch_first: bool, padding_value: float, total_length: int
) -> tuple[Tensor, Tensor]:
    """`torch._pad_packed_sequence`: return padded rows and lengths."""
    sizes = batch_sizes.tolist()
    steps = []
    for rows in data.split(sizes):
        missing = sizes[0] - len(rows)
        steps.append(torch.cat([rows, rows.new_full((missing, *rows.shape[1:]), padding_value)]))
    empty = torch.full_like(steps[0], padding_value)
    steps += [empty] * (total_length - len(sizes))
    padded_TN = torch.stack(steps)
    lengths = torch.tensor([sum(size > i for size in sizes) for i in range(sizes[0])])
    return (padded_TN.transpose(0, 1) if batch_first else padded_TN), lengths


for _function, _by_hand in {
    torch.lstm: _layers(_lstm_step, 2),
    torch.gru: _layers(_gru_step, 1),
    torch.rnn_tanh: _layers(_tanh_step, 1),
    torch.rnn_relu: _layers(_relu_step, 1),
    torch.lstm_cell: _cell(_lstm_step, 2),
    torch.gru_cell: _cell(_gru_step, 1),
    torch.rnn_tanh_cell: _cell(_tanh_step, 1),
    torch.rnn_relu_cell: _cell(_relu_step, 1),
}.items():
    rule(_function, when=VMAP)(as_plain(_function, _by_hand))
