"""The registry of rules: what is done in place of a function of PyTorch, and on which occasion.

A rule takes what the function takes, by its names. It stands in the file of its kind, decorated:

    @rule(F.embedding, when=(VMAP, WEIGHT))
    def embedding(input, weight, padding_idx=None, ...): ...

Where a function has rules for several occasions, the first of this list counts: a graph, autocast,
vmap. `WEIGHT` and `ROWS` are asked by stand-ins themselves, under vmap and on rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Rule = Callable[..., Any]
Occasion = dict[Any, Rule]

# Inside a target under vmap: in a graph of torch.compile; where autocast is on; always.
GRAPH: Occasion = {}
AUTOCAST: Occasion = {}
VMAP: Occasion = {}
# Functions written in Python whose parts have rules: they are run with the mode in force.
OPENED: Occasion = {}
# Where an argument is a stand-in for a generated weight.
WEIGHT: Occasion = {}
# Where rows of many conditions meet one: the rule is given their `Meeting` first.
ROWS: Occasion = {}


def rule(*functions: Any, when: Occasion | tuple[Occasion, ...]) -> Callable[[Rule], Rule]:
    """Register a function as the rule of functions of PyTorch.

    Raises:
        ValueError: One of them has a rule for the occasion already.
    """
    occasions = when if isinstance(when, tuple) else (when,)

    def register(replacement: Rule) -> Rule:
        for occasion in occasions:
            for function in functions:
                if function in occasion:
                    raise ValueError(f"{function} has a rule already: {occasion[function]}")
                occasion[function] = replacement
        return replacement

    return register
