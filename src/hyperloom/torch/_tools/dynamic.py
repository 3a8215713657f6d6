"""Hypernetworks whose condition carries a state: many steps in one call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from hyperloom._core.backend import protocol
from hyperloom._core.backend.checks import num_steps
from hyperloom._core.backend.documented import completes
from hyperloom._core.backend.views import need_carry
from hyperloom._core.errors import message
from hyperloom.torch._generate.encoded import Encoded
from hyperloom.torch._hypernetwork import HyperNetwork
from hyperloom.torch._run.call import Call
from hyperloom.torch._run.run import run_encoded
from hyperloom.torch._target.arrays import TENSOR
from hyperloom.torch._tools.given import a_hypernetwork


@completes(protocol.Backend.unroll)
def unroll(
    hnet: HyperNetwork, *inputs: Any, condition: Any, carry: Any = None, **kwargs: Any
) -> tuple[Any, Any]:
    """Tensors in keyword arguments are `(T, *batch, ...)` too.

    Args:
        **kwargs: The target's keyword arguments; every tensor `(T, *batch, ...)`.
    """
    hnet = a_hypernetwork("hnet", hnet)
    need_carry(hnet.plan)
    moving = [v for v in tree_flatten(condition)[0] if isinstance(v, Tensor) and v.ndim]
    steps = num_steps(map(len, moving), TENSOR)
    encoded = []
    for step in range(steps):
        now = tree_map(lambda v, step=step: v[step] if isinstance(v, Tensor) else v, condition)
        encoded.append(hnet.encode(now, carry))
        carry = encoded[-1].carry
    batch = encoded[0].batch

    def join(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.shape[: 1 + len(batch)] != (steps, *batch):
            wanted = f"(T, *batch) = {(steps, *batch)} in front, as the condition has"
            raise ValueError(message("inputs", f"shape {tuple(value.shape)}", wanted))
        return value.flatten(0, len(batch))

    given, named = tree_map(join, inputs), tree_map(join, kwargs)
    fields = zip(*(one.each(lambda value: value) for one in encoded), strict=True)
    stacked = (None if steps_of[0] is None else torch.stack(steps_of) for steps_of in fields)
    joined = Encoded(*stacked).flat()  # type: ignore[arg-type]
    call = Call(joined.batch, given, named, 0)
    out = run_encoded(hnet, hnet._runner, joined, call)
    split = (steps, *batch)
    return tree_map(lambda v: v.unflatten(0, split) if isinstance(v, Tensor) else v, out), carry
