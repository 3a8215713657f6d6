"""Readings inside the target: layer by layer, beside the template's own initialisation.

Measured on plain modules, one for each of a few conditions, and on as many drawn as the template
was: hooks see plain tensors there, whatever the strategy of the call was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves  # the trees that torch.func.vmap returns

from hyperloom._core.reports.readings import Inside, LayerReading, TensorReading
from hyperloom.torch._generate.encoded import Encoded
from hyperloom.torch._generate.generator import tensors_of
from hyperloom.torch._run.call import Call
from hyperloom.torch._run.row_calls import RowCall, part_of

if TYPE_CHECKING:
    from hyperloom.torch._hypernetwork import HyperNetwork

_MOST_CONDITIONS = 3
_MOST_TRIED = 16


def floats(tree: Any) -> list[Tensor]:
    """Return the floating tensors of a tree."""
    return [t for t in tree_leaves(tree) if isinstance(t, Tensor) and t.is_floating_point()]


def rms(value: Tensor) -> float:
    """Return the root mean square of a tensor's numbers, NaN if one of them is."""
    value = value.detach()
    value = value.coalesce().values() if value.is_sparse else value
    return float(value.double().square().mean().sqrt()) if value.numel() else 0.0


def probe(outputs: Any) -> Tensor | None:
    """Return a random projection of the outputs, always the same; `None` without a gradient."""
    draws = torch.Generator().manual_seed(0)
    terms: list[Tensor] = []
    for out in floats(outputs):
        direction = torch.randn(out.shape, generator=draws).to(out.device)
        if out.requires_grad:
            wide = out.double() if out.dtype == torch.float64 else out.float()
            terms.append((wide * direction).sum() / math.sqrt(max(1, out.numel())))
    return torch.stack([t.to(terms[0]) for t in terms]).sum() if terms else None


@dataclass
class _Layer:
    """Sums over the uses of a layer."""

    kind: str
    square: float = 0.0
    gradient: float = 0.0
    uses: int = 0
    gradients: int = 0


def look_inside(
    hnet: HyperNetwork, encoded: Encoded, call: Call, tensors: tuple[TensorReading, ...]
) -> Inside:
    """Run plain modules for a few conditions, and as many of the template's own start."""
    runs = _Runs(), _Runs()
    generated = tensors_of(hnet, encoded)
    learns = any(p.requires_grad for p in hnet.parameters())
    attached = {name: value.requires_grad or not learns for name, value in generated.items()}
    dtypes: tuple[str, ...] = ()
    tensors = tuple(replace(t, attached=attached[t.name]) for t in tensors)
    try:
        for index in first_conditions(call):
            weights = {name: value[index].detach() for name, value in generated.items()}
            outputs = runs[0].add(plain_module(hnet, weights), call, index)
            dtypes = tuple(str(t.dtype).removeprefix("torch.") for t in floats(outputs))
            runs[1].add(plain_module(hnet, native_tensors(hnet)), call, index)
        used = _used(hnet, generated, call, runs[0].missing([t.name for t in tensors]))
    except Exception as error:  # the user's own modules: whatever they raise is told
        lines = str(error).strip().splitlines() or [""]
        text = f"layers are not measured: {type(error).__name__}: {lines[0]}"
        return Inside(tensors, (), dtypes, (text,))
    read = tuple(
        replace(t, gradient=runs[0].gradient(t.name), used=used.get(t.name)) for t in tensors
    )
    return Inside(read, tuple(_layers(*runs)), dtypes, ())


def first_conditions(call: Call) -> list[tuple[int, ...]]:
    """Return the indices of the first few conditions; those without rows are left out."""
    if call.by is not None:
        return [(number,) for number in call.by.present()[:_MOST_CONDITIONS]]
    batch, num = call.batch, min(_MOST_CONDITIONS, call.batch.numel())
    indices = [torch.unravel_index(torch.tensor(i), batch) for i in range(num)] if batch else [()]
    return [tuple(int(i) for i in index) for index in indices]


def run_plain(module: nn.Module, call: Call, index: tuple[int, ...]) -> Any:
    """Run a module, as the call runs the target, on the inputs of one condition."""
    args, kwargs = call.inputs, call.kwargs
    if call.by is not None:
        args, kwargs = part_of(RowCall(call.by, args, kwargs, call.paired), index[0])
    else:
        for i in index:
            args = pick_like(args, call.dims, i)
            kwargs = pick_like(kwargs, call.kwargs_dims, i)
    function = module if call.method == "forward" else getattr(module, call.method)
    return function(*args, **kwargs)


