"""How far one step of an optimiser moves generated tensors, beside a plain network's.

The step is taken on copies: of the parameters, and of the optimiser with its options but without
its memory. So what is measured is its first step from here.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hyperloom._core.errors import message
from hyperloom._core.reports.readings import StepReading, TensorReading
from hyperloom._core.reports.steps import Moved, grows, with_steps
from hyperloom.torch._generate.supplied import generate_with
from hyperloom.torch._hypernetwork import HyperNetwork
from hyperloom.torch._run.call import Call
from hyperloom.torch._tools.doctor_layers import (
    first_conditions,
    native_tensors,
    plain_module,
    probe,
    rms,
    run_plain,
)

Tensors = Mapping[str, Tensor]
Gradients = Mapping[str, Tensor | None]


def check_optimizer(optimizer: Any) -> None:
    """Raise unless `optimizer` is one of torch's."""
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        wanted = "a torch.optim.Optimizer over the hypernetwork's parameters"
        raise TypeError(message("optimizer", optimizer, wanted))


def measure_step(
    hnet: HyperNetwork,
    condition: Any,
    call: Call,
    grads: Gradients,
    optimizer: Optimizer,
    tensors: tuple[TensorReading, ...],
) -> tuple[tuple[TensorReading, ...], StepReading]:
    """Take one step for the gradients given; return the tensors' readings with its effect."""
    params = dict(hnet.named_parameters())
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    lost = tuple(n for n, p in params.items() if p.requires_grad and id(p) not in known)
    reading = StepReading(type(optimizer).__name__, lost)
    try:
        after = _after(optimizer, params, grads, _own_groups)
        twice = _after(optimizer, params, _doubled(grads), _own_groups)
        ours = _spread_moved(*(_generated(hnet, condition, p) for p in (params, after)))
        plain = _plain(hnet, call, optimizer)
    except Exception as error:  # whatever the optimiser or the user's modules raise is told
        lines = str(error).strip().splitlines() or [""]
        return tensors, replace(reading, unmeasured=f"{type(error).__name__}: {lines[0]}")
    once, double = (sum(rms(new[n] - params[n]) for n in params) for new in (after, twice))
    return with_steps(tensors, ours, plain), replace(reading, grows=grows(once, double))


def _spread_moved(before: Tensors, after: Tensors) -> Moved:
    """Return for each tensor how far its numbers moved, and how they were spread before."""
    return {
        name: (rms(after[name] - value), rms(value - value.double().mean()))
        for name, value in before.items()
    }


def _generated(hnet: HyperNetwork, condition: Any, params: Tensors) -> dict[str, Tensor]:
    with torch.no_grad():
        generated = generate_with(hnet, condition, params)
    return generated[0] if hnet.plan.condition.has_carry else generated


def _plain(hnet: HyperNetwork, call: Call, optimizer: Optimizer) -> Moved:
    """Do the same with a plain network, all of it at the rate of the optimiser's first group."""
    tensors = native_tensors(hnet)
    module = plain_module(hnet, tensors)
    params = dict(module.named_parameters())
    loss = probe(run_plain(module, call, first_conditions(call)[0]))
    gradients: Any = [None] * len(params)
    if loss is not None:
        gradients = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
    grads = dict(zip(params, gradients, strict=True))
    after = _after(optimizer, params, grads, _one_group)
    return _spread_moved(
        {name: params[name].detach() for name in tensors}, {name: after[name] for name in tensors}
    )


Groups = Callable[[list[dict[str, Any]], dict[int, nn.Parameter]], list[dict[str, Any]]]


def _own_groups(groups: list[dict[str, Any]], twins: dict[int, nn.Parameter]) -> list[Any]:
    """Return the optimiser's groups, as far as their parameters are among those copied."""
    return [
        {**group, "params": [twins[id(p)] for p in group["params"] if id(p) in twins]}
        for group in groups
    ]


def _one_group(groups: list[dict[str, Any]], twins: dict[int, nn.Parameter]) -> list[Any]:
    """Return one group of all parameters, with the options of the first."""
    options = {key: value for key, value in groups[0].items() if key != "param_names"}
    return [{**options, "params": list(twins.values())}]


def _after(
    optimizer: Optimizer, params: Tensors, grads: Gradients, regroup: Groups
) -> dict[str, Tensor]:
    """Return what a first step makes of copies of the parameters."""
    twins = {name: nn.Parameter(p.detach().clone(), p.requires_grad) for name, p in params.items()}
    for name, twin in twins.items():
        grad = grads.get(name)
        twin.grad = None if grad is None else grad.detach().clone()
    by_id = {id(params[name]): twin for name, twin in twins.items()}
    # Optimizer's own __getstate__ leaves out hooks, and a step() that a scheduler has wrapped.
    copied = copy.copy(optimizer)
    for key, value in vars(optimizer).items():
        if key != "step":
            copied.__dict__.setdefault(key, value)
    copied.defaults = dict(optimizer.defaults)
    copied.state = defaultdict(dict)
    copied.param_groups = regroup(optimizer.param_groups, by_id)
    copied.step()
    return {name: twin.detach() for name, twin in twins.items()}


def _doubled(grads: Gradients) -> dict[str, Tensor | None]:
    return {name: None if g is None else 2 * g for name, g in grads.items()}
