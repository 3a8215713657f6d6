"""`HyperNetwork`: a module whose output is the weights of another, and that runs it with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hyperloom._core.backend import protocol
from hyperloom._core.backend.checks import refuse_batch
from hyperloom._core.backend.documented import completes
from hyperloom._core.backend.factors import Factors
from hyperloom._core.checkpoint.base import FINGERPRINT, SAME_BASE
from hyperloom._core.choices.execution import Execution
from hyperloom._core.choices.forms import Form
from hyperloom._core.choices.inits import Init
from hyperloom._core.choices.layouts import Layout
from hyperloom._core.choices.statistics import Statistics
from hyperloom._core.errors import a_bool, a_kind, message
from hyperloom._core.plan.axes import with_axes
from hyperloom._core.plan.compile import generated_forms
from hyperloom._core.plan.plan import Plan
from hyperloom._core.reports.doctor import Report
from hyperloom._core.reports.explanation import Explanation
from hyperloom.torch._generate.build import build, modules_of, prepare
from hyperloom.torch._generate.encoded import Encoded
from hyperloom.torch._generate.generator import Generator, grow, tensors_of
from hyperloom.torch._run.bound import Bound, Hand
from hyperloom.torch._run.call import Call, Dims, may_be_ragged
from hyperloom.torch._run.checks import check_params, ids_of, with_weights
from hyperloom.torch._run.explain import explain
from hyperloom.torch._run.methods import check_method
from hyperloom.torch._run.pairing import refuse_meta_inputs
from hyperloom.torch._run.ragged import ragged
from hyperloom.torch._run.row_calls import checked_rows
from hyperloom.torch._run.run import run_encoded, run_given
from hyperloom.torch._run.runner import Runner
from hyperloom.torch._target.packed import unpacked
from hyperloom.torch._target.skeleton import Skeleton
from hyperloom.torch._target.spec import target_spec, uncompiled
from hyperloom.torch._target.statistics import checked_statistics, grow_tables, tables
from hyperloom.torch._target.tensors import fingerprint

# The code of methods that stands above this class, by name. The package fills it in.
TOOLS: dict[str, Callable[..., Any]] = {}


@completes(protocol.HyperNetwork)
class HyperNetwork(Generator):
    """Frozen tensors (kept ones, and the bases of forms) stay in the target's memory.

    Buffers are copied.

    Args:
        condition: What the weights depend on: `Embedding`, `Vector`, `Noise`, `Concat`, or a
            module that returns a vector `(*batch, dim)` and says its width (an int attribute
            `dim`, or a last `nn.Linear`).
        statistics: What becomes of the running statistics of norms in the target:
            `PerConditionStatistics()` (default where the condition has ids),
            `SharedStatistics()` (default where it has none) or `BatchStatistics()`.

    Attributes:
        statistics: As given, or the default.
    """

    # transformers.Trainer takes a forward with **kwargs for one that averages its loss over the
    # steps of gradient accumulation. Ours are keyword arguments of the target.
    accepts_loss_kwargs = False

    def __init__(
        self,
        target: nn.Module | Mapping[str, nn.Module],
        *,
        condition: Any,
        trunk: Any = None,
        layout: Layout | Mapping[str, Layout] | None = None,
        form: Form | Mapping[str, Form] | None = None,
        init: Init | None = None,
        axes: Mapping[str, tuple[str, ...]] | None = None,
        statistics: Statistics | None = None,
        execution: Execution | None = None,
    ) -> None:
        target = uncompiled(target)
        whole = unpacked(target)
        forms = generated_forms(target_spec(whole, measured=()), layout, form)
        if whole is not target:
            target = unpacked(target, forms)
        # What starts from the target's own values has them measured, which reads all of them.
        measured = {name for name, chosen in forms.items() if not chosen.has_base}
        spec = with_axes(target_spec(target, measured=measured), axes)
        plan, modules = prepare(spec, condition, trunk, layout, form, init)
        self._build(target, plan, modules, statistics)
        if execution is not None:
            # Past nn.Module, which would take a module for a submodule.
            object.__setattr__(self, "execution", execution)

    @classmethod
    def from_plan(
        cls,
        target: nn.Module | Mapping[str, nn.Module],
        plan: Plan,
        *,
        condition: Any = None,
        trunk: Any = None,
        statistics: Statistics | None = None,
    ) -> HyperNetwork:
        """The statistics are not in the plan.

        Args:
            statistics: As for the class.
        """
        a_kind("plan", plan, Plan, "a Plan, such as hnet.plan")
        target = unpacked(uncompiled(target), plan.rows_by_name)
        differences = plan.spec.differences(target_spec(target, measured=()))
        if differences:
            wanted = f"the tensors of {plan.spec.name}"
            raise ValueError(message("target", "; ".join(differences[:3]), wanted))
        hnet = cls.__new__(cls)
        hnet._build(target, plan, modules_of(plan, condition, trunk), statistics)
        return hnet

    def _build(
        self,
        target: nn.Module,
        plan: Plan,
        modules: tuple[nn.Module, nn.ModuleList],
        statistics: Statistics | None,
    ) -> None:
        """Make both halves: what generates, and what runs the target."""
        chosen = checked_statistics(statistics, plan)
        built = build(target, plan, *modules)
        super().__init__(built)
        self.kept = built.kept
        self.target_buffers = built.buffers
        skeleton = Skeleton(target, plan.spec)
        self.target_statistics = tables(chosen, skeleton, built.buffers, plan)
        self._runner = Runner(skeleton, self.dtypes, self._modules, chosen)

    @property
    def execution(self) -> Execution:
        """How batches are run."""
        return self._runner.execution

    @execution.setter
    def execution(self, choice: Execution) -> None:
        self._runner.be_run(a_kind("execution", choice, Execution, "an Execution object"))

    @property
    def statistics(self) -> Statistics:
        """What becomes of the running statistics of norms in the target."""
        return self._runner.statistics

    def forward(
        self,
        *inputs: Any,
        condition: Any,
        in_dims: Dims = 0,
        rows: Any = None,
        method: str = "forward",
        **kwargs: Any,
    ) -> Any:
        """Say `hnet(x, condition=c)`: that runs the hooks of the module, too.

        Args:
            in_dims: Which dimension of the inputs pairs with the conditions, as in
                `torch.func.vmap`: an int or `None` (inputs shared by all conditions) for all
                inputs; a tuple with an entry for each positional input; or a dict from places and
                keywords to entries, `{1: None, "mask": None}`, 0 for what it does not name. The
                entry for a dict or a tuple is for all of it, or mirrors it.
            rows: `(R,)` ints: the condition of each row, as its place in the batch of conditions,
                in any order. Inputs then have `R` rows in front (or `k R`: each row `k` times in
                place), not a slice for each condition, and so have outputs. Leave it out where an
                input is a nested tensor or a list that has a part for each condition, with any
                number of rows: outputs are then of that kind too.
            method: Another method of the target to run.
            **kwargs: The target's keyword arguments. Tensors in them pair at dimension 0, or as
                `in_dims` says. With a condition that carries a state
                (`Recurrent`), `carry` is not the target's: it is the state that the call before
                returned; `None`, the default, is the start.
        """
        encoded = self.encode(condition, kwargs.pop("carry", None) if self._has_carry else None)
        call = self._call_of(encoded, inputs, kwargs, in_dims, rows, method)
        output = run_encoded(self, self._runner, encoded, call)
        return (output, encoded.carry) if self._has_carry else output

    def explain(
        self,
        *inputs: Any,
        condition: Any,
        in_dims: Dims = 0,
        rows: Any = None,
        method: str = "forward",
        **kwargs: Any,
    ) -> Explanation:
        """The call is run once.

        The cheapest way depends on whether a backward pass will follow: call it as you call the
        hypernetwork itself, inside `torch.no_grad()` to ask about inference. Arguments as in a
        call.
        """
        encoded = self.encode(condition, kwargs.pop("carry", None) if self._has_carry else None)
        call = self._call_of(encoded, inputs, kwargs, in_dims, rows, method)
        return explain(self, self._runner, encoded, call)

    def doctor(
        self,
        *inputs: Any,
        condition: Any,
        in_dims: Dims = 0,
        rows: Any = None,
        method: str = "forward",
        optimizer: torch.optim.Optimizer | None = None,
        **kwargs: Any,
    ) -> Report:
        """It also says what runs on a slow path. It costs a few calls forward and backward.

        Everything is left as it was: gradients, buffers, modes, random generators.

        Args:
            in_dims: As in `forward`.
            rows: As in `forward`.
            method: As in `forward`.
            optimizer: The optimiser that is to train it. One step of it is tried on copies, and
                how far that moves generated tensors stands beside what it does to a plain network.
            **kwargs: As in `forward`.

        Raises:
            TypeError: `optimizer` is not one of torch's.
        """
        options = {"in_dims": in_dims, "rows": rows, "method": method, **kwargs}
        return TOOLS["doctor"](self, condition, inputs, options, optimizer)

    def run(
        self,
        params: Mapping[str, Tensor | Factors],
        *inputs: Any,
        condition: Any = None,
        in_dims: Dims = 0,
        **kwargs: Any,
    ) -> Any:
        """`condition` is needed only where the target keeps something by id.

        Args:
            condition: The conditions that `params` are of. Only needed to find running statistics
                of the target that are kept by id, and to keep them.
            in_dims: As in `forward`.
            **kwargs: As in `forward`.

        Raises:
            ValueError: A missing or unknown name, a wrong shape, or another device.
        """
        batch = check_params(self, params)
        call = Call(batch, inputs, kwargs, in_dims)
        first = next(iter(params.values()))
        refuse_meta_inputs(call, (first.a if isinstance(first, Factors) else first).device)
        given = with_weights(self, self._runner, params, batch)
        own = {n for n in self.plan.kept if n in params and not isinstance(params[n], Factors)}
        generated = {name: value for name, value in given.items() if name not in own}
        kept: Any = {name: given[name] for name in own}
        return run_given(self._runner, generated, kept, call, ids_of(self, condition, batch))

    def bind(self, condition: Any, *, rows: Any = None, carry: Any = None) -> Bound:
        """What a method uses is generated when it is first used, and once.

        `net.generate(...)` of a language model is such a method. Bound under `torch.no_grad()` it
        is the fast way to act.

        Returns:
            An `nn.Module`. It has modes of its own and holds the weights, as long as it lives; it
            is to be bound again after a step of the optimiser.
        """
        encoded = self.encode(condition, carry)
        by = None if rows is None else checked_rows(rows, encoded.batch, encoded.vector.device)
        return Bound(Hand(self, self._runner, encoded, by))

    def instantiate(self, condition: Any, *, carry: Any = None, copy: bool = True) -> nn.Module:
        """The tensors that are not generated may stay in the target's memory: `copy=False`.

        Args:
            condition: Raw value of one condition.
            carry: For a condition that carries a state, that of the call before.
            copy: `False` for a module that holds the tensors that are not generated where they are,
                in the target's memory: a large base is in memory once, and training the module
                trains the target. Default `True`.

        Raises:
            TypeError: `copy` is no bool.
        """
        a_bool("copy", copy)
        with torch.no_grad():
            encoded = self.encode(condition, carry)
            refuse_batch(encoded.batch)
            tensors, runner = tensors_of(self, encoded), self._runner
            with runner.buffers(encoded.ids, encoded.batch).one(0) as buffers:
                shared = () if copy else self.plan.kept
                return runner.skeleton.plain({**runner.kept(), **tensors}, buffers, shared)

    def add_conditions(self, num: int) -> list[nn.Parameter]:
        """New rows are new parameters.

        Give them to the optimiser, which goes on training the old ones:
        `optimizer.add_param_group({"params": hnet.add_conditions(1)})`.
        """
        added = grow(self, num)
        grow_tables(self.target_statistics, self.target_buffers, num)
        return added

    def load(self, path: Any) -> None:
        TOOLS["load"](self, path)

    def _call_of(
        self,
        encoded: Encoded,
        inputs: tuple[Any, ...],
        kwargs: dict[str, Any],
        in_dims: Dims,
        rows: Any,
        method: str,
    ) -> Call:
        """Return the call, checked."""
        batch = encoded.vector.shape[:-1]
        if rows is None and len(batch) == 1 and may_be_ragged(inputs, kwargs):
            parts = ragged(batch[0], inputs, kwargs, in_dims)
            if parts is not None:
                check_method(self._runner.skeleton.module, method)
                joined = parts.inputs, parts.kwargs, parts.in_dims
                return Call(batch, *joined, parts.rows, method, parts)
        if rows is None and method == "forward":
            return Call(batch, inputs, kwargs, in_dims)
        check_method(self._runner.skeleton.module, method)
        by = None if rows is None else checked_rows(rows, batch, encoded.vector.device)
        return Call(batch, inputs, kwargs, in_dims, by, method)

    # ---- what nn.Module does, reaching the target too ----------------------------------------

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        mine = fingerprint(self.bases, self.kept)
        if mine is not None:
            destination[prefix + FINGERPRINT] = mine

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        lists = missing_keys, unexpected_keys, error_msgs
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *lists)
        name, mine = prefix + FINGERPRINT, fingerprint(self.bases, self.kept)
        said = state_dict.get(name)
        if name in unexpected_keys:
            unexpected_keys.remove(name)
        if said is None and mine is not None:
            missing_keys.append(name)
        elif said is not None and (mine is None or not torch.equal(said.cpu(), mine)):
            error_msgs.append(message("state_dict", "that of another base", *SAME_BASE))

    def train(self, mode: bool = True) -> HyperNetwork:
        """Set training mode here and in the target."""
        a_bool("mode", mode)
        super().train(mode)
        self._runner.skeleton.module.train(mode)
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self._runner.convert(fn)
        return self

    def _replicate_for_data_parallel(self) -> Any:
        replica: Any = super()._replicate_for_data_parallel()
        replica.__dict__["_runner"] = self._runner.over(replica._modules)
        return replica

    def __repr__(self) -> str:
        return f"HyperNetwork of {self.plan}"

    def _repr_html_(self) -> str:
        return self.plan._repr_html_()
