"""The table of cases on PyTorch: its targets, and hypernetworks of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from tests._support import targets
from tests._support.cases import (
    CONDITIONS,
    DIM,
    FORMS,
    LAYOUTS,
    NUM_IDS,
    ROWS,
    TRUNKS,
    Row,
    attention_target,
    cnn_target,
    mlp_target,
    tied_target,
)
from tests._support.on_torch import shaken

# ---- targets ------------------------------------------------------------------------------------


mlp = partial(targets.mlp, 4, 4, 4, 2)  # layers of equal and of unequal shape


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.SiLU(),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Flatten(),
        nn.Linear(16, 2),
    )


class Tied(nn.Module):
    """Embedding and output layer share their weight, as in a language model."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 6)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.embedding(x)).tanh())


class Attention(nn.Module):
    """One pre-norm block with two heads, written out."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(4)
        self.query_key_value = nn.Linear(4, 12, bias=False)
        self.out = nn.Linear(4, 4)
        self.norm2 = nn.LayerNorm(4)
        self.mlp = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        heads = self.query_key_value(self.norm1(x)).unflatten(-1, (3, 2, 2)).transpose(-2, -4)
        query, key, value = (heads[..., i, :] for i in range(3))
        mixed = (query @ key.mT / 2**0.5).softmax(-1) @ value
        x = x + self.out(mixed.transpose(-2, -3).flatten(-2))
        return x + self.mlp(self.norm2(x))


def _floats(*shape: int) -> Callable[..., Tensor]:
    return lambda *lead, dtype: torch.randn(*lead, *shape, dtype=dtype)


def _tokens(*lead: int, dtype: torch.dtype) -> Tensor:
    return torch.randint(0, 6, (*lead, 5))


TARGETS = {
    "mlp": mlp_target(mlp, _floats(3, 4), "0", "4", "weight"),
    "cnn": cnn_target(cnn, _floats(3, 2, 4, 4), "", "weight"),
    "tied": tied_target(Tied, _tokens),
    "attention": attention_target(Attention, _floats(3, 4), "weight"),
}

# ---- choices of the backend's own ---------------------------------------------------------------


class Encoder(nn.Module):
    """A condition of the user's own: a small network over a raw vector."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(DIM, 5), nn.Tanh(), nn.Linear(5, 4))

    def forward(self, value: Tensor) -> Tensor:
        return self.layers(value)


class Trunk(nn.Module):
    """A trunk of the user's own, for any width of its input; it says the width of its output."""

    dim = 5

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, 6)
        self.last = nn.Linear(6, self.dim)

    def forward(self, rows: Tensor) -> Tensor:
        return self.last(torch.sin(self.first(rows)))


def condition_of(name: str) -> Any:
    """Return the condition of a row."""
    return Encoder() if name == "module" else CONDITIONS[name]()


def trunk_of(name: str, condition: Any, layout: Any) -> Any:
    """Return the trunk of a row.

    The slots of one hypernetwork share a trunk of the user's own only if they are equally wide.
    """
    if name == "module":
        return Trunk(_width(condition) + getattr(layout, "embedding", 0))
    return TRUNKS[name]


def _width(condition: Any) -> int:
    return 4 if isinstance(condition, nn.Module) else condition.width


# ---- cases --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case(Row):
    """One row of the table."""

    def build(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> hl.HyperNetwork:
        """Make the hypernetwork; move every learned tensor away from its start.

        A change starts at zero, a bias at its constant: gradients that are lost would not show.
        """
        torch.manual_seed(seed)
        target = TARGETS[self.target]
        layout, condition = LAYOUTS[self.layout](target), condition_of(self.condition)
        hnet = hl.HyperNetwork(
            target.make().to(dtype),
            condition=condition,
            trunk=trunk_of(self.trunk, condition, layout),
            layout=layout,
            form=FORMS[self.form](target),
        )
        return shaken(hnet)

    def inputs(self, *lead: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return inputs for one call, with leading dimensions `lead`."""
        return TARGETS[self.target].inputs(*lead, dtype=dtype)

    def conditions(self, num: int, dtype: torch.dtype = torch.float64) -> Any:
        """Return the raw value of `num` conditions; ids repeat."""
        ids = torch.arange(num) * 2 % NUM_IDS
        vectors = torch.randn(num, DIM, dtype=dtype)
        return self.raw(ids, vectors)


CASES = [Case(*astuple(row)) for row in ROWS]
