"""The readings of `doctor()`: one call with its gradients, and what is between its ends.

Nothing is left behind: gradients are taken with `torch.autograd.grad`, which stores none, and what
a call may change (buffers, modes, random generators, what was warned of) is put back.
"""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from hyperloom._core.choices.execution import SlowWarning
from hyperloom._core.plan.plan import Entry
from hyperloom._core.reports.doctor import Report
from hyperloom._core.reports.measures import collapsed, differences, read_tensor, starts, told
from hyperloom._core.reports.readings import PartReading, Readings, TensorReading
from hyperloom.torch._generate.conditions import EmbeddingCondition
from hyperloom.torch._generate.encoded import Encoded
from hyperloom.torch._generate.generator import tensors_of
from hyperloom.torch._generate.heads import HeadModule
from hyperloom.torch._generate.numbers import slot_features
from hyperloom.torch._generate.table import Table
from hyperloom.torch._hypernetwork import HyperNetwork
from hyperloom.torch._run.call import Call
from hyperloom.torch._run.run import run_encoded
from hyperloom.torch._target.tensors import equal
from hyperloom.torch._tools.doctor_layers import floats, look_inside, probe, rms
from hyperloom.torch._tools.doctor_steps import check_optimizer, measure_step

_SLOW = re.compile(
    r"performance drop because we have not yet implemented the batching rule for (\S+?)\. "
)
_Again = Callable[[], None]


def examine(
    hnet: HyperNetwork,
    condition: Any,
    inputs: tuple[Any, ...],
    options: dict[str, Any],
    optimizer: Optimizer | None = None,
) -> Report:
    """Take all readings and return the report; inputs and options are those of `forward`."""
    check_optimizer(optimizer)
    kwargs = dict(options)
    in_dims, rows, method = map(kwargs.pop, ("in_dims", "rows", "method"))
    name, kept = hnet.plan.spec.name, hnet.plan.kept
    readings = Readings(name, 1, parts=_parts(hnet, None, None), kept=kept)
    with _as_it_was(hnet) as again, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            encoded = hnet.encode(condition)
            call = hnet._call_of(encoded, inputs, kwargs, in_dims, rows, method)
            readings = replace(readings, conditions=max(1, encoded.batch.numel()))
            again()
            outputs = hnet(*inputs, condition=condition, **options)
            grads = _gradients(hnet, outputs)
            again()
            with torch.no_grad():
                how = hnet.explain(*inputs, condition=condition, **options)
        except Exception as error:  # whatever the user's modules raise is what is to be told
            return Report(replace(readings, errors=(told("the call fails", error),)))
        # What follows are calls of ours. Slow ways are told by explain().
        heard = [str(w.message).strip() for w in caught if w.category is not SlowWarning]
        again()
        stages, tensors, unchecked = _differences(hnet, condition, encoded, call, again)
        again()
        inside, step = look_inside(hnet, encoded, call, tensors), None
        if optimizer is not None:
            again()
            read = measure_step(hnet, condition, call, grads, optimizer, inside.tensors)
            inside, step = replace(inside, tensors=read[0]), read[1]
    return Report(
        replace(
            readings,
            parts=_parts(hnet, grads, encoded.ids),
            tensors=inside.tensors,
            layers=inside.layers,
            stages=stages,
            tolerance=_tolerance(hnet, outputs),
            unchecked=unchecked,
            strategy=f"run as {how.strategy}: {how.reason}",
            slow=how.slow or _slow(heard),
            dtypes=(_dtypes(outputs), inside.dtypes),
            step=step,
            warnings=(*_others_told(heard), *inside.errors),
        )
    )


def _slow(told: Sequence[str]) -> tuple[str, ...]:
    """Say which operations vmap ran one condition after the other."""
    found = [match[1] for text in told if (match := _SLOW.search(text))]
    operations = dict.fromkeys(found)
    return tuple(
        f"{op} is run one condition after the other: vmap has no rule for it." for op in operations
    )


def _others_told(told: Sequence[str]) -> tuple[str, ...]:
    first = (text.splitlines()[0] for text in told if not _SLOW.search(text))
    return tuple(f"the call warns: {line}" for line in dict.fromkeys(first))


def _dtypes(tree: Any) -> tuple[str, ...]:
    return tuple(str(t.dtype).removeprefix("torch.") for t in floats(tree))


def _tolerance(hnet: HyperNetwork, outputs: Any) -> float:
    """Return the relative difference that rounding makes, in the coarsest dtype in play."""
    dtypes = [t.dtype for t in floats(outputs)] + [
        d for d in hnet.dtypes.values() if d.is_floating_point
    ]
    return 16 * max((torch.finfo(d).eps for d in dtypes), default=1e-7)


