"""docs/zoo.md, drawn from the tables that the tests run."""

from __future__ import annotations

from pathlib import Path

from tests.zoo.architectures import ARCHITECTURES
from tests.zoo.blocks import BLOCKS
from tests.zoo.classes import LEFT_OUT
from tests.zoo.layers import LAYERS

PAGE = Path(__file__).parents[2] / "docs" / "zoo.md"

_TOP = """# The zoo

What is known to work as a target. The tests run every entry of these tables; the tables are drawn
from the same source, and a test compares them with this page. A test passes when

- a batch of three conditions gives the outputs of a loop over the conditions,
- and the same gradients, to every parameter of the hypernetwork (float64, 1e-9),
- and the buffers that the target writes are the same,
- and the template is bitwise what it was.

`make zoo` runs all of it; [the report](reports/zoo.md) is from such a run.
"""

_LAYERS = """
## Layers of torch.nn

Every class under `torch.nn` that has parameters, in training and in eval mode. The list of classes
is taken from the package, so a class that torch adds makes the test fail until it is entered.
"""

_LEFT_OUT = """
Left out:
"""

_LAZY = """
Lazy layers are ordinary ones after their first call. Before it they have no shapes, and are refused
with an error that says so. Private classes are bases of public ones.
"""

_ARCHITECTURES = """
## Architectures of transformers

{num} models of the `transformers` library, built from tiny configurations with random weights: all
parameters generated, in eval and training mode, and a part of them in eval mode. Rates of dropout
are set to 0 for the comparison, because a loop draws other numbers than a batch does.
"""

_BLOCKS = """
## Networks as users write them

In eval and training mode, all parameters and a part of them.
"""

_TRAINING = """
## Training

Ten optimiser steps on a batch of conditions give the parameters that ten steps of the loop give
(float64, 1e-9), for a recurrent, a convolutional and an attention target, a U-Net and a SIREN, with
whole tensors and with changes to a base.
"""


def _table(titles: list[str], rows: list[list[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _layers() -> str:
    rows = []
    for name in sorted(LAYERS, key=str.lower):
        entries = LAYERS[name]
        notes = [row.note for row in entries if row.note]
        notes += [f"in float32 (1e-5): {row.single}" for row in entries if row.single]
        rows.append([f"`{name}`", str(len(entries)), ", ".join(dict.fromkeys(notes))])
    return _table(["class", "ways to use it", "notes"], rows)


def _left_out() -> str:
    rows = [[f"`{name}`", why] for name, why in LEFT_OUT.items()]
    return _table(["class or module", "why"], rows)


def _architectures() -> str:
    rows = []
    for entry in ARCHITECTURES:
        notes = [f"in float32 (1e-5): {entry.single}"] if entry.single else []
        notes += [f"not in training mode: {entry.eval_only}"] if entry.eval_only else []
        rows.append([entry.kind, f"`{entry.model}`", f"`{entry.pattern}`", "; ".join(notes)])
    return _table(["kind", "model", "part", "notes"], rows)


def draw() -> str:
    """Return the page."""
    blocks = [[name, f"`{pattern}`"] for name, (_, _, pattern) in BLOCKS.items()]
    parts = [
        _TOP,
        _LAYERS,
        _layers(),
        _LEFT_OUT,
        _left_out(),
        _LAZY,
        _ARCHITECTURES.format(num=len(ARCHITECTURES)),
        _architectures(),
        _BLOCKS,
        _table(["network", "part"], blocks),
        _TRAINING,
    ]
    return "\n".join(part.strip("\n") + "\n" for part in parts)
