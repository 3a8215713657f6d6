"""The table of cases: target x layout x form x condition x trunk.

Every layout is run on every target; the other choices are spread over those rows so that every
pair of choices that can go together occurs at least once. The choice of rows is computed, always
the same, and checked by `test_transforms.py`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import hyperloom.torch as hl

NUM_IDS = 5
DIM = 3

# ---- targets ------------------------------------------------------------------------------------


def mlp() -> nn.Module:
    """Layers of equal and of unequal shape; smooth, so that finite differences hold."""
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))


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


@dataclass(frozen=True)
class Target:
    """A target, what it is fed, and names for mixes by pattern."""

    make: Callable[[], nn.Module]
    inputs: Callable[..., Tensor]
    matrices: tuple[str, ...]
    mixed_layout: Mapping[str, Any]
    mixed_form: Mapping[str, Any]


def _floats(*shape: int) -> Callable[..., Tensor]:
    return lambda *lead, dtype: torch.randn(*lead, *shape, dtype=dtype)


def _tokens(*lead: int, dtype: torch.dtype) -> Tensor:
    return torch.randint(0, 6, (*lead, 5))


TARGETS = {
    "mlp": Target(
        mlp,
        _floats(3, 4),
        ("*.weight",),
        # Nothing names 2.bias: it keeps the target's own values.
        {
            "4.*": hl.PerCondition(),
            "0.weight": hl.Chunked(5, embedding=2),
            "*.weight": hl.Grouped(embedding=3),
            "0.bias": hl.Shared(),
        },
        {"*.weight": hl.Delta(), "4.bias": hl.Delta(trained=True)},
    ),
    "cnn": Target(
        cnn,
        _floats(3, 2, 4, 4),
        ("[035].weight",),
        {
            "1.*": hl.PerCondition(),
            "3.weight": hl.Grouped(2, hl.Tiles(4)),
            "?.weight": hl.Chunked(30, 2),
            "5.bias": hl.Full(),
        },
        {"?.weight": hl.Delta(trained=True), "1.bias": hl.Delta()},
    ),
    "tied": Target(
        Tied,
        _tokens,
        ("head.weight",),
        {
            "head.weight": hl.Chunked(7, embedding=2),
            "norm.*": hl.Shared(),
            "head.bias": hl.Full(),
        },
        {"head.*": hl.Delta(trained=True)},
    ),
    "attention": Target(
        Attention,
        _floats(3, 4),
        ("query*", "out.weight", "mlp.*.weight"),
        {
            "norm*": hl.PerCondition(),
            "query*": hl.Chunked(10, 2, per_condition=True),
            "mlp.*": hl.Grouped(embedding=2, unit=hl.Tiles(4)),
            "out.weight": hl.Full(),
        },
        {"*.weight": hl.Delta(), "mlp.*.bias": hl.Delta(trained=True)},
    ),
}

# ---- the four choices ---------------------------------------------------------------------------

LAYOUTS: dict[str, Callable[[Target], Any]] = {
    "full": lambda t: hl.Full(),
    "chunked": lambda t: hl.Chunked(7, embedding=2),  # 7 divides none of the targets
    "chunked-per-condition": lambda t: hl.Chunked(9, embedding=2, per_condition=True),
    "grouped-tensors": lambda t: hl.Grouped(embedding=2),
    "grouped-layers": lambda t: hl.Grouped(embedding=3, unit=hl.Layers()),
    "grouped-tiles": lambda t: hl.Grouped(embedding=2, unit=hl.Tiles(smallest=2)),
    "grouped-per-condition": lambda t: hl.Grouped(embedding=2, per_condition=True),
    "per-condition": lambda t: hl.PerCondition(),
    "shared": lambda t: hl.Shared(),
    "mixed": lambda t: t.mixed_layout,
}
NEEDS_IDS = {"chunked-per-condition", "grouped-per-condition", "per-condition", "mixed"}

FORMS: dict[str, Callable[[Target], Any]] = {
    "whole": lambda t: hl.Whole(),
    "delta": lambda t: hl.Delta(),
    "delta-trained": lambda t: hl.Delta(trained=True),
    "mixed-forms": lambda t: t.mixed_form,
    # What the patterns do not name is generated whole.
    "low-rank": lambda t: dict.fromkeys(t.matrices, hl.LowRank(2, alpha=3.0)),
    "product": lambda t: dict.fromkeys(t.matrices, hl.Product(2)),
    "scale": lambda t: dict.fromkeys(t.matrices, hl.Scale()) | {"*.bias": hl.Shift()},
    "scale-inputs": lambda t: dict.fromkeys(t.matrices, hl.Scale(trained=True, inputs=True)),
    "rank-one": lambda t: dict.fromkeys(t.matrices, hl.RankOne(trained=True)),
    "templates": lambda t: dict.fromkeys(t.matrices, hl.Templates(3)),
}


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


CONDITIONS: dict[str, Callable[[], Any]] = {
    "embedding": lambda: hl.Embedding(NUM_IDS, 4),
    "vector": lambda: hl.Vector(DIM),
    "embedding+vector": lambda: hl.Concat(hl.Embedding(NUM_IDS, 4), hl.Vector(DIM)),
    "embedding+noise": lambda: hl.Concat(hl.Embedding(NUM_IDS, 2), hl.Noise(DIM)),
    "module": Encoder,
}
HAS_IDS = {"embedding", "embedding+vector", "embedding+noise"}

# The slots of one hypernetwork share a trunk of the user's own only if they are equally wide.
TRUNKS: dict[str, Callable[[Any, Any], Any]] = {
    "none": lambda condition, layout: None,
    "mlp-rms": lambda condition, layout: hl.MLP(6, 5),
    "mlp-layer": lambda condition, layout: hl.MLP(6, 5, activation="gelu", norm="layer"),
    "mlp-plain": lambda condition, layout: hl.MLP(5, activation="tanh", norm=None),
    "module": lambda condition, layout: Trunk(_width(condition) + getattr(layout, "embedding", 0)),
}


def _width(condition: Any) -> int:
    return 4 if isinstance(condition, nn.Module) else condition.width


# ---- cases --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One row of the table: the names of its five choices."""

    target: str
    layout: str
    form: str
    condition: str
    trunk: str

    @property
    def possible(self) -> bool:
        """Whether the choices go together."""
        ids = self.layout not in NEEDS_IDS or self.condition in HAS_IDS
        mixed = "mixed" in self.layout
        # A mix of layouts leaves tensors out that these forms name.
        forms = self.form not in ("mixed-forms", "scale") or not mixed
        # A module as trunk serves one width of slot embeddings.
        return ids and forms and not (self.trunk == "module" and mixed)

    @property
    def pairs(self) -> set[tuple[str, str, str, str]]:
        """All pairs of choices in this row."""
        choices = [(k, getattr(self, k)) for k in self.__dataclass_fields__]
        return {(*a, *b) for a, b in itertools.combinations(choices, 2)}

    def __str__(self) -> str:
        return "/".join((self.target, self.layout, self.form, self.condition, self.trunk))

    def build(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> hl.HyperNetwork:
        """Make the hypernetwork; move every learned tensor away from its start.

        A change starts at zero, a bias at its constant: gradients that are lost would not show.
        """
        torch.manual_seed(seed)
        target = TARGETS[self.target]
        layout, condition = LAYOUTS[self.layout](target), CONDITIONS[self.condition]()
        hnet = hl.HyperNetwork(
            target.make().to(dtype),
            condition=condition,
            trunk=TRUNKS[self.trunk](condition, layout),
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
        if self.condition == "embedding":
            return ids
        return (ids, vectors) if self.condition in HAS_IDS else vectors


def shaken(hnet: hl.HyperNetwork, by: float = 0.1) -> hl.HyperNetwork:
    """Return `hnet` with noise added to every learned tensor."""
    with torch.no_grad():
        for parameter in hnet.parameters():
            parameter += by * torch.randn_like(parameter)
    return hnet


def pick(conditions: Any, index: Any) -> Any:
    """Return one condition of a batch."""
    if isinstance(conditions, tuple):
        return tuple(part[index] for part in conditions)
    return conditions[index]


def _choose_rows() -> Iterator[Case]:
    """Yield a row for every target and layout, then rows until every possible pair has occurred.

    Greedy: each row is, of all that the target and layout allow, the one with most new pairs.
    """
    product = itertools.product(TARGETS, LAYOUTS, FORMS, CONDITIONS, TRUNKS)
    pairs = {case: case.pairs for choices in product if (case := Case(*choices)).possible}
    possible = list(pairs)
    # Of rows with equally many new pairs, not always the first.
    random.Random(0).shuffle(possible)
    missing = set().union(*pairs.values())

    def best(rows: list[Case]) -> Case:
        row = max(rows, key=lambda case: len(pairs[case] & missing))
        missing.difference_update(pairs[row])
        return row

    for target, layout in itertools.product(TARGETS, LAYOUTS):
        yield best([c for c in possible if (c.target, c.layout) == (target, layout)])
    while missing:
        yield best(possible)


CASES = list(_choose_rows())
