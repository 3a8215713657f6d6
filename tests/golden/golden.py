"""Golden files: what users hold, written down. A change of one is a change that users see.

To write all of them anew, after a change that is meant:

    HYPERLOOM_REGENERATE=1 python -m pytest tests/golden tests/core
    git diff tests/golden

and say in CHANGELOG.md what users will see.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

HERE = Path(__file__).parent
COMMAND = "HYPERLOOM_REGENERATE=1 python -m pytest tests/golden tests/core"


def golden_text(name: str, text: str) -> str:
    """Return what the golden file `name` holds; write `text` there first if asked to."""
    path = HERE / name
    if os.environ.get("HYPERLOOM_REGENERATE"):
        path.write_text(f"# Written by: {COMMAND}\n{text}\n", "utf-8")
    return path.read_text("utf-8").partition("\n")[2].removesuffix("\n")


def golden_numbers(name: str, key: str, numbers: list[float]) -> list[float]:
    """Return what the golden JSON file `name` holds under `key`; write `numbers` if asked to."""
    path = HERE / name
    if os.environ.get("HYPERLOOM_REGENERATE"):
        held: dict[str, object] = {"written by": COMMAND}
        held |= json.loads(path.read_text("utf-8")) if path.exists() else {}
        held[key] = [float(f"{number:.8g}") for number in numbers]
        lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in held.items()]
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")
    return json.loads(path.read_text("utf-8"))[key]
