"""From choices to a plan and the modules that execute it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hyperloom._core.backend.checks import check_again
from hyperloom._core.backend.walk import (
    SAMPLE_ELEMENTS,
    SLOT_TABLES,
    needs_moments,
    num_samples,
    refuse_trunk,
    starts_of_later_ids,
    values_used,
)
from hyperloom._core.choices.conditions import Concat, Condition
from hyperloom._core.choices.forms import Form
from hyperloom._core.choices.inits import Init
from hyperloom._core.choices.layouts import Layout
from hyperloom._core.choices.trunks import CustomTrunk
from hyperloom._core.errors import message
from hyperloom._core.plan.compile import compile_plan
from hyperloom._core.plan.plan import Plan
from hyperloom._core.target.spec import TargetSpec
from hyperloom.torch._generate.conditions import (
    ConcatCondition,
    EmbeddingCondition,
    Encoded,
    build_condition,
    joined,
)
from hyperloom.torch._generate.heads import build_head, uniform
from hyperloom.torch._generate.numbers import feature_moments
from hyperloom.torch._generate.recurrent import RecurrentCondition
from hyperloom.torch._generate.sets import ContextCondition
from hyperloom.torch._generate.slots import SlotTables
from hyperloom.torch._generate.trunks import build_trunk, neutral_trunk
from hyperloom.torch._target.copying import reference_to
from hyperloom.torch._target.packed import refuse_formed
from hyperloom.torch._target.tensors import TensorTree


@dataclass
class Built:
    """The parts of a hypernetwork, built and initialised."""

    plan: Plan
    condition: nn.Module
    trunks: nn.ModuleList
    heads: nn.ModuleDict
    scales: Tensor | None
    banks: nn.ParameterList
    bases: TensorTree
    kept: TensorTree
    buffers: TensorTree
    native: TensorTree


def prepare(
    spec: TargetSpec,
    condition: Any,
    trunk: Any,
    layout: Layout | Mapping[str, Layout] | None,
    form: Form | Mapping[str, Form] | None,
    init: Init | None,
) -> tuple[Plan, tuple[nn.Module, nn.ModuleList]]:
    """Compile the user's choices; return the plan and the modules of condition and trunks."""
    neutral, condition_module = build_condition(condition)
    plan = compile_plan(spec, neutral, neutral_trunk(trunk), layout, form, init)
    return plan, (condition_module, _build_trunks(plan, trunk))


def modules_of(plan: Plan, condition: Any, trunk: Any) -> tuple[nn.Module, nn.ModuleList]:
    """Return the modules of condition and trunks for a plan; modules given stand for `Custom`."""
    neutral, condition_module = build_condition(plan.condition if condition is None else condition)
    check_again(plan, None if condition is None else neutral, trunk, nn.Module)
    return condition_module, _build_trunks(plan, trunk)


def _build_trunks(plan: Plan, given: Any) -> nn.ModuleList:
    """Make one trunk for each width; a module of the user's own serves one width only."""
    widths = [plan.condition.width + w for w in plan.widths]
    if isinstance(plan.trunk, CustomTrunk) and len(widths) > 1:
        way_out = "Give the layouts one embedding width, or use MLP, which is built for each."
        got = f"one module for inputs of widths {widths}"
        raise ValueError(message("trunk", got, "heads that agree on the input's width", way_out))
    choice = given if isinstance(given, nn.Module) else plan.trunk
    known = plan.num_ids, plan.condition.context_width
    return nn.ModuleList(build_trunk(choice, width, *known) for width in widths)


def build(
    target: nn.Module, plan: Plan, condition_module: nn.Module, trunks: nn.ModuleList
) -> Built:
    """Make the modules that execute a plan, and fill them with their start."""
    heads = nn.ModuleDict({head.name: build_head(plan, i) for i, head in enumerate(plan.heads)})
    if plan.slot_tables:
        heads[SLOT_TABLES] = SlotTables(plan.slot_tables)
    native = {n: reference_to(p) for n, p in target.named_parameters(remove_duplicate=False)}
    refuse_formed(plan, native)
    scales = torch.tensor([[p.scale, p.shift] for p in plan.pieces]) if plan.has_scales else None
    banks = nn.ParameterList(torch.empty(bank.shape) for bank in plan.banks)
    trees = _trees(target, plan, native)
    built = Built(plan, condition_module, trunks, heads, scales, banks, *trees)
    _move(built, target)
    # Built on the meta device there is nothing to fill, as in torch's own modules.
    if not any(p.is_meta for p in heads.parameters()):
        _fill(built, native)
    return built


