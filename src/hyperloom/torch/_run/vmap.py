"""All conditions at once: the target's own forward under `torch.func.vmap`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import (  # vmap's own trees
    TreeSpec,
    tree_flatten,
    tree_leaves,
    tree_unflatten,
)

from hyperloom.torch._rules.hidden import OneByOneError
from hyperloom.torch._rules.mode import Lowering
from hyperloom.torch._rules.standin import Generated, dense_leaf
from hyperloom.torch._run.joined import CONSTANT
from hyperloom.torch._run.watching import watched
from hyperloom.torch._target.buffers import Buffers
from hyperloom.torch._target.functions import NotAtOnceError
from hyperloom.torch._target.private import HOOKS_ON_GRADIENTS
from hyperloom.torch._target.tensors import equal
from hyperloom.torch._weights.weights import Weight

if TYPE_CHECKING:
    from hyperloom.torch._run.call import Call
    from hyperloom.torch._run.runner import Runner


def run_vmap(
    runner: Runner,
    weights: Mapping[str, Weight | Tensor],
    shared: Mapping[str, Tensor],
    call: Call,
    buffers: Buffers,
) -> Any:
    """Run the target under `vmap`, with stand-ins in place of matrices and kernels in parts.

    Raises:
        NotAtOnceError: It writes a buffer that all conditions share, returns an object, or keeps
            something that would be one for all conditions.
    """
    skeleton, same = runner.skeleton, runner.execution.randomness == "same"
    hidden = {n: w if isinstance(w, Tensor) else w.owned for n, w in weights.items()}
    batched, returned = {}, []
    if runner.has_buffers:
        batched, returned = buffers.batched(), buffers.returned()
    untouched = {name: value for name, value in buffers.shared.items() if name not in batched}
    inputs, dims = (call.inputs, call.kwargs), (call.dims, call.kwargs_dims)
    if skeleton.code.takes_leaves:
        inputs, dims = _all_paired(inputs, dims, call.batch)
    ids = frozenset(id(leaf) for leaf in tree_leaves(inputs))
    outside = _Outside()
    closely = _looks_closely(runner)

    def one(hidden: Any, batched: Any, args: Any, kwargs: Any) -> Any:
        tensors = dict(shared)
        for name, weight in weights.items():
            value = hidden[name]
            if not isinstance(weight, Tensor):
                value = _stand_in(weight.with_owned(value), runner.dtypes[name])
            tensors[name] = value
        given = {name: value.clone() for name, value in {**untouched, **batched}.items()}
        before = dict(given)
        with Lowering(same, ids):
            leaves = tree_leaves((args, kwargs)) if call.mutable else None
            output = skeleton.call(tensors, given, args, kwargs, at_once=True, method=call.method)
            if leaves is not None and _differ(leaves, tree_leaves((args, kwargs))):
                raise OneByOneError("it changes a list or a dict that it is given")
        if untouched:
            _refuse_shared_writes(untouched, before, given, closely)
        return outside.keep(output), {name: given[name] for name in returned}

    function = one
    for _ in call.batch:
        function = vmap(
            function,
            in_dims=(0, 0, *dims),
            randomness="same" if same else "different",
        )
    free = skeleton.code.needs_no_watch and not any(HOOKS_ON_GRADIENTS)
    with nullcontext() if free else watched(runner, call):
        output, written = function(hidden, batched, *inputs)
    if written:
        buffers.take(written)
    return outside.join(output)


def _all_paired(inputs: Any, dims: Any, batch: torch.Size) -> tuple[Any, Any]:
    """Give every input the batch in front: each condition has gradients of its own for it."""
    leaves, spec = tree_flatten(inputs)
    of_each, dims_spec = tree_flatten(dims)
    if len(of_each) != len(leaves):
        return inputs, dims
    for i, (leaf, dim) in enumerate(zip(leaves, of_each, strict=True)):
        if dim is None and isinstance(leaf, Tensor) and leaf.is_floating_point():
            leaves[i], of_each[i] = leaf.expand(*batch, *leaf.shape), 0
        elif dim and isinstance(leaf, Tensor) and len(batch) == 1:
            leaves[i], of_each[i] = leaf.movedim(dim, 0), 0
    return tree_unflatten(leaves, spec), tree_unflatten(of_each, dims_spec)


def _differ(before: list[Any], after: list[Any]) -> bool:
    return len(before) != len(after) or any(a is not b for a, b in zip(before, after, strict=True))


def _stand_in(weight: Weight, dtype: torch.dtype) -> Tensor:
    """Return what the target finds in place of a weight; vectors have no way of their own."""
    return Generated.of(weight, dtype) if len(weight.shape) >= 2 else weight.dense().to(dtype)


def _looks_closely(runner: Runner) -> bool:
    """Whether buffers are compared: for writes that tensors do not count.

    Through `.data`, or in inference mode. Once in each mode, or where the code may write any.
    """
    if torch.compiler.is_compiling():
        return False
    skeleton = runner.skeleton
    mode, compared = (skeleton.module.training, torch.is_grad_enabled()), runner.memory.compared
    known = mode in compared
    compared.add(mode)
    return not known or skeleton.code.may_write


def _refuse_shared_writes(
    shared: Mapping[str, Tensor],
    placed: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    closely: bool,
) -> None:
    if torch.compiler.is_compiling():  # a graph cannot ask
        return
    for name in shared:
        value = given[name]
        written = not value.is_inference() and value._version
        if closely and not written and not value.is_meta:
            written = not equal(value, shared[name])
        if value is not placed[name] or written:
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
