"""What the fuzzers of both backends draw: choices by name, from a seed and nothing else."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import hyperloom as hl

NUM_IDS, DIM = 4, 3

CONDITIONS: dict[str, Any] = {
    "ids": hl.Embedding(NUM_IDS, DIM),
    "vector": hl.Vector(DIM),
    "cos and sin": hl.CosSin(DIM),
    "concat": hl.Concat(hl.Embedding(NUM_IDS, 2), hl.Vector(DIM)),
}
TRUNKS: dict[str, Any] = {
    "none": None,
    "mlp": hl.MLP(5),
    "deep": hl.MLP(6, 5, activation="tanh", norm="layer"),
    "plain": hl.MLP(4, activation="gelu", norm=None),
}
LAYOUTS: dict[str, Any] = {
    "full": hl.Full(),
    "chunked": hl.Chunked(7, embedding=3),
    "small chunks": hl.Chunked(3, embedding=2, signs=False),
    "grouped": hl.Grouped(embedding=3),
    "layers": hl.Grouped(embedding=3, unit=hl.Layers()),
    "tiles": hl.Grouped(embedding=2, unit=hl.Tiles(smallest=2)),
    "shared": hl.Shared(),
}
FORMS: dict[str, Any] = {  # those of weights; vectors have `Whole` or `Delta`
    "whole": hl.Whole(),
    "delta": hl.Delta(trained=True),
    "lora": hl.LoRA(2, alpha=3.0),
    "dora": hl.DoRA(2),
    "low rank": hl.LowRank(2),
    "scale": hl.Scale(),
    "scale of inputs": hl.Scale(inputs=True, trained=True),
    "shift": hl.Shift(),
    "rank one": hl.RankOne(),
    "templates": hl.Templates(3),
}


@dataclass(frozen=True)
class Drawn:
    """Everything of a case but the target.

    Attributes:
        condition: Name of the condition.
        trunk: Name of the trunk.
        layouts: Names of the layouts of matrices and of all else; `None` keeps the tensors.
        form: Name of the form of matrices.
        batch: Dimensions of the batch of conditions.
        repeat: Whether conditions repeat.
        dims: How the input pairs: `0`, `1` or `None`.
        shift: How a keyword input pairs: `0`, `None`, or `"none"` for no such input.
        execution: How batches are run.
        transform: What is done with the call.
    """

    condition: str
    trunk: str
    layouts: tuple[str, str | None]
    form: str
    batch: tuple[int, ...]
    repeat: bool
    dims: Any
    shift: Any
    execution: hl.Execution
    transform: str


def draw(pick: random.Random, transforms: tuple[str, ...]) -> Drawn:
    """Draw a case."""
    condition = pick.choice(list(CONDITIONS))
    layouts = [*LAYOUTS, *(["per condition"] if condition in ("ids", "concat") else [])]
    executions = (
        *(hl.Execution(),) * 4,
        hl.Execution(max_memory=pick.choice((1, 2000))),
        hl.Execution(recompute=True),
        hl.Execution(strategy="loop"),
    )
    batch = pick.choice(((3,), (4,), (1,), (2, 2), (3,)))
    return Drawn(
        condition,
        pick.choice(list(TRUNKS)),
        (pick.choice(layouts), pick.choice((*layouts, None))),
        pick.choice(("whole", "whole", *FORMS)),
        batch,
        pick.random() < 0.3,
        pick.choice((0, 0, 1, None)) if len(batch) == 1 else pick.choice((0, None)),
        pick.choice((0, None, "none", "none")),
        pick.choice(executions),
        pick.choice(transforms),
    )


def layout_of(name: str) -> Any:
    """Return a layout by name."""
    return hl.PerCondition() if name == "per condition" else LAYOUTS[name]


def program(seed: int, backend: str) -> str:
    """Return a short program that runs one case again."""
    return f"from tests.{backend}.fuzz import Case\nCase(seed={seed}).check()"
