"""The table of cases: target x layout x form x condition x trunk, for every backend.

Every layout is run on every target; the other choices are spread over those rows so that every
pair of choices that can go together occurs at least once. The choice of rows is computed, always
the same, and checked by `on_torch/test_transforms.py`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import hyperloom as hl

NUM_IDS = 5
DIM = 3


@dataclass(frozen=True)
class Target:
    """A target of a backend, what it is fed, and its names for mixes by pattern."""

    make: Callable[[], Any]
    inputs: Callable[..., Any]
    matrices: tuple[str, ...]
    mixed_layout: Mapping[str, Any]
    mixed_form: Mapping[str, Any]


def mlp_target(make: Any, inputs: Any, first: str, last: str, matrix: str) -> Target:
    """Return the MLP's row; its names are its first layer's, its last one's and the weights'."""
    layouts = {  # nothing names the bias of the layer between: it keeps the target's own values
        f"{last}.*": hl.PerCondition(),
        f"{first}.{matrix}": hl.Chunked(5, embedding=2),
        f"*.{matrix}": hl.Grouped(embedding=3),
        f"{first}.bias": hl.Shared(),
    }
    forms = {f"*.{matrix}": hl.Delta(), f"{last}.bias": hl.Delta(trained=True)}
    return Target(make, inputs, (f"*.{matrix}",), layouts, forms)


def cnn_target(make: Any, inputs: Any, layers: str, matrix: str) -> Target:
    """Return the CNN's row; `layers` stands before the places of its layers."""
    layouts = {
        f"{layers}1.*": hl.PerCondition(),
        f"{layers}3.{matrix}": hl.Grouped(2, hl.Tiles(4)),
        f"{layers}?.{matrix}": hl.Chunked(30, 2),
        f"{layers}5.bias": hl.Full(),
    }
    forms = {f"{layers}?.{matrix}": hl.Delta(trained=True), f"{layers}1.bias": hl.Delta()}
    return Target(make, inputs, (f"{layers}[035].{matrix}",), layouts, forms)


def tied_target(make: Any, inputs: Any) -> Target:
    """Return the row of the embedding that is an output layer too."""
    layouts = {
        "head.weight": hl.Chunked(7, embedding=2),
        "norm.*": hl.Shared(),
        "head.bias": hl.Full(),
    }
    return Target(make, inputs, ("head.weight",), layouts, {"head.*": hl.Delta(trained=True)})


def attention_target(make: Any, inputs: Any, matrix: str) -> Target:
    """Return the row of the block with attention."""
    layouts = {
        "norm*": hl.PerCondition(),
        "query*": hl.Chunked(10, 2, per_condition=True),
        "mlp.*": hl.Grouped(embedding=2, unit=hl.Tiles(4)),
        f"out.{matrix}": hl.Full(),
    }
    forms = {f"*.{matrix}": hl.Delta(), "mlp.*.bias": hl.Delta(trained=True)}
    matrices = ("query*", f"out.{matrix}", f"mlp.*.{matrix}")
    return Target(make, inputs, matrices, layouts, forms)


# ---- the five choices ---------------------------------------------------------------------------

TARGETS = ("mlp", "cnn", "tied", "attention")

LAYOUTS: dict[str, Callable[[Target], Any]] = {
    "full": lambda t: hl.Full(),
    "chunked": lambda t: hl.Chunked(7, embedding=2),  # 7 divides none of the targets
    "chunked-per-condition": lambda t: hl.Chunked(9, embedding=2, per_condition=True),
    "grouped-tensors": lambda t: hl.Grouped(embedding=2),
    "grouped-layers": lambda t: hl.Grouped(embedding=3, unit=hl.Layers()),
    "grouped-tiles": lambda t: hl.Grouped(embedding=2, unit=hl.Tiles(smallest=2)),
    "grouped-largest": lambda t: hl.Grouped(embedding=2, unit=hl.Largest(limit=5)),
    "grouped-ranks": lambda t: hl.Grouped(embedding=2, unit=hl.Ranks()),
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
    "low-rank": lambda t: dict.fromkeys(t.matrices, hl.LoRA(2, alpha=3.0)),
    "directed": lambda t: dict.fromkeys(t.matrices, hl.DoRA(2, alpha=3.0)),
    "product": lambda t: dict.fromkeys(t.matrices, hl.LowRank(2)),
    "scale": lambda t: dict.fromkeys(t.matrices, hl.Scale()) | {"*.bias": hl.Shift()},
    "scale-inputs": lambda t: dict.fromkeys(t.matrices, hl.Scale(trained=True, inputs=True)),
    "rank-one": lambda t: dict.fromkeys(t.matrices, hl.RankOne(trained=True)),
    "templates": lambda t: dict.fromkeys(t.matrices, hl.Templates(3)),
}

