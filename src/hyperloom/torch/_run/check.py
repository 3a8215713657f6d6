"""The net under all ways of running: one condition of a batch is run alone, and compared.

The result of a batch is defined as that of its conditions, run one after the other. The first call
of a kind is compared with that: one condition runs on copies of its inputs in a copy of the target,
which leaves nothing behind. A way whose result differs beyond rounding is not taken again.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_flatten, tree_map_only

from hyperloom.torch._rules.standin import Generated
from hyperloom.torch._run.call import Call
from hyperloom.torch._run.joined import CONSTANT
from hyperloom.torch._run.pairing import select_like
from hyperloom.torch._run.runner import Runner
from hyperloom.torch._target.buffers import Buffers
from hyperloom.torch._target.objects import with_objects
from hyperloom.torch._target.private import any_autocast
from hyperloom.torch._weights.weights import Weight

# Of the largest number in the output. Low precision adds up over a deep target.
_TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3}
_COARSE = 0.1
# A difference of more than this many times the effect of rounding the inputs is not rounding.
_TIMES_ROUNDING = 1000.0


class Alone:
    """One condition of a batch, to be run by itself.

    Create it before the batch runs, which may write its inputs.

    Args:
        runner: What runs the target.
        weights: Tensors `(*batch, *shape)` or weight objects by name.
        shared: Tensors that all conditions share.
        call: The inputs of the batch.
        buffers: The target's buffers, with nothing written yet.
    """

    def __init__(
        self,
        runner: Runner,
        weights: Mapping[str, Any],
        shared: Mapping[str, Tensor],
        call: Call,
        buffers: Buffers,
    ) -> None:
        self.runner, self.batch, self.method = runner, call.batch, call.method
        self.number = call.batch.numel() - 1  # the last: what others have left behind meets it
        inputs: Any = (call.inputs, call.kwargs)
        for index in self._place():
            inputs = select_like(inputs, (call.dims, call.kwargs_dims), index)
        self.inputs = tree_map_only(Tensor, _leaf_copy, inputs)
        of_one = {name: self._of_one(weight) for name, weight in weights.items()}
        # Weights are formed; those whose base is packed in a layer are applied by their parts.
        self.packed = {n: w for n, w in of_one.items() if isinstance(w, Weight) and w.packed}
        self.tensors = {name: _leaf_copy(value) for name, value in shared.items()}
        for name, value in of_one.items():
            if isinstance(value, Tensor):
                self.tensors[name] = _leaf_copy(value)
            elif not value.packed:
                self.tensors[name] = _leaf_copy(value.dense().to(runner.dtypes[name]))
        self.buffers = buffers.copy()

    def differs(self, output: Any) -> str:
        """Say how a batch's output differs from that of the condition alone; `""` if it does not.

        Where the target draws random numbers, only structure, shapes and dtypes are compared.
        """
        try:
            alone, draws = self._run(0.0)
        except (
            Exception
        ):  # what cannot be run alone (here, or as a copy) is nothing to compare with
            return ""
        ours, specs = tree_flatten(output)
        theirs, spec = tree_flatten(alone)
        if spec != specs:
            return "at once it returns another structure than one condition alone"
        last = len(self.batch) - 1
        pairs = [
            (a.flatten(0, last)[self.number] if isinstance(a, Tensor) else a, b)
            for a, b in zip(ours, theirs, strict=True)
        ]
        difference = next((text for a, b in pairs if (text := _kinds_differ(a, b))), "")
        if difference or draws:
            return difference
        largest = self._largest([a for a, _ in pairs], theirs)
        if not largest:
            return ""
        again = tree_flatten(self._run(torch.finfo(self._coarsest()).eps)[0])[0]
        if largest <= _TIMES_ROUNDING * self._largest(again, theirs):
            return ""
        return f"at once, its results are off by {largest:.2g} of the largest of one alone"

    def _largest(self, ours: list[Any], theirs: list[Any]) -> float:
        """Return the largest difference relative to the output, if rounding does not explain it."""
        coarsest = self._coarsest()
        differences = [
            _difference(a, b)
            for a, b in zip(ours, theirs, strict=True)
            if isinstance(a, Tensor) and isinstance(b, Tensor)
        ]
        largest = max(differences, default=0.0)
        return largest if largest > _TOLERANCES.get(coarsest, _COARSE) else 0.0

    def _coarsest(self) -> torch.dtype:
        """Return the floating dtype with the fewest digits that takes part."""
        if any_autocast():
            return torch.bfloat16
        tensors = [t for t in tree_flatten((self.inputs, self.tensors))[0] if isinstance(t, Tensor)]
        dtypes = {t.dtype for t in tensors if t.is_floating_point()}
        return max(dtypes, key=lambda d: torch.finfo(d).eps, default=torch.float32)

    def _run(self, noise: float) -> tuple[Any, bool]:
        """Run, and say whether random numbers were drawn; the generators are put back."""
        signs = torch.Generator().manual_seed(0)

        def copied(value: Tensor) -> Tensor:
            if not noise or not value.is_floating_point():
                return value.clone()
            flips = torch.randint(2, value.shape, generator=signs).to(value) * 2 - 1
            return value * (1 + noise * flips)

        # Hooks for saved tensors are of a checkpoint around the call, which is to see one run.
        hooks = saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)
        args, kwargs = tree_map_only(Tensor, copied, self.inputs)
        tensors = {name: copied(value) for name, value in self.tensors.items()}
        for name, weight in self.packed.items():
            parts = weight.with_owned(tuple(copied(_leaf_copy(part)) for part in weight.owned))
            tensors[name] = Generated.of(parts, self.runner.dtypes[name])
        start = self.buffers.copy()
        with _generators() as drawn, hooks, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with start.one(self.number) as written:
                module = self.runner.skeleton.holding(tensors, written)
                called = module if self.method == "forward" else getattr(module, self.method)
                output = with_objects(called, args, kwargs)
            return output, drawn()

    def _of_one(self, weight: Weight | Tensor) -> Weight | Tensor:
        last = len(self.batch) - 1
        if isinstance(weight, Tensor):
            return weight.flatten(0, last)[self.number]
        return weight.with_owned(tuple(part.flatten(0, last)[self.number] for part in weight.owned))

    def _place(self) -> tuple[int, ...]:
        return tuple(size - 1 for size in self.batch)


def _leaf_copy(value: Tensor) -> Tensor:
    """Return a copy whose gradients lead nowhere, but which is told from one without as before."""
    copied = value.detach().clone()
    return copied.requires_grad_() if value.requires_grad else copied


def _kinds_differ(ours: Any, theirs: Any) -> str:
    if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
        kinds = [f"{t.dtype} {tuple(t.shape)}" for t in (ours, theirs)]
        return "" if kinds[0] == kinds[1] else "at once it returns {}, alone {}".format(*kinds)
    if isinstance(ours, Tensor) or isinstance(theirs, Tensor):
        return "it returns a tensor in one of two ways"
    same = not isinstance(theirs, CONSTANT) or ours == theirs or ours != ours
    return "" if same else f"at once it returns {ours!r}, alone {theirs!r}"


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference, of the largest number; 1 where one of two is not finite."""
    if not theirs.numel():
        return 0.0
    a, b = (
        t.detach().to(torch.complex128 if t.is_complex() else torch.float64) for t in (ours, theirs)
    )
    if not torch.equal(torch.isfinite(a), torch.isfinite(b)):
        return 1.0
    a, b = a[torch.isfinite(a)], b[torch.isfinite(b)]
    if not b.numel():
        return 0.0
    size = float(b.abs().max())
    return float((a - b).abs().max()) / size if size else float(a.abs().max() > 0)


@contextmanager
def _generators() -> Generator[Any]:
    """Put random generators back afterwards; yield what says whether anything was drawn."""
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()

    def states() -> list[Any]:
        named, keys, *rest = np.random.get_state()
        of_cuda = torch.cuda.get_rng_state_all() if cuda else []
        plain = [random.getstate(), (named, bytes(np.asarray(keys)), *rest)]
        return [*plain, torch.get_rng_state(), *of_cuda]

    before, numpy = states(), np.random.get_state()

    def drawn() -> bool:
        now = states()
        tensors = zip(before[2:], now[2:], strict=True)
        return before[:2] != now[:2] or not all(torch.equal(a, b) for a, b in tensors)

    try:
        yield drawn
    finally:
        random.setstate(before[0])
        np.random.set_state(numpy)
        torch.set_rng_state(before[2])
        if cuda:
            torch.cuda.set_rng_state_all(before[3:])
