"""A file that an early version wrote, and what it generates: every version reads it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data"
# Written by 0.1.0.dev0 from PyTorch, with ids that were added, and never again.
PATH = DATA / "format-1.safetensors"
CONDITION = (3, np.array([0.5, -1.0], np.float32))
# What the target returns for `CONDITION`, on ones and in evaluation mode.
OUTPUT = [[-3.9162, -0.4042]]


def generated() -> dict[str, list[float]]:
    """Return the numbers of every tensor that the file generates for `CONDITION`."""
    return json.loads((DATA / "format-1.json").read_text("utf-8"))
