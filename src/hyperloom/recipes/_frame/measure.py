"""Measures of code: how many lines it has, and how long a step takes."""

from __future__ import annotations

import ast
import inspect
import textwrap
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, NamedTuple


class Side(NamedTuple):
    """One of the programs that do the same.

    Attributes:
        lines: Of code, by `lines_of`.
        ms: Of one training step, by `ms_of`.
    """

    lines: int
    ms: float


def lines_of(*things: Any) -> int:
    """Return how many lines of code classes, functions or modules have.

    Blank lines, comments and docstrings do not count. Code is unparsed first, so a statement
    counts the same however it is broken into lines.
    """
    count = 0
    for thing in things:
        tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)) and (
                ast.get_docstring(node) is not None
            ):
                node.body = node.body[1:] or [ast.Pass()]
        count += len(ast.unparse(tree).replace("\n\n", "\n").strip().splitlines())
    return count


def ms_of(steps: Mapping[str, Callable[[], object]], times: int = 20) -> dict[str, float]:
    """Return the median time of each step in milliseconds.

    They take turns, so that a busy machine hits all alike; the first two turns do not count.
    """
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(times + 2):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn > 1:
                taken[name].append(1e3 * (time.perf_counter() - start))
    return {name: median(values) for name, values in taken.items()}
