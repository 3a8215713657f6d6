"""The target without its values: a copy full of placeholders that is run with given tensors."""

from __future__ import annotations

import threading
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hyperloom._core.target.spec import TargetSpec
from hyperloom.torch._target.attributes import computed_by_hooks
from hyperloom.torch._target.calling import Method, in_eager, parameter_paths
from hyperloom.torch._target.checkpointing import CheckpointedError, Watch, WatchedParameters
from hyperloom.torch._target.closures import holder, refuse_outside_references
from hyperloom.torch._target.code import Code
from hyperloom.torch._target.copies import Copies, Draws
from hyperloom.torch._target.copying import Convert, SharedCopy, copy_with
from hyperloom.torch._target.norms import momenta_of, norms_of
from hyperloom.torch._target.objects import pack, with_objects
from hyperloom.torch._target.outliving import OutlivesError, References
from hyperloom.torch._target.placeholder import Placeholder, PlaceholderError, Ungenerated
from hyperloom.torch._target.places import Places
from hyperloom.torch._target.private import no_cached_parametrizations, saving_hooks
from hyperloom.torch._target.reads import Reads
from hyperloom.torch._target.scan import renormed_paths
from hyperloom.torch._target.trace import Trace
from hyperloom.torch._target.writes import ACTIVE, is_stand_in

# The skeleton whose call is being watched just now, and what was noted before it began.
_NOTED: ContextVar[tuple[Any, Trace | None]] = ContextVar("noted", default=(None, None))


