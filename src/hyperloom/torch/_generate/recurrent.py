"""`Recurrent`, built: a cell whose hidden state is the condition's vector."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperloom._core.choices.conditions import NUM_GATES, Recurrent
from hyperloom._core.errors import message, shown
from hyperloom.torch._generate.encoded import Encoded, floating

_SAMPLE_STEPS = 8


class RecurrentCondition(nn.Module):
    """The cell. Written out, as those of `torch.nn` take one batch dimension and no `vmap`."""

    has_carry = True

    def __init__(self, choice: Recurrent) -> None:
        super().__init__()
        self.choice = choice
        rows = NUM_GATES[choice.cell] * choice.hidden
        shapes = {"ih": (rows, choice.dim), "hh": (rows, choice.hidden)}
        bound = 1 / math.sqrt(choice.hidden)
        for key, shape in shapes.items():
            weight = torch.empty(shape).uniform_(-bound, bound)
            bias = torch.empty(rows).uniform_(-bound, bound)
            self.register_parameter(f"weight_{key}", nn.Parameter(weight))
            self.register_parameter(f"bias_{key}", nn.Parameter(bias))

    def forward(self, value: Any, carry: Any = None) -> Encoded:
        x = self._input(value)
        new = self.step(x, self._state(carry, x))
        return Encoded(new[0] if isinstance(new, tuple) else new, None, new)

    def step(self, x: Tensor, state: Any) -> Any:
        """Return the next state for `x` `(*batch, dim)` and a whole state."""
        h, c = state if self.choice.cell == "lstm" else (state, state)
        from_x: Tensor = F.linear(x, self.weight_ih, self.bias_ih)  # type: ignore[arg-type]
        from_h: Tensor = F.linear(h, self.weight_hh, self.bias_hh)  # type: ignore[arg-type]
        if self.choice.cell == "rnn":
            return torch.tanh(from_x + from_h)
        if self.choice.cell == "gru":
            (r, u, n), (rh, uh, nh) = from_x.chunk(3, -1), from_h.chunk(3, -1)
            reset, update = torch.sigmoid(r + rh), torch.sigmoid(u + uh)
            return torch.lerp(torch.tanh(n + reset * nh), h, update)
        i, f, g, o = (from_x + from_h).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    def sample(self, num: int, draws: torch.Generator) -> Tensor:
        """Return hidden states `(num, hidden)` after some steps of random values."""
        like: Any = self.weight_ih
        state = None
        for _ in range(_SAMPLE_STEPS):
            x = torch.randn(num, self.choice.dim, generator=draws) * self.choice.std
            state = self(x.to(like), state).carry
        return state[0] if isinstance(state, tuple) else state  # type: ignore[return-value]

    def _input(self, value: Any) -> Tensor:
        like: Any = self.weight_ih
        dim = self.choice.dim
        wanted = f"a floating tensor (*batch, {dim}) for {self.choice}"
        return floating(value, dim, like, wanted)

    def _state(self, state: Any, x: Tensor) -> Any:
        """Return the state, checked, or zeros of the input's batch."""
        shape = (*x.shape[:-1], self.choice.hidden)
        paired = self.choice.cell == "lstm"
        if state is None:
            zeros = x.new_zeros(shape)
            return (zeros, zeros) if paired else zeros
        parts = tuple(state) if paired and isinstance(state, (tuple, list)) else (state,)
        kind = "a pair of tensors" if paired else "a tensor"
        wanted = f"None, or {kind} {shape} as the call before returned it"
        way_out = "Start a new batch with carry=None."
        if len(parts) != 1 + paired or not all(isinstance(p, Tensor) for p in parts):
            raise TypeError(message("carry", shown(state), wanted, way_out))
        for part in parts:
            if part.shape != shape:
                raise ValueError(message("carry", shown(part), wanted, way_out))
        # The state stands beside the weights; a step in another dtype would change it silently.
        states = tuple(part.to(x) for part in parts)
        return states if paired else states[0]
