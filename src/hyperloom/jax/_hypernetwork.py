"""`HyperNetwork`: a module whose output is the weights of another, and that runs it with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

from flax import nnx
from jax import Array

from hyperloom._core.backend import protocol
from hyperloom._core.backend.checks import refuse_batch
from hyperloom._core.backend.documented import completes
from hyperloom._core.backend.factors import Factors
from hyperloom._core.backend.inputs import unpacked
from hyperloom._core.choices.execution import Execution
from hyperloom._core.choices.forms import Form
from hyperloom._core.choices.inits import Init
from hyperloom._core.choices.layouts import Layout
from hyperloom._core.plan.plan import Plan
from hyperloom._core.reports.doctor import Report
from hyperloom._core.reports.explanation import Explanation
from hyperloom.jax._generate.build import (
    Planned,
    build,
    check_rngs,
    grow,
    kept_tensors,
    planned,
    planned_again,
)
from hyperloom.jax._generate.encoded import Encoded
from hyperloom.jax._generate.generator import Generator
from hyperloom.jax._generate.supplied import with_parameters
from hyperloom.jax._run.bound import Bound, bind
from hyperloom.jax._run.call import Asked
from hyperloom.jax._run.checks import as_rngs
from hyperloom.jax._run.explain import explain
from hyperloom.jax._run.pairing import Dims
from hyperloom.jax._run.run import forward, instantiate, run_given
from hyperloom.jax._run.runner import Memory, Runner, check_execution
from hyperloom.jax._target.adaptor import Adaptor, Box, Method
from hyperloom.jax._target.variables import Param

# Methods whose code stands above this class, by name. Each tool puts its own here where it is
# written, and the package imports all of them.
TOOLS: dict[str, Callable[..., Any]] = {}


@final
@completes(protocol.HyperNetwork)
class HyperNetwork(nnx.Module):
    """What is learned are `nnx.Param`s, everything else are variables of other kinds.

    Args:
        target: Any NNX module with parameters, unmodified; `Linen(module, *inputs)`;
            `Function(apply, params)`; an Equinox module; or `Shapes`.
        condition: What the weights depend on: `Embedding`, `Vector`, `Noise`, `Concat`, or an NNX
            module that returns a vector `(*batch, dim)` and says its width (an int attribute
            `dim`, or a last `nnx.Linear`).
        rngs: Where the start of the parameters is drawn from (stream `params`), and from then on
            noise conditions (`noise`) and dropout in the trunk (`dropout`), unless a call brings
            its own.
    """

    def __init__(
        self,
        target: Any,
        *,
        condition: Any,
        trunk: Any = None,
        layout: Layout | Mapping[str, Layout] | None = None,
        form: Form | Mapping[str, Form] | None = None,
        init: Init | None = None,
        axes: Mapping[str, tuple[str, ...]] | None = None,
        execution: Execution | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        rngs = check_rngs(rngs)
        execution = Execution() if execution is None else execution
        self.execution = check_execution(execution)
        if not isinstance(target, Planned):
            target = planned(target, condition, trunk, (layout, form, init), rngs, axes)
        self._take(target, rngs)

    @classmethod
    def from_plan(
        cls,
        target: Any,
        plan: Plan,
        *,
        condition: Any = None,
        trunk: Any = None,
        rngs: nnx.Rngs | None = None,
    ) -> HyperNetwork:
        """`rngs` may be left out.

        Args:
            rngs: As for the class; default `nnx.Rngs(0)`.
        """
        rngs = check_rngs(nnx.Rngs(0) if rngs is None else rngs)
        given = planned_again(target, plan, condition, trunk, rngs)
        return cls(given, condition=None, rngs=rngs)

    def _take(self, given: Planned, rngs: nnx.Rngs) -> None:
        built = build(given, rngs)
        self._plan = Box(built.plan)
        self._memory = Box(Memory())
        self.condition = built.condition
        self.trunks = built.trunks
        self.heads = built.heads
        self.scales = nnx.data(built.scales)
        self.bases = built.bases
        self.banks = built.banks
        self.kept = kept_tensors(given)
        self.native = built.native
        self.target: Adaptor = given.read.adaptor
        self.dropout = nnx.data(built.dropout)

    @property
    def plan(self) -> Plan:
        """The compiled plan."""
        return self._plan.held

    @property
    def memory(self) -> Memory:
        """What is remembered of calls; results do not depend on it."""
        return self._memory.held

    @property
    def generator(self) -> Generator:
        """What generates: the plan with the modules that execute it."""
        return Generator.of(self)

    @property
    def runner(self) -> Runner:
        """What runs: the target with the tensors that it keeps."""
        return Runner.of(self)

    def __call__(
        self,
        *inputs: Any,
        condition: Any,
        in_axes: Dims = 0,
        rngs: Any = None,
        state: Mapping[str, Array] | None = None,
        mutable: bool = False,
        method: Method = None,
        rows: Any = None,
        **kwargs: Any,
    ) -> Any:
        """The result is the same inside `jit` and outside.

        Args:
            in_axes: Which dimension of the inputs pairs with the conditions, as `in_axes` of
                `jax.vmap`: an int or `None` (inputs shared by all conditions) for all inputs; a
                tuple with an entry for each positional input; or a dict from places and keywords
                to entries, `{1: None, "mask": None}`, 0 for what it does not name. The entry for
                a dict, a tuple or another tree is for all of it, or mirrors it.
            rngs: Random streams for this call: an `nnx.Rngs`, a key, or a dict of keys. Dropout
                and the like in the target draw from it, anew for each condition, and so do noise
                conditions (`noise`) and dropout in the trunk (`dropout`). By default from the
                target's and the hypernetwork's own streams.
            state: State of the target, `{name: array (*batch, *shape)}`, as a call with `mutable`
                returns it: running statistics of each condition. What it does not name is the
                target's own.
            mutable: Return the target's state after the call too.
            method: What is called, if not the target itself: the name of one of its methods
                (`"decode"`, or dotted for one of a part of it, `"encoder.embed"`), or a function
                `f(module, *inputs)`.
            rows: The condition of each row, `(R,)` ints into the batch of conditions, in any order
                and any number: arrays are then `(R, ...)`, or `(K R, ...)` with every row K times
                in place, and so is what the target returns. The target is run for each condition on
                its rows. `rows` must be known outside of `jit`, and the run is compiled for each
                number of rows that a condition has.
            **kwargs: The target's keyword arguments, paired likewise. One number, a string, a
                function or `None` is one setting for all conditions. With a condition that
                carries a state (`Recurrent`), `carry` is not the target's: it is the state that
                the call before returned; `None`, the default, is the start.

        Returns:
            What the target returns; for a batch, with the batch's dimensions in front. With
            `mutable`, that and the state, `{name: array (*batch, *shape)}`. With a condition that
            carries a state, the pair of that and the next state.

        Raises:
            ValueError: A condition of the wrong width, inputs or state that do not pair with it,
                or a method that the target does not have.
        """
        carries = self.plan.condition.has_carry
        carry = kwargs.pop("carry", None) if carries else None
        inputs, kwargs = unpacked(inputs, kwargs)
        asked = Asked(inputs, in_axes, kwargs, as_rngs(rngs), state, mutable, method, rows)
        results = forward(self.generator, self.runner, condition, carry, asked)
        return results if carries else results[0]

    def explain(
        self,
        *inputs: Any,
        condition: Any,
        in_axes: Dims = 0,
        rngs: Any = None,
        state: Mapping[str, Array] | None = None,
        method: Method = None,
        rows: Any = None,
        **kwargs: Any,
    ) -> Explanation:
        """The call is traced: nothing is computed but the condition's vector.

        Costs are those of a call with a backward pass; a compiler may still reorder what it is
        given. Arguments as in a call.
        """
        streams, generator = as_rngs(rngs), self.generator
        carry = kwargs.pop("carry", None) if self.plan.condition.has_carry else None
        inputs, kwargs = unpacked(inputs, kwargs)
        asked = Asked(inputs, in_axes, kwargs, streams, state, False, method, rows)
        return explain(generator, self.runner, generator.encode(condition, streams, carry), asked)

    def doctor(
        self,
        *inputs: Any,
        condition: Any,
        in_axes: Dims = 0,
        rngs: Any = None,
        state: Mapping[str, Array] | None = None,
        method: Method = None,
        rows: Any = None,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> Report:
        """Compiles and runs a few calls forward and backward, outside of `jit`.

        It also compares the call with a second one, and with its conditions run one after the
        other: outputs, and the gradient of every parameter. Nothing is changed: all is done by a
        copy.

        Args:
            in_axes: As in a call.
            rngs: As in a call.
            state: As in a call.
            method: As in a call.
            rows: As in a call.
            optimizer: The `optax.GradientTransformation` that is to train it, over the parameters
                of `functional(hnet)`. One step of it is tried, and how far that moves generated
                tensors stands beside what it does to a plain network.
            **kwargs: As in a call.

        Raises:
            TypeError: `optimizer` is none of optax.
        """
        asked = {"in_axes": in_axes, "rngs": rngs, "state": state, "method": method, "rows": rows}
        return TOOLS["doctor"](self, condition, inputs, {**asked, **kwargs}, optimizer)

    def generate(
        self,
        condition: Any,
        *,
        rngs: Any = None,
        carry: Any = None,
        parameters: Mapping[str, Array] | None = None,
    ) -> Any:
        """Names of `parameters` are those in `functional(hnet)`.

        To run with other parameters, use `functional`; for a batch of them, `jax.vmap` around it.

        Args:
            rngs: As in a call.
        """
        if parameters is not None:
            with_arrays = with_parameters(self, parameters)
            return with_arrays.generate(condition, rngs=rngs, carry=carry)
        streams, generator = as_rngs(rngs), self.generator
        encoded = generator.encode(condition, streams, carry)
        tensors = generator.tensors(encoded, generator.trunk_key(streams))
        return (tensors, encoded.carry) if self.plan.condition.has_carry else tensors

    def factors(self, condition: Any, *, rngs: Any = None, carry: Any = None) -> Any:
        """A Flax kernel is the transpose of `W`.

        Args:
            rngs: As in a call.
        """
        streams, generator = as_rngs(rngs), self.generator
        encoded = generator.encode(condition, streams, carry)
        factors = generator.factors(encoded, generator.trunk_key(streams))
        return (factors, encoded.carry) if self.plan.condition.has_carry else factors

    def run(
        self,
        params: Mapping[str, Array | Factors],
        *inputs: Any,
        in_axes: Dims = 0,
        rngs: Any = None,
        state: Mapping[str, Array] | None = None,
        mutable: bool = False,
        method: Method = None,
        **kwargs: Any,
    ) -> Any:
        """All arguments but `params` are those of a call.

        Returns:
            What the target returns, and with `mutable` its state.
        """
        inputs, kwargs = unpacked(inputs, kwargs)
        asked = Asked(inputs, in_axes, kwargs, as_rngs(rngs), state, mutable, method)
        return run_given(self.generator, self.runner, params, asked)

    def encode(self, condition: Any, *, rngs: Any = None, carry: Any = None) -> Encoded:
        """It returns a pytree.

        Args:
            rngs: As in a call; noise conditions draw from it.
        """
        return self.generator.encode(condition, as_rngs(rngs), carry)

    def bind(
        self, condition: Any, *, rows: Any = None, rngs: Any = None, carry: Any = None
    ) -> Bound:
        """The weights are generated here, once.

        Of those that are evaluated from their parts, the parts are kept and nothing is formed.
        Inside `jit` the compiler drops what no method uses; outside of it all is generated.

        Args:
            rngs: Where noise conditions and dropout in the trunk draw from.

        Returns:
            A pytree: `net(x)` is `hnet(x, condition=condition, rows=rows)`, with all other
            arguments of a call, and so is `net.method(x)` with `method=`. It holds the weights as
            they are now; bind again after a step of the optimiser.
        """
        streams, generator = as_rngs(rngs), self.generator
        encoded = generator.encode(condition, streams, carry)
        key = generator.trunk_key(streams)
        return bind(generator, self.runner, encoded, key, rows)

    def instantiate(
        self, condition: Any, *, state: Mapping[str, Array] | None = None, carry: Any = None
    ) -> Any:
        """A Linen target gives the module bound to its variables.

        Args:
            condition: Raw value of one condition.
            state: State of the target for this condition, as in a call.
            carry: For a condition that carries a state, that of the call before.
        """
        generator = self.generator
        encoded = generator.encode(condition, None, carry)
        refuse_batch(encoded.batch)
        return instantiate(
            self.runner, generator.tensors(encoded, generator.trunk_key(None)), state
        )

    def initial_carry(self, batch: int | tuple[int, ...] = ()) -> Any:
        """Return the state that a condition starts from, for `jax.lax.scan` and the like.

        A call with it is one with `carry=None`; its arrays have the shapes and dtypes of the
        state that a call returns.

        Args:
            batch: Number of conditions or dimensions of their batch; `()` for one condition.

        Raises:
            TypeError: A condition that carries no state, a module of your own that carries one
                and has no method `initial_carry(batch)`, or a batch that is no int or tuple.
        """
        return self.generator.initial_carry(batch)

    def add_conditions(self, num: int, *, rngs: nnx.Rngs) -> list[Param]:
        """New rows are new parameters; make the optimiser's state anew, or for these only.

        Args:
            num: How many ids to add.
            rngs: Where their start is drawn from.
        """
        plan, added = grow(self.generator, num, check_rngs(rngs))
        self._plan = Box(plan)
        return added

    def load(self, path: Any) -> None:
        TOOLS["load"](self, path)

    def __repr__(self) -> str:
        return f"HyperNetwork of {self.plan}"

    def _repr_html_(self) -> str:
        return self.plan._repr_html_()

    def __str__(self) -> str:
        return repr(self)