# ---- nothing is left behind ---------------------------------------------------------------------


@contextmanager
def _as_it_was(hnet: HyperNetwork) -> Generator[_Again]:
    """Put back what a call may change; yield a function that sets the random generators back."""
    modules = [*hnet.modules(), *hnet._runner.skeleton.module.modules()]
    modes = [(module, module.training) for module in modules]
    # Bases and kept tensors may be large, and no call writes into them.
    large = {id(m) for tree in (hnet.bases, hnet.kept, hnet.native) for m in tree.modules()}
    buffers = [
        (module, key, value, value.detach().clone())
        for module in hnet.modules()
        if id(module) not in large
        for key, value in module._buffers.items()
        if value is not None
    ]
    keys = [(module, list(module._buffers)) for module in hnet.modules()]
    # What was warned of is warned of again: this call was not the user's own.
    memory = hnet._runner.memory.copy()
    devices = sorted({p.device.index for p in hnet.parameters() if p.device.type == "cuda"})
    start = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices), torch.inference_mode(False), torch.enable_grad():
        seeds = torch.get_rng_state(), [torch.cuda.get_rng_state(d) for d in devices]

        def again() -> None:
            random.setstate(start[0])
            np.random.set_state(start[1])
            torch.set_rng_state(seeds[0])
            for device, state in zip(devices, seeds[1], strict=True):
                torch.cuda.set_rng_state(state, device)

        try:
            yield again
        finally:
            again()
            hnet._runner.memory = memory
            for module, mode in modes:
                module.training = mode
            for module, names in keys:
                for added in set(module._buffers) - set(names):
                    del module._buffers[added]
            for module, key, value, before in buffers:
                module._buffers[key] = value
                # Its version says nothing: batch_norm writes its statistics past it.
                if not equal(value, before):
                    with torch.no_grad():
                        value.copy_(before)


# ---- the parts of the generator -----------------------------------------------------------------


def _gradients(hnet: HyperNetwork, outputs: Any) -> dict[str, Tensor | None]:
    """Return the gradient of a random projection of the outputs, by parameter name."""
    trained = {name: p for name, p in hnet.named_parameters() if p.requires_grad}
    loss = probe(outputs)
    if loss is None or not trained:
        return dict.fromkeys(trained)
    gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return dict(zip(trained, gradients, strict=True))


def _parts(
    hnet: HyperNetwork, grads: Mapping[str, Tensor | None] | None, ids: Tensor | None
) -> tuple[PartReading, ...]:
    """Read every parameter; before the call, without gradients."""
    idle = _idle(hnet, ids)
    alike = _alike(hnet)
    readings: list[PartReading] = []
    for name, p in hnet.named_parameters():
        random_start, starts_zero = starts(hnet.plan, name, p.ndim)
        grad = None if grads is None else grads.get(name)
        readings.append(
            PartReading(
                name=name,
                shape=tuple(p.shape),
                dtype=str(p.dtype).removeprefix("torch."),
                device=str(p.device),
                trains=p.requires_grad,
                finite=bool(torch.isfinite(p.detach()).all()),
                dead=random_start and not bool(p.detach().any()),
                alike=name in alike,
                starts_zero=starts_zero,
                idle=idle.get(name, ""),
                gradient=None if grad is None else rms(grad),
            )
        )
    return tuple(readings)


def _tables(hnet: HyperNetwork) -> Iterator[tuple[str, Table]]:
    for name, module in hnet.named_modules():
        if isinstance(module, Table):
            yield name, module


def _idle(hnet: HyperNetwork, ids: Tensor | None) -> dict[str, str]:
    """Return the parameters that this call has no use for, with the reason."""
    reasons: dict[str, str] = {}
    if not hnet.plan.widths:  # tables by id only: no features, so no vector is looked at
        reasons = {f"condition.{n}": "only ids used" for n, _ in hnet.condition.named_parameters()}
    if ids is None:
        return reasons
    for name, table in _tables(hnet):
        first = 0
        for i, block in enumerate(table):
            last = first + len(block)
            if not bool(((ids >= first) & (ids < last)).any()):
                reasons[f"{name}.{i}"] = "other ids"
            first = last
    return reasons