def pick_like(tree: Any, dims: Any, index: int) -> Any:
    """Return `tree` with one slice of every paired tensor, along its dimension."""
    if isinstance(tree, Tensor):
        return tree if dims is None else tree.select(dims, index)
    if isinstance(tree, dict):
        return {key: pick_like(value, dims[key], index) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        picked = [pick_like(t, d, index) for t, d in zip(tree, dims, strict=True)]
        return type(tree)(*picked) if hasattr(tree, "_fields") else type(tree)(picked)
    return tree


def plain_module(hnet: HyperNetwork, tensors: Mapping[str, Tensor]) -> nn.Module:
    runner = hnet._runner
    module = runner.skeleton.plain({**runner.kept(), **tensors}, runner.buffers_now())
    for parameter in module.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_()
    return module


def native_tensors(hnet: HyperNetwork) -> dict[str, Tensor]:
    """Draw the generated tensors as the template's were; a base is what it is."""
    bases, drawn = dict(hnet.bases.tensors()), {}
    device = next(hnet.parameters()).device
    for entry in hnet.plan.entries:
        spec, name = hnet.plan.spec[entry.tensor], entry.tensor
        draw = spec.mean + spec.std * torch.randn(spec.shape, device=device)
        drawn[name] = bases.get(name, draw).detach().to(hnet.dtypes[name])
    return drawn


class _Runs:
    """Runs of plain modules, and the sums of what was seen in them."""

    def __init__(self) -> None:
        self.layers: dict[str, _Layer] = {}
        self.grads: dict[str, list[Tensor | None]] = {}

    def add(self, module: nn.Module, call: Call, index: tuple[int, ...]) -> Any:
        """Run a module forward and backward for one condition; return its outputs."""
        handles = [
            part.register_forward_hook(self._hook(name))
            for name, part in module.named_modules()
            if any(p is not None for p in part._parameters.values())
        ]
        outputs = run_plain(module, call, index)
        for handle in handles:
            handle.remove()
        named = dict(module.named_parameters())
        loss = probe(outputs)
        grads: Sequence[Tensor | None] = [None] * len(named)
        if loss is not None:
            grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        for name, grad in zip(named, grads, strict=True):
            self.grads.setdefault(name, []).append(grad)
        return outputs

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, outputs: Any) -> None:
            seen = self.layers.setdefault(name, _Layer(type(module).__name__))
            for out in floats(outputs)[:1]:
                seen.square += rms(out) ** 2
                seen.uses += 1
                if out.requires_grad:
                    out.register_hook(lambda grad: note(grad))

            def note(grad: Tensor) -> None:
                seen.gradient += rms(grad) ** 2
                seen.gradients += 1

        return hook

    def gradient(self, name: str) -> float | None:
        """Return the root mean square of a parameter's gradient; `None` where none came."""
        grads = [g for g in self.grads.get(name, []) if g is not None]
        return math.sqrt(sum(rms(g) ** 2 for g in grads) / len(grads)) if grads else None

    def missing(self, names: Sequence[str]) -> list[str]:
        """Return the names that got no gradient."""
        return [name for name in names if self.gradient(name) is None]


def _used(
    hnet: HyperNetwork, generated: Mapping[str, Tensor], call: Call, names: Sequence[str]
) -> dict[str, bool]:
    """Tell of tensors without a gradient whether the outputs change with them."""
    if not names:
        return {}
    index = first_conditions(call)[0]
    weights = {name: value[index].detach() for name, value in generated.items()}

    def outputs(tensors: Mapping[str, Tensor]) -> list[Tensor]:
        torch.manual_seed(0)
        return floats(run_plain(plain_module(hnet, tensors), call, index))

    with torch.no_grad():
        before, used = outputs(weights), {}
        for name in names[:_MOST_TRIED]:
            noise = torch.randn_like(weights[name]) * max(rms(weights[name]), 1e-2)
            after = outputs({**weights, name: weights[name] + noise})
            pairs = zip(before, after, strict=True)
            used[name] = not all(torch.equal(a, b) for a, b in pairs)
    return used


def _layers(ours: _Runs, native: _Runs) -> list[LayerReading]:
    readings: list[LayerReading] = []
    for name, one in ours.layers.items():
        two = native.layers.get(name)
        if two is None or not one.uses or not two.uses:
            continue
        readings.append(
            LayerReading(
                name=name,
                kind=one.kind,
                activation=math.sqrt(one.square / one.uses),
                native_activation=math.sqrt(two.square / two.uses),
                gradient=math.sqrt(one.gradient / max(1, one.gradients)),
                native_gradient=math.sqrt(two.gradient / max(1, two.gradients)),
            )
        )
    return readings
