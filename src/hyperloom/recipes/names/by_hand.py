"""The same HyperLSTM without hyperloom, and a plain LSTM of equal size."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class HandSpeller(nn.Module):
    """`hyperloom.recipes.names.torch.Speller`, written out: equations 10 to 13."""

    def __init__(
        self, num_letters: int, hidden: int = 64, small: int = 16, z: int = 4, width: int = 16
    ) -> None:
        super().__init__()
        self.hidden, self.small = hidden, small
        self.letters = nn.Embedding(num_letters, width)
        self.hyper = nn.LSTMCell(width + hidden, small)
        self.z = nn.Linear(small, z)
        self.scale_x = nn.Linear(z, 4 * hidden)
        self.scale_h = nn.Linear(z, 4 * hidden)
        self.shift = nn.Linear(z, 4 * hidden)
        self.from_x = nn.Linear(width, 4 * hidden, bias=False)
        self.from_h = nn.Linear(hidden, 4 * hidden, bias=False)
        self.bias = nn.Parameter(torch.zeros(4 * hidden))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(5))
        self.out = nn.Linear(hidden, num_letters)

    def forward(self, letters: Tensor) -> Tensor:
        """Return logits `(B, T, num_letters)`."""
        h = c = torch.zeros(len(letters), self.hidden)
        state = (torch.zeros(len(letters), self.small),) * 2
        all_h: list[Tensor] = []
        for x in self.letters(letters).unbind(1):
            state = self.hyper(torch.cat([x, h], -1), state)
            z = self.z(state[0])
            gates = (1 + self.scale_x(z)) * self.from_x(x) + (1 + self.scale_h(z)) * self.from_h(h)
            gates = (gates + self.bias + self.shift(z)).chunk(4, -1)
            i, f, g, o = (norm(gate) for norm, gate in zip(self.norms, gates, strict=False))
            c = (f + 1).sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * self.norms[4](c).tanh()
            all_h.append(h)
        return self.out(torch.stack(all_h, 1))


def copied(speller: nn.Module, num_letters: int) -> HandSpeller:
    """Return the same speller by hand, with the weights of one of hyperloom's."""
    hand = HandSpeller(num_letters)
    theirs = dict(speller.named_parameters())
    head = theirs["cell.heads.full.weight"].chunk(3), theirs["cell.heads.full.bias"].chunk(3)
    values = {"bias": theirs["cell.bases.from_h.bias"]}
    for part, weight, bias in zip(("scale_x", "scale_h", "shift"), *head, strict=True):
        values |= {f"{part}.weight": weight, f"{part}.bias": bias}
    for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        values[f"hyper.{kind}"] = theirs[f"cell.condition.{kind}"]
    for kind in ("weight", "bias"):
        values[f"z.{kind}"] = theirs[f"cell.trunks.0.module.{kind}"]
        values[f"out.{kind}"] = theirs[f"out.{kind}"]
    for kind in ("from_x", "from_h"):
        values[f"{kind}.weight"] = theirs[f"cell.bases.{kind}.weight"]
    values["letters.weight"] = theirs["letters.weight"]
    norms = theirs["cell.heads.shared.row"].reshape(5, 2, hand.hidden)
    for i, (weight, bias) in enumerate(norms):
        values |= {f"norms.{i}.weight": weight, f"norms.{i}.bias": bias}
    hand.load_state_dict({name: value.detach() for name, value in values.items()})
    return hand


class PlainSpeller(nn.Module):
    """A plain LSTM with layer norm; with 79 units it has as many numbers as the HyperLSTM."""

    def __init__(self, num_letters: int, hidden: int = 79, width: int = 16) -> None:
        super().__init__()
        from hyperloom.recipes.names.torch import Cell

        self.hidden = hidden
        self.letters = nn.Embedding(num_letters, width)
        self.cell = Cell(width, hidden)
        self.out = nn.Linear(hidden, num_letters)

    def forward(self, letters: Tensor) -> Tensor:
        """Return logits `(B, T, num_letters)`."""
        h = c = torch.zeros(len(letters), self.hidden)
        all_h: list[Tensor] = []
        for x in self.letters(letters).unbind(1):
            h, c = self.cell(x, h, c)
            all_h.append(h)
        return self.out(torch.stack(all_h, 1))