def _alike(hnet: HyperNetwork) -> set[str]:
    """Return the embeddings whose rows are all the same, though they should differ."""
    names: set[str] = set()
    for name, module in hnet.named_modules():
        if isinstance(module, EmbeddingCondition) and collapsed(_numbers(module.table.rows()), 0):
            names |= {f"{name}.table.{i}" for i in range(len(module.table))}
        elif isinstance(module, HeadModule) and isinstance(module.slots, nn.Parameter):
            if collapsed(_numbers(module.slots), 0):
                names.add(f"{name}.slots")
        elif isinstance(module, HeadModule) and isinstance(module.slots, Table):
            blocks = enumerate(map(_numbers, module.slots))
            names |= {f"{name}.slots.{i}" for i, b in blocks if collapsed(b, 1)}
    return names


def _numbers(value: Tensor) -> np.ndarray:
    return value.detach().double().cpu().numpy()


# ---- what depends on the condition --------------------------------------------------------------


def _differences(
    hnet: HyperNetwork, condition: Any, encoded: Encoded, call: Call, again: _Again
) -> tuple[tuple[tuple[str, float | None], ...], tuple[TensorReading, ...], str]:
    """Run the same inputs with other conditions; return how far each stage differs."""
    with torch.no_grad():
        other, unchecked = _others(hnet, condition, encoded)
        # The generators of random numbers start alike, so that dropout draws the same.
        again()
        generated = tensors_of(hnet, encoded)
        again()
        changed = tensors_of(hnet, other) if other is not None else None
        tensors = tuple(_tensor(hnet, entry, generated, changed) for entry in hnet.plan.entries)
        if other is None or changed is None:
            return (), tensors, unchecked
        again()
        one = run_encoded(hnet, hnet._runner, encoded, call)
        again()
        two = run_encoded(hnet, hnet._runner, other, call)
        features: list[dict[int, Tensor]] = [{}, {}]
        if hnet.plan.widths:
            for i, seen in enumerate((encoded, other)):
                again()
                features[i] = slot_features(hnet.plan, hnet.trunks, hnet.heads, seen)
    stages = differences(
        hnet.plan,
        (_arrays(_seen_by_trunk(encoded)), _arrays(_seen_by_trunk(other))),
        (_arrays(features[0].values()), _arrays(features[1].values())),
        (
            {n: _numbers(v) for n, v in generated.items()},
            {n: _numbers(v) for n, v in changed.items()},
        ),
        (_arrays(floats(one)), _arrays(floats(two))),
    )
    return stages, tensors, unchecked


def _seen_by_trunk(encoded: Encoded) -> list[Tensor]:
    """Return what trunks see of conditions: vectors, and contexts if there are any."""
    return [encoded.vector] + ([] if encoded.context is None else [encoded.context])


def _arrays(tensors: Iterable[Tensor]) -> list[np.ndarray]:
    return [_numbers(t) for t in tensors]


def _others(hnet: HyperNetwork, condition: Any, encoded: Encoded) -> tuple[Encoded | None, str]:
    """Return as many other conditions, each in the place of one that differs from it."""
    if isinstance(hnet.condition, EmbeddingCondition):
        num = hnet.condition.table.num
        if num < 2:
            return None, "there is only one id"
        assert encoded.ids is not None
        return hnet.encode((encoded.ids + 1) % num), ""
    batch = encoded.batch
    if batch.numel() < 2:
        return None, "it takes a batch of two conditions or more"
    if not _raw_differs(condition, batch):
        return None, "the conditions given are all the same"

    def rolled(value: Tensor) -> Tensor:
        flat = value.flatten(0, len(batch) - 1)
        return flat.roll(1, 0).view(value.shape)

    return encoded.each(rolled), ""


def _raw_differs(condition: Any, batch: torch.Size) -> bool:
    """Whether the raw values differ from one condition to the next; unknown counts as yes."""
    batched = [
        t
        for t in tree_leaves(condition)
        if isinstance(t, Tensor) and t.shape[: len(batch)] == batch
    ]
    rows = [t.flatten(0, len(batch) - 1) for t in batched]
    return not rows or any(bool((r[1:] != r[:1]).any()) for r in rows)


def _tensor(
    hnet: HyperNetwork,
    entry: Entry,
    generated: Mapping[str, Tensor],
    changed: Mapping[str, Tensor] | None,
) -> TensorReading:
    """Read a generated tensor; its gradient comes later."""
    name, bases = entry.tensor, dict(hnet.bases.tensors())
    base = _numbers(bases[name]) if name in bases else None
    other = None if changed is None else _numbers(changed[name])
    return read_tensor(hnet.plan, entry, _numbers(generated[name]), other, base)