def _trees(
    target: nn.Module, plan: Plan, native: Mapping[str, Tensor]
) -> tuple[TensorTree, TensorTree, TensorTree, TensorTree]:
    """Take what is used of the target's values.

    Bases, kept tensors, buffers, and the values that ids added later will start from. What is
    trained or written is a copy; what stays as it is, is held where it is.
    """
    bases, kept, buffers, later = TensorTree(), TensorTree(), TensorTree(), TensorTree()
    for name in values_used(plan):
        if native[name].device.type == "meta":
            got = f"{name!r} on the meta device, which has no values"
            way_out = "Give the target its values, or generate this tensor."
            raise ValueError(message("target", got, "values to keep or to start from", way_out))
    for entry in plan.entries:
        if entry.form.has_base:
            if entry.form.trains_base:
                bases.add_parameter(entry.tensor, native[entry.tensor].clone())
            else:
                bases.add_reference(entry.tensor, native[entry.tensor])
    for name in plan.kept:
        kept.add_reference(name, native[name])
    for path, module in target.named_modules():
        for key, value in module._buffers.items():
            if value is not None:
                name = f"{path}.{key}" if path else key
                persistent = key not in module._non_persistent_buffers_set
                buffers.add_buffer(name, value.detach().clone(), persistent)
    for name in starts_of_later_ids(plan):
        later.add_buffer(name, native[name].clone())
    return bases, kept, buffers, later


def _fill(built: Built, native: Mapping[str, Tensor]) -> None:
    """Give every head its start; measure the trunk's features first."""
    moments = _moments(built)
    for i, head in enumerate(built.plan.heads):
        module: Any = built.heads[head.name]
        divisor = module.start(moments.get(i, 1.0), native)
        if built.scales is not None and divisor != 1.0:
            built.scales[list(module.rows), 0] /= divisor
    with torch.no_grad():
        for bank, values in zip(built.plan.banks, built.banks, strict=True):
            uniform(values, bank.std)


def _moments(built: Built) -> dict[int, float]:
    """Measure the features that heads see, where a start depends on it."""
    if not needs_moments(built.plan):
        return {}  # samples of a flat vector as wide as a target would be large
    samples = sample_conditions(built.plan, built.condition)
    try:
        return feature_moments(built.plan, built.trunks, built.heads, samples)
    except RuntimeError as error:
        refuse_trunk(built.plan, len(samples.vector), error)


def _move(built: Built, target: nn.Module) -> None:
    """Bring the generator to the target's device, and to float64 if the target is float64."""
    parameters = list(target.parameters())
    device = parameters[0].device
    double = all(p.dtype == torch.float64 for p in parameters if p.is_floating_point())
    for module in (built.condition, built.trunks, built.heads, built.banks):
        if device.type != "meta":
            module.to(device)
        if double:
            module.double()
    if built.scales is not None:
        dtype = torch.float64 if double else built.scales.dtype
        built.scales = built.scales.to(None if device.type == "meta" else device, dtype)


def sample_conditions(plan: Plan, module: nn.Module) -> Encoded:
    """Return conditions to measure features on: the ids there are, or draws of the given std."""
    choice, num = plan.condition, num_samples(plan)
    with torch.no_grad():
        return _sample(choice, module, num, torch.Generator().manual_seed(0))


def _sample(choice: Condition, module: nn.Module, num: int, draws: torch.Generator) -> Encoded:
    if isinstance(module, EmbeddingCondition):
        ids = torch.arange(num, device=module.table[0].device) % module.table.num
        return module(ids)
    if isinstance(module, RecurrentCondition):
        return Encoded(module.sample(num, draws))
    if isinstance(choice, Concat):
        assert isinstance(module, ConcatCondition)
        pairs = zip(choice.parts, module.parts, strict=True)
        return joined([_sample(part, built, num, draws) for part, built in pairs])
    if isinstance(module, ContextCondition):
        shape = num, SAMPLE_ELEMENTS, module.choice.dim
        return module(_draw(shape, module.choice.std, draws, module))
    std = getattr(choice, "std", 1.0)
    context = None
    if choice.context_width:
        context = _draw((num, SAMPLE_ELEMENTS, choice.context_width), 1.0, draws, module)
    return Encoded(_draw((num, choice.width), std, draws, module), context=context)


def _draw(shape: tuple[int, ...], std: float, draws: torch.Generator, module: nn.Module) -> Tensor:
    """Return normal draws, of the dtype and on the device of what a module holds."""
    draw = torch.randn(shape, generator=draws)
    # Scaled to the stated mean square exactly: else chance in the draws shifts a head's start.
    draw = draw * (std / draw.square().mean().sqrt()) if draw.numel() else draw
    held = (*module.parameters(), *module.buffers())
    return draw.to(next((t for t in held if t.is_floating_point()), draw))