class Skeleton:
    """A private copy of the target whose parameters and buffers hold no numbers.

    The user's own module is never touched, so no call and no exception can change it. Every tensor
    is given at every call; one that is forgotten is a placeholder, and fails loudly.

    Not a module: its parameters are not parameters of the hypernetwork.
    """

    def __init__(self, target: nn.Module, spec: TargetSpec) -> None:
        self.module = copy_with(target, Placeholder.of)
        refuse_outside_references(target, self.module)
        self._holder = holder(self.module)
        self.reads: Reads | None = None
        # Modes in which the values of buffers were compared, and what that has found.
        self.compared: set[bool] = set()
        self.secretly_written: set[str] = set()
        # Modes in which a call was watched, in which it checkpoints activations (training or not),
        # and in which it uses its modules after the call.
        self.watched: set[Any] = set()
        self.checkpointing: set[bool] = set()
        self.outliving: set[Any] = set()
        # Tensors that the target writes into: it is given a copy, anew at every call.
        self.written: set[str] = set()
        self.was_watched = False  # for writes into weights, in a call outside of graphs
        self.spec = spec
        self._rnns = [m for m in self.module.modules() if isinstance(m, nn.RNNBase)]
        self._computed = [(m, n) for m in self.module.modules() for n in computed_by_hooks(m)]
        self._let_go()
        self.places = Places(self.module, target, spec)
        renormed, paths = renormed_paths(self.module), self.places.paths
        self.written.update(name for name in paths if renormed & {*paths[name]})
        self.settle()

    def __getstate__(self) -> dict[str, Any]:
        # A copy makes its own lock.
        return {key: value for key, value in self.__dict__.items() if key != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.settle()

    def settle(self) -> None:
        """Look at the modules once; to be called again after they were changed."""
        self.lock = threading.RLock()
        self._norms = dict(norms_of(self.module))
        self.momenta = momenta_of(self._norms)
        self.code = Code(self.module, self._norms)
        paths = {path for aliases in self.places.paths.values() for path in aliases}
        self._owners = [
            (part, [(key, full) for key, full in keys if full in paths])
            for part, keys in parameter_paths(self.module)
        ]

    def convert(self, fn: Convert) -> None:
        """Follow a `.to()`, `.half()`, `.double()` ... of the hypernetwork: dtypes only."""
        for tensor in (*self.module.parameters(), *self.module.buffers()):
            tensor.data = Placeholder.of(tensor, fn(torch.empty(0, dtype=tensor.dtype)).dtype)

    @contextmanager
    def noting(self) -> Generator[Reads]:
        """Note which tensors the target's code uses."""
        before, self.reads = self.reads, Reads()
        try:
            yield self.reads
        finally:
            self.reads = before

    @contextmanager
    def watching(self, inputs: Any) -> Generator[Trace | None]:
        """Do as `Code.watch`; a call inside need not note the same once more."""
        trace = self.code.watch(inputs)
        token = _NOTED.set((self, trace))
        try:
            yield trace
        finally:
            _NOTED.reset(token)

    def statistics_now(self) -> list[str]:
        """Return the names of the running statistics that a run in the present mode updates."""
        return [
            f"{path}.{key}" if path else key
            for path, module in self._norms.items()
            if module.training
            for key, value in module._buffers.items()
            if value is not None
        ]

    def call(
        self,
        tensors: Mapping[str, Tensor],
        buffers: dict[str, Tensor],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        at_once: bool = False,
        method: str = "forward",
    ) -> Any:
        """Run the target, or another method, with `tensors` (by their spec's names) and `buffers`.

        A buffer that the target replaces by another tensor is replaced in `buffers`.

        One thread at a time: two would put their tensors into the same module. A target that
        checkpoints activations is run as a module of its own, which still holds its tensors when
        the backward pass runs parts of it again; not under `vmap` (`at_once`).

        Raises:
            ValueError: Activation checkpointing with `use_reentrant=True`, while gradients are
                taken.
        """
        run = partial(self._run, tensors, buffers, at_once, method)
        if kwargs or any(type(value) is not Tensor for value in args):
            return with_objects(run, args, kwargs)
        output = run(*args)  # the usual call is not looked through for objects
        return output if type(output) is Tensor else pack(output)

    def _run(
        self,
        tensors: Mapping[str, Tensor],
        buffers: dict[str, Tensor],
        at_once: bool,
        method: str,
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Run the target; see `call`."""
        given = {**self._placed(tensors), **buffers}
        if self._holder is not None:
            if at_once:
                held = f"it holds tensors of its own in its attribute {self._holder!r}"
                raise PlaceholderError(held)
            call = self._call_holder
            if torch.compiler.is_compiling():  # a graph cannot copy modules
                call = partial(in_eager(), call)
            return call(given, buffers, args, kwargs, method)
        if torch.compiler.is_compiling():  # a graph has no threads, and no locks
            outputs = self._call_traced(given, args, kwargs, method)
            buffers.update((name, given[name]) for name in buffers)
            return outputs
        grad = torch.is_grad_enabled()
        mode = self.module.training, grad, method, at_once
        settled = self.code.of_torch_alone or (mode in self.watched and (at_once or not grad))
        if mode in self.outliving:
            self._refuse_stand_ins(tensors)
            outputs = self._call_own(given, args, kwargs, method)
        elif settled:
            outputs = self._call(given, args, kwargs, method)
        elif grad and not at_once and self.module.training in self.checkpointing:
            outputs = self._call_own(given, args, kwargs, method)
        elif at_once:
            references = References(self.code.parts)
            outputs = self._call(given, args, kwargs, method)
            if references.more():
                raise OutlivesError
            self.watched.add(mode)
        else:
            outputs, given = self._call_watched(given, tensors, buffers, args, kwargs, mode)
        # functional_call notes here what the target has put in place of a buffer.
        buffers.update((name, given[name]) for name in buffers)
        return outputs

    def _call(
        self,
        given: dict[str, Tensor],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        method: str,
        watched: bool = False,
    ) -> Any:
        """Run with `given` in place; with `watched`, whoever reads a parameter is looked at."""
        with self.lock:
            before = [(part, part._parameters) for part, _ in self._owners] if watched else []
            try:
                if watched:
                    self._place(given)
                # What parametrizations have cached is another condition's.
                with no_cached_parametrizations() if self.code.parametrized else nullcontext():
                    return self._with(given, args, kwargs, method)
            finally:
                for part, parameters in before:
                    part.__dict__["_parameters"] = parameters
                self._let_go()

    def _call_holder(
        self,
        given: dict[str, Tensor],
        buffers: dict[str, Tensor],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        method: str,
    ) -> Any:
        """Run a target that holds tensors of its own in attributes: a copy holds those given."""
        outputs = self._call_own(given, args, kwargs, method)
        buffers.update((name, given[name]) for name in buffers)
        return outputs

    def _call_traced(
        self,
        given: dict[str, Tensor],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        method: str,
    ) -> Any:
        outputs = self._with(given, args, kwargs, method)
        self._let_go()
        return outputs

    def _with(
        self,
        given: dict[str, Tensor],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        method: str,
    ) -> Any:
        if method == "forward" and self.reads is None:
            return functional_call(self.module, given, args, dict(kwargs), tie_weights=False)
        prefixed = {f"target.{name}": value for name, value in given.items()}
        called = Method(self.module, method, self.reads)
        try:
            return functional_call(called, prefixed, args, dict(kwargs), tie_weights=False)
        finally:  # what the target has put in place of a buffer
            given.update((name.removeprefix("target."), v) for name, v in prefixed.items())

    def _let_go(self) -> None:
        for rnn in self._rnns:  # the list that an RNN keeps would hold the given tensors
            rnn._update_flat_weights()
        for part, name in self._computed:  # and so would the weight that a hook has computed
            part.__dict__[name] = None

    def _place(self, given: dict[str, Tensor]) -> None:
        """Move the parameters in `given` into the modules, which are watched from then on."""
        hooks = saving_hooks()
        for part, keys in self._owners:
            values = {**part._parameters, **{key: given.pop(path) for key, path in keys}}
            part.__dict__["_parameters"] = WatchedParameters(values, self.module, hooks)

    def _call_watched(
        self,
        given: dict[str, Tensor],
        tensors: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        mode: tuple[bool, bool, str, bool],
    ) -> tuple[Any, dict[str, Tensor]]:
        """Run, and run again as a module of its own if its modules are used when the call is over.

        Because the target checkpoints activations, or holds on to them otherwise. The first call of
        a mode is watched function by function, as are all if the target's code says that it may
        checkpoint; any other by what it reads, which is cheaper.
        """
        training, grad, method, _ = mode
        start = {n: value.clone() for n, value in buffers.items()}
        closely = self.code.may_checkpoint or mode not in self.watched
        trace = Trace(self.module.named_modules(), (args, kwargs)) if closely else None
        noting, noted = _NOTED.get()
        trace, random = (
            trace or (noted if noting is self else self.code.watch((args, kwargs))),
            Draws(),
        )
        copies = Copies((args, kwargs) if closely else ((), {}))
        given_args, given_kwargs = copies.inputs if closely else (args, kwargs)
        references = None if mode in self.watched else References(self.code.parts)
        try:
            with Watch(self.module) if closely and grad else nullcontext():
                outputs = self._call(given, given_args, given_kwargs, method, watched=not closely)
            self.watched.add(mode)
            if references is None or not references.more():
                copies.give_back()
                return outputs, given
            del outputs
            if not references.more():  # it was what the call has returned
                self.outliving.add(mode)
        except CheckpointedError:
            self.checkpointing.add(training)
        # The second run starts from the state in which the first one started.
        with self.lock:
            if trace is not None:
                trace.restore()
        random.restore()
        given = {**self._placed(tensors), **start}
        if mode in self.outliving:
            self._refuse_stand_ins(tensors)
        elif training not in self.checkpointing or not grad:
            return self._call(given, args, kwargs, method), given
        return self._call_own(given, args, kwargs, method), given

    def _refuse_stand_ins(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise where a target that uses its modules after the call is given stand-ins."""
        if any(map(is_stand_in, tensors.values())):
            raise OutlivesError

    def _call_own(
        self,
        given: dict[str, Tensor],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        method: str,
    ) -> Any:
        """Run as a module of its own, which holds `given` for as long as anything refers to it."""
        with self.lock:
            by_id = self.places.by_placeholder(given)
            copied = SharedCopy(self.module, lambda t: by_id[id(t)])
        module = copied.module
        called = module if method == "forward" else getattr(module, method)
        with Watch(self.module, running=module), self.reads or nullcontext():
            outputs = called(*args, **kwargs)
        with self.lock:
            copied.give_back()
        given.update((name, value) for name, value in module.named_buffers() if name in given)
        return outputs

    def _placed(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors by path; in place of one that the target writes into, a copy."""
        watch = None if torch.compiler.is_compiling() else ACTIVE.now
        if watch is not None:
            watch.guard(tensors, self.written)
        if self.written or self.code.replaces_data:
            tensors = self.own_tensors(tensors)
        if torch.compiler.is_compiling() and self.code.may_write_weights and not self.was_watched:
            tensors = {n: t if is_stand_in(t) else t.clone() for n, t in tensors.items()}
        if self.reads is not None:
            self.reads.know(tensors)
        return {path: tensors[name] for name, paths in self.places.paths.items() for path in paths}

    def own_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return copies of tensors that the target writes into, and others as they are.

        Where its code assigns to `data`, objects of their own: other memory may come into them. A
        stand-in is of one call anyway.
        """
        written = {n: tensors[n] for n in self.written if n in tensors}
        own = {n: t.clone() for n, t in written.items() if not isinstance(t, Ungenerated)}
        if self.code.replaces_data:
            plain = {n: t for n, t in tensors.items() if not is_stand_in(t)}
            own = {**{n: t.view_as(t) for n, t in plain.items()}, **own}
        return {**tensors, **own}

    def holding(self, tensors: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> nn.Module:
        """Return a module apart from this one, in which the given tensors stand as they are."""
        with self.lock:  # another thread may have put its tensors into the skeleton
            return self.places.holding(tensors, buffers)

    def plain(
        self,
        tensors: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        shared: Collection[str] = (),
    ) -> nn.Module:
        """Return a plain module over the given tensors; see `Places.plain`."""
        with self.lock:
            return self.places.plain(tensors, buffers, shared)
