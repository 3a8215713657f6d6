"""All conditions at once: the target's own forward under `torch.func.vmap`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten  # vmap's own trees

from hyperloom.torch._rules.mode import Lowering
from hyperloom.torch._rules.standin import Generated, dense_leaf
from hyperloom.torch._run.loop import CONSTANT
from hyperloom.torch._target.buffers import Buffers
from hyperloom.torch._weights.weights import Weight

if TYPE_CHECKING:
    from hyperloom.torch._run.call import Call
    from hyperloom.torch._run.runner import Runner


class NotAtOnceError(RuntimeError):
    """The target cannot be run for all conditions at once; the text says why."""


def run_vmap(
    runner: Runner,
    weights: Mapping[str, Weight],
    kept: Mapping[str, Tensor],
    call: Call,
    buffers: Buffers,
) -> Any:
    """Run the target under `vmap`, with weight objects in place of its matrices and kernels.

    Raises:
        NotAtOnceError: It writes a buffer that all conditions share, or returns an object.
    """
    skeleton = runner.skeleton
    owned = {name: weight.owned for name, weight in weights.items()}
    ordered = buffers.in_order()
    if ordered is not None:
        raise NotAtOnceError(f"two conditions of one id write its buffer {ordered!r}")
    batched, returned = buffers.batched(), buffers.returned()
    shared = {name: value for name, value in buffers.shared.items() if name not in batched}
    outside = _Outside()

    def one(owned: Any, batched: Any, args: Any, kwargs: Any) -> Any:
        tensors = dict(kept)
        for name, weight in weights.items():
            hidden = weight.with_owned(owned[name])
            dtype = runner.dtypes[name]
            # Vectors have no way of their own; matrices and kernels have, even dense ones, where
            # vmap is wrong (padding rows of embeddings) or loops (bilinear layers).
            matrix = len(weight.shape) >= 2
            tensors[name] = Generated.of(hidden, dtype) if matrix else hidden.dense().to(dtype)
        given = {name: value.clone() for name, value in {**shared, **batched}.items()}
        own = dict(given)
        with Lowering(runner.execution.randomness == "same"):
            output = skeleton.call(tensors, given, args, kwargs, at_once=True)
        _refuse_shared_writes(shared, own, given)
        return outside.keep(output), {name: given[name] for name in returned}

    function = one
    for _ in call.batch:
        function = vmap(
            function,
            in_dims=(0, 0, call.dims, call.kwargs_dims),
            randomness="same" if runner.execution.randomness == "same" else "different",
        )
    output, made = function(owned, batched, call.inputs, call.kwargs)
    if made:
        buffers.take(made)
    return outside.join(output)


def _refuse_shared_writes(
    shared: Mapping[str, Tensor], own: Mapping[str, Tensor], given: Mapping[str, Tensor]
) -> None:
    if torch.compiler.is_compiling():  # a graph cannot ask
        return
    for name in shared:
        value = given[name]
        if value is not own[name] or (not value.is_inference() and value._version):
            raise NotAtOnceError(f"it writes its buffer {name!r}, which all conditions share")


class _Outside:
    """What a target returns beside tensors, kept out of `vmap`, which returns tensors only."""

    def __init__(self) -> None:
        self.spec: TreeSpec | None = None
        self.leaves: list[Any] = []

    def keep(self, output: Any) -> Any:
        """Return the tensors of an output; keep the rest here."""
        if type(output) is Tensor:
            return output
        leaves, self.spec = tree_flatten(output)
        tensors: list[Tensor] = []
        self.leaves = []
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                tensors.append(dense_leaf(leaf))
                self.leaves.append(_TENSOR)
            elif isinstance(leaf, CONSTANT):
                self.leaves.append(leaf)
            else:
                raise NotAtOnceError(f"it returns a {type(leaf).__name__}")
        return tensors

    def join(self, tensors: Any) -> Any:
        """Put the tensors that `vmap` has returned back among the rest."""
        if self.spec is None:
            return tensors
        rest = iter(tensors)
        leaves = [next(rest) if leaf is _TENSOR else leaf for leaf in self.leaves]
        return tree_unflatten(leaves, self.spec)


_TENSOR = object()