CONDITIONS: dict[str, Callable[[], Any]] = {
    "embedding": lambda: hl.Embedding(NUM_IDS, 4),
    "vector": lambda: hl.Vector(DIM),
    "embedding+vector": lambda: hl.Concat(hl.Embedding(NUM_IDS, 4), hl.Vector(DIM)),
    "embedding+noise": lambda: hl.Concat(hl.Embedding(NUM_IDS, 2), hl.Noise(DIM)),
    "module": lambda: None,  # the backend's own
}
HAS_IDS = {"embedding", "embedding+vector", "embedding+noise"}

TRUNKS: dict[str, Any] = {
    "none": None,
    "mlp-rms": hl.MLP(6, 8),
    "mlp-layer": hl.MLP(6, 5, activation="gelu", norm="layer"),
    "mlp-plain": hl.MLP(5, activation="tanh", norm=None),
    "module": None,  # the backend's own
}

STRUCTURED: dict[str, Any] = {  # forms with a base that is trained, where they have one
    "whole": hl.Whole(),
    "delta": hl.Delta(trained=True),
    "low rank": hl.LoRA(2, alpha=3.0, trained=True),
    "directed": hl.DoRA(2, alpha=3.0, trained=True),
    "product": hl.LowRank(2),
    "scale": hl.Scale(trained=True),
    "scale inputs": hl.Scale(trained=True, inputs=True),
    "shift": hl.Shift(trained=True),
    "rank one": hl.RankOne(trained=True),
    "templates": hl.Templates(3),
}

# ---- cases --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
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

    def raw(self, ids: Any, vectors: Any) -> Any:
        """Return the raw value of conditions, of whose ids and vectors it may have both."""
        if self.condition == "embedding":
            return ids
        return (ids, vectors) if self.condition in HAS_IDS else vectors

    def __str__(self) -> str:
        return "/".join((self.target, self.layout, self.form, self.condition, self.trunk))


def pick(conditions: Any, index: Any) -> Any:
    """Return one condition of a batch."""
    if isinstance(conditions, tuple):
        return tuple(pick(part, index) for part in conditions)
    return conditions[index]


def _choose_rows() -> Iterator[Row]:
    """Yield a row for every target and layout, then rows until every possible pair has occurred.

    Greedy: each row is, of all that the target and layout allow, the one with most new pairs.
    """
    product = itertools.product(TARGETS, LAYOUTS, FORMS, CONDITIONS, TRUNKS)
    possible = [case for choices in product if (case := Row(*choices)).possible]
    # Sets of pairs as bits of an integer: every worker chooses when it collects the tests.
    bits: dict[tuple[str, str, str, str], int] = {}
    pairs = {
        case: sum(1 << bits.setdefault(pair, len(bits)) for pair in case.pairs) for case in possible
    }
    # Of rows with equally many new pairs, not always the first.
    random.Random(0).shuffle(possible)
    missing = (1 << len(bits)) - 1

    def best(rows: list[Row]) -> Row:
        nonlocal missing
        row = max(rows, key=lambda case: (pairs[case] & missing).bit_count())
        missing &= ~pairs[row]
        return row

    for target, layout in itertools.product(TARGETS, LAYOUTS):
        yield best([c for c in possible if (c.target, c.layout) == (target, layout)])
    while missing:
        yield best(possible)


ROWS = list(_choose_rows())
