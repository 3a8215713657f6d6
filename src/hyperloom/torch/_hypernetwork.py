"""`HyperNetwork`: a module whose output is the weights of another, and that runs it with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hyperloom._core.backend.inputs import Inputs, unpacked
from hyperloom._core.choices.execution import Execution
from hyperloom._core.choices.forms import Form
from hyperloom._core.choices.inits import Init
from hyperloom._core.choices.layouts import Layout
from hyperloom._core.choices.statistics import Statistics
from hyperloom._core.errors import message
from hyperloom._core.plan.plan import Plan
from hyperloom._core.reports.doctor import Report
from hyperloom._core.reports.explanation import Explanation
from hyperloom.torch._generate.build import Built, build, grow, modules_of, prepare
from hyperloom.torch._generate.conditions import Encoded
from hyperloom.torch._generate.numbers import assemble, raw_numbers
from hyperloom.torch._generate.supplied import generate_with
from hyperloom.torch._run.call import Call
from hyperloom.torch._run.chain import program_for
from hyperloom.torch._run.checks import check_params, ids_of
from hyperloom.torch._run.explain import explain
from hyperloom.torch._run.run import apply_tensors, execute, keep_written
from hyperloom.torch._run.strategy import Strategist
from hyperloom.torch._target.buffers import Held
from hyperloom.torch._target.skeleton import Skeleton
from hyperloom.torch._target.spec import target_spec, uncompiled
from hyperloom.torch._target.statistics import grow_tables, settled, tables
from hyperloom.torch._tools.dynamic import refuse_without_carry


class HyperNetwork(nn.Module):
    """Generates the parameters of a target network from a condition, and runs it with them.

    The target is a template: its shapes and its forward are used, its values only where nothing
    is generated. It is never trained and never changed. The hypernetwork keeps a copy of what it
    needs, so the module given stays the user's own.

    Args:
        target: Any module with parameters, unmodified.
        condition: What the weights depend on: `Embedding`, `Vector`, `Noise`, `Concat`, or a
            module that returns a vector `(*batch, dim)` and says its width (an int attribute
            `dim`, or a last `nn.Linear`).
        trunk: How features are computed from it: `None` (the heads are linear in the condition),
            `MLP(*widths)`, or a module `(rows, in) -> (rows, features)` that says its width
            likewise.
        layout: Which numbers become which weights: `Full()` (default), `Chunked(size)`,
            `Grouped()`, `PerCondition()`, `Shared()`, or a dict from name patterns to layouts,
            in order, first match wins. What no pattern names keeps the target's own tensor.
        form: What is generated for each tensor: `Whole()` (default) or `Delta()`, or a dict from
            name patterns to forms.
        init: How the generated networks start out; by default as the target's own
            initialisation would (`Native()`).
        statistics: What becomes of the running statistics of norms in the target:
            `PerConditionStatistics()` (default where the condition has ids),
            `SharedStatistics()` (default where it has none) or `BatchStatistics()`.

    Attributes:
        plan: The compiled `Plan`: what is generated, by what, how large it is.
        statistics: As given, or the default.
        execution: How batches are run (`Execution()`: all conditions at once, nothing computed
            again). Assign another one to bound memory.

    Raises:
        TypeError: An argument of another class, or a complex or integer parameter to generate.
        ValueError: A target without parameters, a pattern that names nothing, two choices for
            one tensor, a layout that needs ids with a condition that has none.
    """

    plan: Plan
    condition: nn.Module
    trunks: nn.ModuleList
    heads: nn.ModuleDict
    scales: Tensor | None
    execution: Execution
    statistics: Statistics

    def __init__(
        self,
        target: nn.Module,
        *,
        condition: Any,
        trunk: Any = None,
        layout: Layout | Mapping[str, Layout] | None = None,
        form: Form | Mapping[str, Form] | None = None,
        init: Init | None = None,
        statistics: Statistics | None = None,
    ) -> None:
        super().__init__()
        target = uncompiled(target)
        spec = target_spec(target)
        plan, modules = prepare(spec, condition, trunk, layout, form, init)
        statistics = settled(statistics, plan)
        self._take(target, build(target, plan, *modules), statistics)

    @classmethod
    def from_plan(
        cls,
        target: nn.Module,
        plan: Plan,
        *,
        condition: Any = None,
        trunk: Any = None,
        statistics: Statistics | None = None,
    ) -> HyperNetwork:
        """Make a hypernetwork that executes a given plan, e.g. one read from a checkpoint.

        Args:
            target: A target with the tensors of `plan.spec`.
            plan: The plan.
            condition: The condition, if the plan says `Custom`; in a `Concat`, all of it.
            trunk: The trunk module, if the plan says `CustomTrunk`.
            statistics: As for `HyperNetwork`.

        Raises:
            ValueError: The target's tensors are not those of the plan.
        """
        target = uncompiled(target)
        found = plan.spec.differences(target_spec(target))
        if found:
            wanted = f"the tensors of {plan.spec.name}"
            raise ValueError(message("target", "; ".join(found[:3]), wanted))
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        built = build(target, plan, *modules_of(plan, condition, trunk))
        made._take(target, built, settled(statistics, plan))
        return made

    def _take(self, target: nn.Module, built: Built, statistics: Statistics) -> None:
        self.plan = built.plan.settled()
        self.condition = built.condition
        self.trunks = built.trunks
        self.heads = built.heads
        self.register_buffer("scales", built.scales)
        self.bases = built.bases
        self.banks = built.banks
        self.kept = built.kept
        self.target_buffers = built.buffers
        self.native = built.native
        self.execution = Execution()
        self.statistics = statistics
        # In the instance's dict, past nn.Module: the skeleton's parameters are not ours.
        self.__dict__["_skeleton"] = Skeleton(target, built.plan.spec)
        self.target_statistics = tables(statistics, self._skeleton, built.buffers, built.plan)
        self.__dict__["_warned"] = set()
        self.__dict__["_chooser"] = Strategist()
        self.__dict__["_known"] = {}
        self.__dict__["_programs"] = {}
        self.__dict__["_has_carry"] = built.plan.condition.has_carry

    def forward(
        self, *inputs: Any, condition: Any, in_dims: int | tuple[Any, ...] | None = 0, **kwargs: Any
    ) -> Any:
        """Generate the target's parameters and run it with them.

        Args:
            *inputs: The target's inputs. For a batch of conditions `(B,)` every tensor has a
                leading `B`, one slice for each condition, unless `in_dims` says otherwise.
                Or one `Inputs` object, for targets that take a keyword named `condition`.
            condition: Raw value of one condition, or of a batch with leading dimensions.
            in_dims: Which dimension of the inputs pairs with the conditions, as in
                `torch.func.vmap`: an int or `None` (inputs shared by all conditions) for all
                inputs, or a tuple with an entry for each positional input.
            **kwargs: The target's keyword arguments. Tensors in them pair at dimension 0, or as
                `in_dims` says if that is an int or `None`. With a condition that carries a state
                (`Recurrent`), `carry` is not the target's: it is the state that the call before
                returned; `None`, the default, is the start.

        Returns:
            What the target returns; for a batch, with the batch's dimensions in front. With a
            condition that carries a state, the pair of that and the next state.

        Raises:
            TypeError: A condition of the wrong type or dtype.
            ValueError: A condition of the wrong width, or inputs that do not pair with it.
            IndexError: A condition id out of range.
        """
        encoded = self._encode(condition, self._carry_of(kwargs))
        if len(inputs) == 1 and type(inputs[0]) is Inputs:
            inputs, kwargs = unpacked(inputs, kwargs)
        made = self._call(encoded, inputs, in_dims, kwargs)
        return (made, encoded.carry) if self.__dict__["_has_carry"] else made

    def explain(
        self, *inputs: Any, condition: Any, in_dims: int | tuple[Any, ...] | None = 0, **kwargs: Any
    ) -> Explanation:
        """Run once, and say how: what was formed, what was not, and why.

        The cheapest way depends on whether a backward pass will follow: call it as you call the
        hypernetwork itself, inside `torch.no_grad()` to ask about inference.

        Args:
            *inputs: As in `forward`.
            condition: As in `forward`.
            in_dims: As in `forward`.
            **kwargs: As in `forward`.

        Returns:
            An `Explanation`: the strategy, and for each use of a generated tensor the way that
            was taken with the estimated operations and bytes of the alternatives. Print it.
        """
        encoded = self._encode(condition, self._carry_of(kwargs))
        inputs, kwargs = unpacked(inputs, kwargs)
        program = program_for(self, encoded, inputs, in_dims, kwargs)
        return explain(self, encoded, Call(encoded.batch, inputs, in_dims, kwargs), program)

    def doctor(
        self, *inputs: Any, condition: Any, in_dims: int | tuple[Any, ...] | None = 0, **kwargs: Any
    ) -> Report:
        """Look whether this hypernetwork can learn: one call, examined. Print what it returns.

        Does the gradient reach every part of the generator; do the outputs depend on the
        condition; are activations, gradients and generated tensors of the scale that the
        template's own initialisation gives; dtypes, devices; what runs on a slow path. Costs a
        few calls forward and backward. Everything is left as it was: gradients, buffers, modes,
        random generators.

        Args:
            *inputs: As in `forward`.
            condition: As in `forward`; a batch of two different conditions or more, or else
                (unless the condition is an `Embedding`) the dependence on it is not checked.
            in_dims: As in `forward`.
            **kwargs: As in `forward`.

        Returns:
            A `Report`: `report.findings` says what is wrong, `report.ok` whether anything is.
            A call that fails is a finding, not an error.
        """
        from hyperloom.torch._tools.doctor import examine

        return examine(self, condition, inputs, in_dims, kwargs)

    def generate(
        self,
        condition: Any,
        *,
        carry: Any = None,
        parameters: Mapping[str, Tensor] | None = None,
    ) -> Any:
        """Generate the target's parameters.

        Args:
            condition: Raw value of one condition, or of a batch.
            carry: For a condition that carries a state, that of the call before.
            parameters: Tensors to use in the place of the hypernetwork's own, by their names in
                `named_parameters()` (or `named_buffers()`): all of them, or some. They may come
                from another hypernetwork; gradients reach them. A table may have another number
                of rows, which are then the ids that there are. With inputs, use
                `torch.func.functional_call(hnet, parameters, inputs, {"condition": ...})`.

        Returns:
            `{name: tensor (*batch, *shape)}` for every generated tensor, differentiable; tied
            tensors once, under their first name. With a condition that carries a state, the pair
            of that and the next state. Raises as `forward` does.
        """
        if parameters is not None:
            return generate_with(self, condition, parameters, carry)
        encoded = self._encode(condition, carry)
        made = self._generate(encoded)
        return (made, encoded.carry) if self.__dict__["_has_carry"] else made

    def run(
        self,
        params: Mapping[str, Tensor],
        *inputs: Any,
        condition: Any = None,
        in_dims: int | tuple[Any, ...] | None = 0,
        **kwargs: Any,
    ) -> Any:
        """Run the target with given parameters.

        Args:
            params: What `generate` returns, or tensors of the same names and shapes, with common
                leading batch dimensions. Tensors that the hypernetwork keeps may be given too.
            *inputs: As in `forward`.
            condition: The conditions that `params` are of. Only needed to find running statistics
                of the target that are kept by id, and to keep them.
            in_dims: As in `forward`.
            **kwargs: As in `forward`.

        Returns:
            What the target returns.

        Raises:
            TypeError: A value that is not a tensor, or of another dtype than the target's.
            ValueError: A missing or unknown name, a wrong shape, or another device.
        """
        batch = check_params(self, params)
        inputs, kwargs = unpacked(inputs, kwargs)
        call = Call(batch, inputs, in_dims, kwargs)
        held = Held(self, ids_of(self, condition, batch), batch)
        made = {name: value for name, value in params.items() if name not in self.plan.kept}
        kept = {name: value for name, value in params.items() if name in self.plan.kept}
        output = apply_tensors(self, made, kept, call, held)
        keep_written(self, held)
        return output

    def instantiate(self, condition: Any, *, carry: Any = None) -> nn.Module:
        """Return a plain module of the target's class with the parameters of one condition in it.

        The module owns copies of the tensors and has nothing to do with the hypernetwork any
        more: to deploy, to save, to fine-tune. Ties are kept; modes follow the hypernetwork's.

        Args:
            condition: Raw value of one condition.
            carry: For a condition that carries a state, that of the call before.

        Raises:
            ValueError: A batch of conditions. Otherwise as `forward`.
        """
        with torch.no_grad():
            encoded = self._encode(condition, carry)
            if encoded.batch:
                got = f"a batch of conditions {tuple(encoded.batch)}"
                way_out = "Instantiate them one by one."
                raise ValueError(message("condition", got, "one condition", way_out))
            tensors = self._generate(encoded)
            held = Held(self, encoded.ids, encoded.batch)
            with held.one(0) as buffers:
                return self._skeleton.build({**self._kept(), **tensors}, buffers)

    def add_conditions(self, num: int) -> list[nn.Parameter]:
        """Add ids at the end; the outputs of the old ids stay bitwise the same.

        New rows are new parameters. Give them to the optimiser, which goes on training the old
        ones: `optimizer.add_param_group({"params": hnet.add_conditions(1)})`.

        Args:
            num: How many ids to add.

        Returns:
            The new parameters.

        Raises:
            ValueError: `num` below 1, or a condition without ids of its own to grow.
        """
        plan, added = grow(self, num)
        grow_tables(self.target_statistics, self.target_buffers, num)
        self.plan = plan.settled()
        return added

    def load(self, path: Any) -> None:
        """Fill this hypernetwork from a checkpoint of the same plan. See `hyperloom.torch.load`.

        Raises:
            CheckpointError: The file is cut, altered, too new, or of another plan or target;
                the hypernetwork is as it was.
        """
        from hyperloom.torch._tools.checkpoint import load_into

        load_into(self, path)

    # ---- one call, step by step -------------------------------------------------------------

    @property
    def _skeleton(self) -> Skeleton:
        return self.__dict__["_skeleton"]

    def _encode(self, condition: Any, carry: Any = None) -> Encoded:
        # Past nn.Module's look-up of attributes, here and below: it costs what a small layer does.
        encode: Any = self._modules["condition"]
        if carry is None:
            return encode(condition)
        refuse_without_carry(self)
        return encode(condition, carry)

    def _carry_of(self, kwargs: dict[str, Any]) -> Any:
        """Take the state that is carried out of the keyword arguments of a call."""
        return kwargs.pop("carry", None) if self.__dict__["_has_carry"] else None

    def _call(
        self,
        encoded: Encoded,
        inputs: tuple[Any, ...],
        in_dims: int | tuple[Any, ...] | None,
        kwargs: dict[str, Any],
    ) -> Any:
        """Generate and run."""
        program = program_for(self, encoded, inputs, in_dims, kwargs)
        if program is not None:
            return program.run(self, encoded.vector, inputs[0])
        return execute(self, encoded, Call(encoded.batch, inputs, in_dims, kwargs))

    def _generate(self, encoded: Encoded) -> dict[str, Tensor]:
        modules: Any = self._modules
        scales, bases, banks = self._fixed()
        raw = raw_numbers(self.plan, modules["trunks"], modules["heads"], encoded, scales)
        return assemble(self.plan, raw, bases, banks, self._skeleton.dtypes)

    def _fixed(self) -> tuple[Tensor | None, dict[str, Tensor], list[Tensor]]:
        """Return the scales, bases and banks, as far as the plan has any."""
        plan = self.plan
        scales = self.scales if plan.has_scales else None
        bases = dict(self.bases.tensors()) if plan.has_bases else {}
        return scales, bases, list(self.banks) if plan.banks else []

    def _kept(self) -> dict[str, Tensor]:
        kept: Any = self._modules["kept"]
        return dict(kept.tensors()) if self.plan.kept else {}

    def _buffers_now(self) -> dict[str, Tensor]:
        buffers: Any = self._modules["target_buffers"]
        return dict(buffers.tensors())

    @property
    def _strategist(self) -> Strategist:
        return self.__dict__["_chooser"]

    # ---- what nn.Module does, reaching the target too ----------------------------------------

    def train(self, mode: bool = True) -> HyperNetwork:
        """Set training mode here and in the target."""
        super().train(mode)
        self._skeleton.module.train(mode)
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self.__dict__["_programs"] = {}
        self._skeleton.convert(fn)
        return self

    def __repr__(self) -> str:
        return f"HyperNetwork of {self.plan}"
