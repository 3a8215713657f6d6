"""Which way a call goes: decided once for each kind of call, and told by `explain()`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hyperloom._core.choices.execution import Execution
from hyperloom._core.errors import message
from hyperloom._core.plan.contraction import contracts, has_factors, made_bytes
from hyperloom._core.plan.part import Part, part_of
from hyperloom.torch._generate.encoded import Encoded
from hyperloom.torch._generate.generator import (
    Generator,
    is_hooked,
    may_share,
    runs_slots_alone,
)
from hyperloom.torch._generate.numbers import waits_for_gradient
from hyperloom.torch._run.call import Call
from hyperloom.torch._run.chain import Program, write_program
from hyperloom.torch._run.kinds import kind_of
from hyperloom.torch._run.memory import LOOP, Fallback
from hyperloom.torch._run.pairing import refuse_meta_inputs
from hyperloom.torch._run.runner import Runner
from hyperloom.torch._run.strategies import STRATEGIES, Strategy
from hyperloom.torch._target.functions import NotAtOnceError
from hyperloom.torch._target.private import any_autocast, inside_transform
from hyperloom.torch._weights.choose import choose

_USUAL = Execution()
_CHAIN = "the target is a chain of simple layers, run with the conditions in front"
ROWS = ("rows", "all rows at once, each with the weights of its condition")
_OWN_FORWARD = "the target has a forward of its own"


@dataclass(frozen=True)
class Route:
    """The way of one kind of call.

    Attributes:
        strategy: The row of `STRATEGIES` that runs the target.
        reason: Why.
        run: What runs it: the strategy's function, or the program's.
        from_parts: Whether some layer is evaluated from a weight's parts, so that weight objects
            are to be generated; else tensors are, in one go.
        shares: Whether rows that share a condition are to be looked for.
        rows_first: Whether rows are tried first: the factors of weights then meet plain tensors.
        program: What is done layer by layer, where that is decided beforehand.
        size: Conditions in one part, where the call is run in parts.
        recompute: Whether a part is generated and run again in the backward pass.
        guarded: Whether the loop takes its place where it fails.
        tried: Whether such a call has gone well before.
        checked: Whether it was compared with one condition alone, or is not to be.
        slow: What is run by a slower way, and why.
        part: The part of the plan that generates what such calls use; `None` for all of it.
        noting: Whether what the call uses is to be noted, for those that follow.
        asking: Whether it is to be noted how layers take their weights: where every one forms its
            own, calls that follow form all of them in one go.
        watched: Whether such a call was watched for writes into weights, or runs no code of the
            target's.
    """

    strategy: str
    reason: str
    run: Strategy
    from_parts: bool = False
    shares: bool = False
    rows_first: bool = False
    program: Program | None = None
    size: int | None = None
    recompute: bool = False
    guarded: bool = False
    tried: bool = False
    checked: bool = True
    slow: tuple[Fallback, ...] = ()
    part: Part | None = None
    noting: bool = False
    asking: bool = False
    watched: bool = False


def route(
    generator: Generator, runner: Runner, encoded: Encoded, call: Call, whole: bool = False
) -> Route:
    """Return the way of a call.

    Args:
        generator: What generates.
        runner: What runs.
        encoded: The conditions.
        call: The inputs.
        whole: Whether this is a part of a call already.
    """
    if torch.compiler.is_compiling():  # a graph is not to depend on what is remembered
        return _decided(generator, runner, encoded, call, whole)
    kind = kind_with_sizes(generator, runner, encoded, call, whole)
    known = runner.memory.routes.get(kind)
    if known is None:
        known = _decided(generator, runner, encoded, call, whole)
        known = _in_part(generator, runner, call, known)
        known = _asked(generator, runner, call, known, kind, whole)
        runner.memory.keep(kind, known)
    return known if not runner.ordered else loop_where_repeated(known, runner, encoded.ids)


def kind_with_sizes(
    generator: Generator, runner: Runner, encoded: Encoded, call: Call, whole: bool
) -> tuple[Any, ...]:
    """Return all that a decision depends on, but for what assignments make the runner forget."""
    vector, x = encoded.vector, call.usual
    chain = runner.chain if runner.lowered is not None else None
    kind = (
        vector.shape,
        vector.dtype,
        vector.device,
        encoded.ids is None,
        torch.is_grad_enabled(),
        runner.skeleton.module.training,
        any_autocast(),
        chain is None,
        whole,
        # Whether distributed training waits for a gradient may change, where it matters at all.
        not generator.plan.widths and waits_for_gradient(generator.plan),
    )
    if x is None:
        chained = chain is not None and call.chain_input() is not None
        return kind, call.rows(), chained, kind_of(runner, call)
    hooked = False  # a program passes over the head's hooks
    if chain is not None:
        for head in generator._modules["heads"]._modules.values():  # type: ignore[union-attr]
            hooked = hooked or bool(head._forward_hooks or head._forward_pre_hooks)  # type: ignore[union-attr]
    return kind, x.shape, x.dtype, x.device, x.requires_grad, hooked


def _decided(
    generator: Generator, runner: Runner, encoded: Encoded, call: Call, whole: bool
) -> Route:
    plan, execution, batch = generator.plan, runner.execution, call.batch
    refuse_meta_inputs(call, encoded.vector.device)
    if not whole:
        num = batch[0] if len(batch) == 1 else 1
        bytes_of_one = made_bytes(plan, encoded.vector.element_size())
        size = execution.conditions_at_once(bytes_of_one) or num
        recompute = execution.recompute and torch.is_grad_enabled()
        if size < num or recompute:
            way = strategy_of(runner, call)
            return replace(way, size=min(size, num) or 1, recompute=recompute)
    way = strategy_of(runner, call)
    if not batch:  # what comes in factors is applied so
        parts = has_factors(plan) and not waits_for_gradient(plan)
        return replace(way, from_parts=parts)
    if len(batch) != 1 or way.strategy == "none":
        return way
    program = _program(generator, runner, encoded, call)
    if program is not None:
        return replace(way, run=program.run, program=program)
    # The layers of a chain have as many rows as its input, and a graph is traced for those of the
    # input. Other layers choose by their rows when they run; here one row per condition is assumed,
    # for which parts are cheapest.
    known = way.strategy == "chain" or torch.compiler.is_compiling()
    rows = call.rows() if known else 1
    sizes = (batch[0], rows, encoded.vector.element_size(), encoded.vector.device.type)
    options: Any = {"backward": torch.is_grad_enabled(), "choose": choose}
    forced = way.strategy == "rows" or bool(runner.ways)
    from_parts = forced or contracts(plan, *sizes, **options)
    from_parts = from_parts and not waits_for_gradient(plan)
    return replace(
        way,
        from_parts=from_parts,
        shares=may_share(generator, encoded),
        rows_first=from_parts and way.guarded and way.strategy == "vmap" and has_factors(plan),
    )


def _asked(
    generator: Generator, runner: Runner, call: Call, way: Route, kind: Any, whole: bool
) -> Route:
    """Return the way without weight objects where every layer was seen to form its weight.

    Weights in parts are generated one by one, and looked at where they are used.
    """
    own = way.strategy == "vmap" and way.from_parts and way.size is None and way.part is None
    if not own or way.rows_first or runner.ways or has_factors(generator.plan):
        return way
    if kind in runner.memory.formed:
        return replace(way, from_parts=False)
    return replace(way, asking=way.tried and call.usual is not None and not whole)


def _in_part(generator: Generator, runner: Runner, call: Call, way: Route) -> Route:
    """Return the way with the part of the plan that is to be generated, where that is known.

    Distributed training waits for gradients of everything, so everything is generated there.
    """
    plan, used = generator.plan, runner.memory.used.get(used_kind(runner, call))
    if way.size is not None or way.program is not None or way.strategy == "chain":
        return way
    if len(plan.entries) < 2 or (dist.is_available() and dist.is_initialized()):
        return way
    if used is None:
        return replace(way, noting=True)
    left_out = plan.num_generated - sum(
        piece.numel for e in plan.entries if e.tensor in used for piece in e.pieces
    )
    settled = not way.guarded or way.rows_first or (way.tried and way.checked)
    if not used or left_out * _WORTH < plan.num_generated or not settled or is_hooked(generator):
        return way
    alone = runs_slots_alone(generator)
    if not alone and any(len(heads) > 1 for heads in plan.trunk_heads):
        return way  # what the trunk makes of some slots depends on those of other heads
    return replace(way, part=part_of(plan, used, alone))


_WORTH = 16  # one part in so many is worth leaving out


def used_kind(runner: Runner, call: Call) -> Any:
    """Return what tells calls apart that may use different tensors of the target."""
    return kind_of(runner, call), len(call.batch)


def strategy_of(runner: Runner, call: Call) -> Route:
    """Return how the target is run, whatever its weights are made of."""
    way = _strategy_of(runner, call)
    if way.strategy == "chain" or torch.compiler.is_compiling():  # a graph cannot be watched
        return replace(way, watched=True)
    return replace(way, watched=kind_of(runner, call) in runner.memory.watched)


def _strategy_of(runner: Runner, call: Call) -> Route:
    asked = runner.execution.strategy
    if not call.batch:
        return _way("single", "one condition: the target is run as it is")
    if call.by is not None:
        return _of_rows(runner, call, asked)
    if 0 in call.batch and not torch.compiler.is_compiling():
        return _way("none", "there is no condition")
    if asked == "auto" and _is_chain(runner) and call.chain_input() is not None:
        return _way("chain", _CHAIN)
    if asked != "auto":
        return _way(asked, f'Execution(strategy="{asked}") asks for it')
    if call.objects:  # a graph or vmap has tensors only
        return _one_by_one(Fallback("", "it is given an object for each condition"))
    kind = kind_of(runner, call)
    fallback = runner.memory.fallbacks.get(kind)
    if fallback is not None:
        return _one_by_one(fallback)
    if kind in runner.memory.on_rows:
        reason = f"all rows at once; under vmap, {runner.memory.on_rows[kind]}"
        return _way("rows", reason, guarded=True, tried=True)
    if torch.compiler.is_compiling():
        if runner.has_buffers and runner.skeleton.code.may_write:
            return _one_by_one(Fallback("", "it may write its buffers, which a graph cannot tell"))
        return _way("vmap", _OWN_FORWARD)
    tried, slow = kind in runner.memory.at_once, runner.memory.slow.get(kind, ())
    checked = kind in runner.memory.checked or not runner.execution.check
    options = {"guarded": True, "tried": tried, "checked": checked, "slow": slow}
    return _way("vmap", _OWN_FORWARD, **options)


def _of_rows(runner: Runner, call: Call, asked: str) -> Route:
    """Return how inputs are run whose rows belong to different conditions."""
    kind = kind_of(runner, call)
    fallback = runner.memory.fallbacks.get(kind)
    if asked == "vmap":
        wanted = "'auto', 'rows' or 'loop' beside rows=: vmap has no rows"
        raise ValueError(message("Execution(strategy=)", repr(asked), wanted))
    if asked == "loop":
        return _way("loop", 'Execution(strategy="loop") asks for it')
    if asked == "rows":
        return _way("rows", 'Execution(strategy="rows") asks for it')
    if fallback is not None:
        return _one_by_one(fallback)
    return _way("rows", ROWS[1], guarded=True, tried=kind in runner.memory.at_once)


def on_rows(generator: Generator, runner: Runner, way: Route, call: Call) -> bool:
    """Whether a call whose conditions repeat is to be run on rows, if its rows do not meet."""
    if runner.execution.strategy != "auto" or way.strategy not in ("chain", "vmap", "loop"):
        return False
    if torch.compiler.is_compiling() or inside_transform():
        return False
    if waits_for_gradient(generator.plan):  # weights in parts have none for a vector that is unused
        return False
    return kind_of(runner, call) not in runner.memory.not_on_rows


def _way(strategy: str, reason: str, **options: Any) -> Route:
    return Route(strategy, reason, STRATEGIES[strategy], **options)


def _one_by_one(fallback: Fallback) -> Route:
    return _way("loop", f"one after the other, because of {fallback}", slow=(fallback,))


def _is_chain(runner: Runner) -> bool:
    """Whether the target is a chain in this mode; its dropout draws for each condition."""
    same_draws = runner.execution.randomness == "same" and runner.skeleton.module.training
    return runner.chain is not None and not same_draws


def _program(generator: Generator, runner: Runner, encoded: Encoded, call: Call) -> Program | None:
    """Return the program for a call like this, if a program can do it."""
    x, chain, vector = call.usual, runner.chain, encoded.vector
    usual = replace(runner.execution, check=True) == _USUAL
    if x is None or chain is None or not usual or torch.compiler.is_compiling():
        return None
    if encoded.ids is not None and encoded.batch != (1,):  # rows may share ids
        return None
    head: Any = next(iter(generator.heads.values()))
    hooked = head._forward_hooks or head._forward_pre_hooks
    if type(x) is not Tensor or hooked or x.is_meta:
        return None
    if torch.is_autocast_enabled(x.device.type):
        return None
    return write_program(generator, chain, vector, x, torch.is_grad_enabled())


def loop_where_repeated(way: Route, runner: Runner, ids: Tensor | None) -> Route:
    """Return the loop where two conditions of one id write a buffer that is kept by id.

    The second condition starts from what the first has written; only running statistics can be
    corrected afterwards. This holds for these conditions, and not for all calls of the kind.

    Raises:
        NotAtOnceError: They do, and `vmap` is asked for.
    """
    if ids is None or way.size is not None or way.strategy in ("single", "loop"):
        return way
    if not runner.skeleton.module.training or torch.compiler.is_compiling():
        return way
    if len(ids.unique()) == ids.numel():
        return way
    fallback = Fallback("", f"two conditions of one id write its buffer {runner.ordered!r}")
    if not way.guarded:
        raise NotAtOnceError(fallback.why)
    runner.memory.say(LOOP, fallback)
    return replace(_one_by_one(fallback), from_parts=way.from_parts, shares=way.shares)
