"""The cases, in the report's order."""

from __future__ import annotations

from benchmarks import continual, conv, curves, dynamic, film, generate, grid, imports, lora, single
from benchmarks._case import Case

_MODULES = (dynamic, grid, lora, film, conv, continual, single, generate, imports, curves)
CASES: dict[str, Case] = {module.CASE.name: module.CASE for module in _MODULES}
