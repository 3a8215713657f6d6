"""A bound target: a module that stands for it, with the weights of some conditions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from hyperloom._core.errors import message
from hyperloom.torch._generate.encoded import Encoded
from hyperloom.torch._generate.generator import Generator as Generating
from hyperloom.torch._generate.generator import tensors_of
from hyperloom.torch._rules.held import Held, Kept, real
from hyperloom.torch._rules.rows.standin import Meeting, Uses
from hyperloom.torch._rules.standin import Modes
from hyperloom.torch._run.call import Call, may_be_ragged
from hyperloom.torch._run.kinds import kind_of
from hyperloom.torch._run.memory import LOOP, Fallback
from hyperloom.torch._run.methods import check_method
from hyperloom.torch._run.ragged import Ragged, ragged
from hyperloom.torch._run.refusal import name_inputs
from hyperloom.torch._run.route import loop_where_repeated, strategy_of
from hyperloom.torch._run.row_calls import with_rows
from hyperloom.torch._run.rows import examined, laid_out
from hyperloom.torch._run.run import run, store
from hyperloom.torch._run.runner import Runner
from hyperloom.torch._run.strategies import STRATEGIES
from hyperloom.torch._run.unwritten import first_run, refuse_late
from hyperloom.torch._run.worn import Worn, run_on
from hyperloom.torch._target.copies import Copies
from hyperloom.torch._target.networks import Networks
from hyperloom.torch._target.norms import norms_of
from hyperloom.torch._target.objects import unpack, with_objects
from hyperloom.torch._target.writes import ACTIVE, lies_in, memory_of, versions
from hyperloom.torch._weights.make import maker_of
from hyperloom.torch._weights.rows import Rows
from hyperloom.torch._weights.sums import SumWeight
from hyperloom.torch._weights.weights import Dense, Weight


class Bound(nn.Module):
    """The target with the weights of some conditions: what `HyperNetwork.bind` returns.

    Calls, methods, attributes and submodules are the target's. Its weights are generated when they
    are first used, once, and gradients flow from all calls to the generator. It has modes of its
    own (`eval()`, `train()`); it is moved by moving the hypernetwork and binding again.
    """

    def __init__(self, hand: Hand) -> None:
        super().__init__()
        # Past nn.Module: the target's modules are not this one's, and what is in it no parameters.
        self.__dict__["_hand"] = hand
        self.training = hand.module.training

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """Run the target's forward."""
        return self._hand.run("forward", inputs, kwargs)

    def __getattr__(self, name: str) -> Any:
        hand: Hand | None = self.__dict__.get("_hand")
        if hand is None or name.startswith("__"):
            raise AttributeError(name)
        return hand.attribute(name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self._hand.module)})

    # What Python looks up on the class: of a target that is a container.

    def __getitem__(self, key: Any) -> Any:
        return self._hand.module[key]  # type: ignore[index]

    def __len__(self) -> int:
        return len(self._hand.module)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._hand.module)  # type: ignore[call-overload]

    def __bool__(self) -> bool:
        return True

    def train(self, mode: bool = True) -> Bound:
        """Set training mode, here and not in the hypernetwork."""
        self._hand.module.train(mode)
        self.training = mode
        return self

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Any]]:
        """Yield the target's tensors; generated ones are stand-ins, without numbers."""
        return self._hand.module.named_parameters(*args, **kwargs)

    def named_buffers(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Tensor]]:
        """Yield the target's buffers."""
        return self._hand.module.named_buffers(*args, **kwargs)

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield the target's children."""
        return self._hand.module.named_children()

    def named_modules(self, *args: Any, **kwargs: Any) -> Any:
        """Yield the target's modules."""
        return self._hand.module.named_modules(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: weights that are generated have no numbers here."""
        way_out = "hnet.instantiate(condition).state_dict(), or save the hypernetwork."
        raise TypeError(
            message("net", "state_dict() of a bound network", "a plain module", way_out)
        )

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        way_out = "Move or convert the hypernetwork, and bind again."
        raise TypeError(message("net", "a bound network to move", "a hypernetwork", way_out))

    def __repr__(self) -> str:
        return f"Bound({self._hand.told()}: {type(self._hand.module).__name__})"


class Hand:
    """What a bound network holds: a copy of the target over stand-ins, and how it is run.

    Args:
        generator: What generates.
        runner: What runs targets.
        encoded: The condition, or a batch of them.
        rows: Which row has which of them; `None` where inputs pair as in an ordinary call.
    """

    def __init__(
        self, generator: Generating, runner: Runner, encoded: Encoded, rows: Rows | None
    ) -> None:
        self.generator, self.runner, self.rows = generator, runner, rows
        self.parts: Ragged | None = None
        self.encoded, self.batch = encoded, encoded.batch
        self.plan, self.dtypes = generator.plan, dict(generator.dtypes)
        self.parameters = tuple(generator.parameters())
        self.trained, self.modes = _versions(self.parameters), Modes.now(encoded.vector.device.type)
        self.maker = maker_of(generator, encoded.flat(), None)
        # What outlives this network: it is not to be written through views.
        lasting = (
            (encoded.vector, *generator.parameters()) if runner.skeleton.code.may_store else ()
        )
        self.lasting = memory_of(lasting)
        self.worn = self._worn()
        base = rows or Rows.blocks(self.batch.numel(), 1)
        self.meeting = Meeting(base, Uses(), self.worn.device)
        self.seats = self._seats()
        self.module = runner.skeleton.holding(*self.seats)

    def told(self) -> str:
        """Return what it is bound to, in words."""
        if not self.batch:
            return "one condition"
        beside = "" if self.rows is None else f" for {self.rows.size} rows"
        return f"{self.batch.numel()} conditions{beside}"

    # ---- what stands in it ----------------------------------------------------------------------

    def _worn(self) -> Worn:
        """Return the weights of the conditions; a weight is generated at its first use."""
        plan, flat = self.plan, self.encoded.flat()
        names = [name for name in plan.rows_by_name if name not in plan.shared]
        make: dict[str, Callable[[], Weight]] = {n: partial(self._weight, n) for n in names}
        shapes: dict[str, Any] = {n: torch.Size(plan.spec[n].shape) for n in names}
        dtypes, num = dict(self.dtypes), len(flat.vector)
        buffers = self.runner.buffers(flat.ids, torch.Size([num]))
        for name, value in buffers.rows.items():
            kept = Dense(name, value.shape[1:], num, value)
            make[name], shapes[name], dtypes[name] = (lambda w=kept: w), kept.shape, value.dtype
        kept = {**self.runner.kept(), **self.maker.shared()}
        shared = self.runner.skeleton.own_tensors(kept)
        worn_buffers = {name: value.clone() for name, value in buffers.shared.items()}
        worn_buffers |= {name: value[0] for name, value in buffers.rows.items()}
        return Worn(num, make, shapes, dtypes, shared, worn_buffers, flat.vector.device, self.modes)

    def _weight(self, name: str) -> Weight:
        """Return a weight."""
        if _versions(self.parameters) != self.trained:
            got = f"{name!r} to generate with a hypernetwork that was trained after bind"
            wanted = "the parameters that bind was called with"
            raise ValueError(message("net", got, wanted, "Bind again after every step."))
        # In the modes of bind: what the maker keeps for several weights has their gradients.
        return self.modes.run(lambda: self.maker.weight(name))

    def _seats(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        if self.batch:
            return self.worn.seats(self.meeting)
        held = {name: self._held(name, make) for name, make in self.worn.make.items()}
        tensors = {n: v for n, v in held.items() if n not in self.worn.buffers}
        return {**self.worn.shared, **tensors}, dict(self.worn.buffers)

    def _held(self, name: str, make: Callable[[], Weight]) -> Tensor:
        dtype = self.worn.dtypes[name]

        def weight() -> Weight:
            of_one = make().to(dtype)
            if isinstance(of_one, SumWeight) or len(of_one.shape) < 2:  # has no parts to keep apart
                of_one = Dense(name, of_one.shape, 1, of_one.dense())
            owned = (value[0] for value in of_one.owned)
            return of_one.with_owned(tuple(map(self._lent, owned)))

        kept = Kept(weight, self.modes)
        return Held.waiting(kept, self.worn.shapes[name], dtype, self.worn.device)

    def _lent(self, value: Tensor) -> Tensor:
        """Return a tensor that may be written: in memory of its own."""
        return value.clone() if self.lasting and lies_in(value, self.lasting) else value

    # ---- what is read, and run ------------------------------------------------------------------

    def attribute(self, name: str) -> Any:
        """Return an attribute of the target; a method is run with the weights."""
        if not hasattr(self.module, name):
            check_method(self.module, name, AttributeError)
        value = getattr(self.module, name)
        network = isinstance(self.module, Networks) and isinstance(value, nn.Module)
        if network or (inspect.ismethod(value) and value.__self__ is self.module):
            return _method(self, name, value)
        return value

    def run(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a method of the target; inputs that it refuses are named."""
        if self.generator.plan is not self.plan or self.generator.dtypes != self.dtypes:
            got = "a network that was bound before its hypernetwork changed"
            raise ValueError(message("net", got, "one that was bound after", "Bind again."))
        if self.rows is None and len(self.batch) == 1 and may_be_ragged(args, kwargs):
            parts = ragged(self.batch[0], args, kwargs, 0)
            if parts is not None:
                return self._for_parts(parts).run(method, parts.inputs, parts.kwargs)
        try:
            return self._run_noted(method, args, kwargs)
        except Exception as error:  # raised again, with its input named where it is about one
            name_inputs(error, self.runner, Call(self.batch, args, kwargs, 0, None, method))
            raise

    def _for_parts(self, parts: Ragged) -> Hand:
        """Return a network of the same weights, whose rows are those of inputs in parts."""
        hand = copy(self)
        hand.parts, hand.rows = parts, parts.rows
        hand.meeting = Meeting(hand.rows, Uses(), self.worn.device)
        hand.seats = hand._seats()
        hand.module = self.runner.skeleton.holding(*hand.seats)
        for part, here in zip(hand.module.modules(), self.module.modules(), strict=True):
            part.training = here.training
        return hand

    def _run_noted(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a method, and see what it writes."""
        skeleton, memory = self.runner.skeleton, self.runner.memory
        if torch.compiler.is_compiling():
            return self._run(method, args, kwargs)
        modes = method, self.module.training, torch.is_grad_enabled(), self.batch, self.rows is None
        kind = modes, tuple(map(type, args)), tuple(kwargs)
        if memory.in_factors.get(kind) is False:
            self._form(kind)
        if kind not in memory.watched:
            output = first_run(
                self.runner,
                self.module,
                (args, kwargs),
                partial(self._run_watched, method, (args, kwargs)),
                self._write_into_copies,
                partial(self._form, kind),
            )
            memory.watched.add(kind)
            return output
        if not skeleton.code.may_store:
            return self._run(method, args, kwargs)
        given = list(self.worn.shared.items())
        before = versions(value for _, value in given)
        output = self._run(method, args, kwargs)
        try:
            refuse_late(self.runner, given, before)
        except RuntimeError:
            self._write_into_copies(skeleton.written)
            raise
        return output

    def _write_into_copies(self, names: Iterable[str]) -> None:
        """Put copies of tensors into the module that is run."""
        shared = self.worn.shared
        for name in {*names} & shared.keys():
            copied = self.modes.run(partial(shared[name].clone))
            self.worn.shared = {**self.worn.shared, name: copied}
            self.runner.skeleton.places.replace_parameter(self.module, name, copied)

    def _form(self, kind: Any) -> None:
        """Put tensors in the place of the stand-ins for one condition: functions ask for them."""
        self.runner.memory.in_factors[kind] = False
        for name, value in self.seats[0].items():
            if isinstance(value, Held):
                self.seats[0][name] = formed = real(value)
                self.runner.skeleton.places.replace_parameter(self.module, name, formed)

    def _run_watched(self, method: str, inputs: Any, copies: Copies | None) -> Any:
        watch = ACTIVE.now
        if watch is not None:
            watch.guard(self.worn.shared, self.runner.skeleton.written)
        return self._run(method, *(inputs if copies is None else copies.inputs))

    def _run(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        updates = any(part.training for part in (m for _, m in norms_of(self.module)))
        if not self.batch and not updates:
            return tree_map(real, self._function(method)(*args, **kwargs))
        call = self._call(method, args, kwargs)
        with self._as_here():
            chain = call.by is None and strategy_of(self.runner, call).strategy == "chain"
            why = "it updates running statistics" if updates else ""
            written = self.runner.skeleton.written
            why = why or (f"it writes into its weight {min(written)!r}" if written else "")
            if not chain and not why and len(self.batch) == 1:
                for laid in laid_out(call, self.worn.num):
                    place = partial(self.runner.skeleton.call, method=method)
                    kind = laid.how, kind_of(self.runner, call)
                    examination = examined(
                        self.runner, place, self.worn, laid.call, kind, keeps=True
                    )
                    why = examination.why or (examination.of_batch() if laid.batch else "")
                    if not why:
                        self.meeting.uses.take(examination.uses)
                        output = run_on(self._place(method), self.seats, self.meeting, laid.call)
                        if self.parts is not None:
                            return unpack(self.parts.back(output, examination.outputs))
                        return unpack(laid.finished(output, examination))
            return unpack(self._otherwise(call, why))

    def _call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        if self.rows is None:
            return Call(self.batch, args, kwargs, 0, None, method)
        if self.parts is not None:
            dims = self.parts.in_dims
            return Call(self.batch, args, kwargs, dims, self.rows, method, self.parts)
        call = Call(self.batch, args, kwargs, None, self.rows, method)
        call.paired = with_rows(self.rows, args, kwargs)
        return call

    def _function(self, method: str) -> Any:
        return self.module if method == "forward" else getattr(self.module, method)

    def _place(self, method: str) -> Any:
        def run(tensors: Any, buffers: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return with_objects(self._function(method), args, kwargs)

        return run

    @contextmanager
    def _as_here(self) -> Generator[None]:
        """Give the skeleton the modes of this module for a while."""
        theirs = self.runner.skeleton.module.modules()
        pairs = list(zip(theirs, self.module.modules(), strict=True))
        before = [part.training for part, _ in pairs]
        try:
            for part, here in pairs:
                part.training = here.training
            yield
        finally:
            for (part, _), training in zip(pairs, before, strict=True):
                part.training = training

    def _otherwise(self, call: Call, why: str) -> Any:
        """Run by another strategy than on rows."""
        runner, encoded = self.runner, self.encoded
        buffers = runner.buffers(encoded.ids, self.batch)
        weights: dict[str, Any] = {
            n: m() for n, m in self.worn.make.items() if n not in self.worn.buffers
        }
        if len(self.batch) != 1:  # no batch, or one with several axes
            weights = tensors_of(self.generator, encoded)
        if call.by is not None or call.method != "forward":
            if self.batch:
                runner.memory.say(LOOP, Fallback("", why))
            way = STRATEGIES["loop" if self.batch else "single"]
            output = way(runner, weights, self.worn.shared, call, buffers)
        else:
            way = loop_where_repeated(strategy_of(runner, call), runner, encoded.ids)
            output = run(runner, way, weights, self.worn.shared, call, buffers)
        store(runner, buffers)
        return output


def _method(hand: Hand, name: str, plain: Any) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        return hand.run(name, args, kwargs)

    run.__name__, run.__doc__ = name, plain.__doc__
    return run


def _versions(parameters: tuple[Tensor, ...]) -> int:
    return sum(parameter._version for parameter in parameters)
