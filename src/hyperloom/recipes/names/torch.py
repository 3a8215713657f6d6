"""A HyperLSTM that spells: a small LSTM scales the rows of a larger one's matrices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hyperloom.torch as hl


class Cell(nn.Module):
    """One step of an LSTM with layer norm.

    Args:
        inputs: Width of its input.
        hidden: Width of its state.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.from_x = nn.Linear(inputs, 4 * hidden, bias=False)
        self.from_h = nn.Linear(hidden, 4 * hidden)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(5))
        nn.init.orthogonal_(self.from_h.weight)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next `(h, c)`, each `(..., hidden)`."""
        gates = (self.from_x(x) + self.from_h(h)).chunk(4, -1)
        i, f, g, o = (norm(gate) for norm, gate in zip(self.norms, gates, strict=False))
        c = (f + 1).sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * self.norms[4](c).tanh(), c


class Speller(nn.Module):
    """Says after each letter which may come next; its cell's weights change at every letter.

    Args:
        num_letters: How many there are.
        hidden: Width of the cell.
        small: Width of the LSTM that generates.
        z: Width of what it says to the cell's rows.
        width: Of a letter's vector.
    """

    def __init__(
        self, num_letters: int, hidden: int = 64, small: int = 16, z: int = 4, width: int = 16
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.letters = nn.Embedding(num_letters, width)
        self.cell = hl.HyperNetwork(
            Cell(width, hidden),
            condition=hl.Recurrent(width + hidden, small, cell="lstm"),
            trunk=nn.Linear(small, z),
            layout={"from_*": hl.Full(), "*": hl.Shared()},
            form={
                "from_*.weight": hl.Scale(trained=True),
                "from_h.bias": hl.Delta(trained=True),
            },
        )
        self.out = nn.Linear(hidden, num_letters)

    def forward(self, letters: Tensor) -> Tensor:
        """Return logits `(B, T, num_letters)` of what comes after each of `letters` `(B, T)`."""
        h = c = torch.zeros(len(letters), self.hidden)
        state, all_h = None, []
        for x in self.letters(letters).unbind(1):
            (h, c), state = self.cell(x, h, c, condition=torch.cat([x, h], -1), carry=state)
            all_h.append(h)
        return self.out(torch.stack(all_h, 1))

    @torch.no_grad()
    def weights(self, letters: Tensor) -> np.ndarray:
        """Return the recurrent matrix at each letter of a name `(T,)`: `(T, 4 hidden, hidden)`."""
        h = c = torch.zeros(1, self.hidden)
        state, found = None, []
        for x in self.letters(letters[None]).unbind(1):
            now = {"condition": torch.cat([x, h], -1), "carry": state}
            params, _ = self.cell.generate(now["condition"], carry=state)
            found.append(params["from_h.weight"][0].numpy())
            (h, c), state = self.cell(x, h, c, **now)
        return np.stack(found)


def bits(logits: Tensor, letters: Tensor) -> Tensor:
    """Return bits a letter of names `(B, T + 1)`, the end included, from logits `(B, T, _)`."""
    wanted = letters[:, 1:]
    counted = (letters[:, :-1] != 0).float()
    counted[:, 0] = 1
    each = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
    return (each * counted.flatten()).sum() / counted.sum() / float(np.log(2))


def step_of(model: nn.Module, rate: float) -> Callable[[Tensor], Tensor]:
    """Return a function that does a step of Adam on names `(B, T + 1)` and returns their bits."""
    optimizer = torch.optim.Adam(hl.param_groups(model, rate))

    def step(letters: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = bits(model(letters[:, :-1]), letters)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    return step


@torch.no_grad()
def invent(model: nn.Module, num: int, length: int, draws: torch.Generator) -> Tensor:
    """Return new names `(num, length)`, drawn letter by letter at temperature 0.8."""
    letters = torch.zeros(num, 1, dtype=torch.int64)
    for _ in range(length - 1):
        chances = (model(letters)[:, -1] / 0.8).softmax(-1)
        letters = torch.cat([letters, torch.multinomial(chances, 1, generator=draws)], 1)
    return letters
