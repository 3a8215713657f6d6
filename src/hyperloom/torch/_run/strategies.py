"""The table of strategies: how a target is run with the weights of a call.

Another way of running is a file with a function of the same signature, a row here, and the place
in `route.py` that says when it is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hyperloom.torch._run.chain import run_chain
from hyperloom.torch._run.loop import run_loop
from hyperloom.torch._run.none import run_none
from hyperloom.torch._run.rows import run_rows
from hyperloom.torch._run.single import run_single
from hyperloom.torch._run.vmap import run_vmap

# (runner, weights, shared, call, buffers) -> what the target returns. `weights` are tensors
# (*batch, *shape) or weight objects by name, `shared` tensors (*shape) that all conditions share.
Strategy = Callable[..., Any]

STRATEGIES: dict[str, Strategy] = {
    "single": run_single,
    "none": run_none,
    "chain": run_chain,
    "rows": run_rows,
    "vmap": run_vmap,
    "loop": run_loop,
}
