"""What a backend owes, in part: the object that users hold, and what its methods do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from hyperloom._core.backend.tools import Array
from hyperloom._core.choices.execution import Execution
from hyperloom._core.plan.plan import Plan


class HyperNetwork(Protocol):
    """Generates the parameters of a target network from a condition, and runs it with them.

    The target is a template: its shapes and its forward are used, its values only where nothing
    is generated. It is never trained and never changed.

    Args:
        target: Any module with parameters, unmodified; or a dict of several networks, each run by
            its name as `method`.
        condition: What the weights depend on: `Embedding`, `Vector`, `Noise`, `Concat`, or a
            module that returns a vector `(*batch, dim)` and says its width (an int attribute
            `dim`, or a last linear layer).
        trunk: How features are computed from it: `None` (the heads are linear in the condition),
            `MLP(*widths)`, or a module `(rows, in) -> (rows, features)` that says its width
            likewise.
        layout: Which numbers become which weights: `Full()` (default), `Chunked(size)`,
            `Grouped()`, `PerCondition()`, `Shared()`, or a dict from name patterns to layouts,
            in order, first match wins. What no pattern names keeps the target's own tensor; so
            does what is frozen in a target that trains other parameters, without a pattern.
        form: What is generated for each tensor: `Whole()` (default) or `Delta()`, or a dict from
            name patterns to forms.
        init: How the generated networks start out; by default as the target's own
            initialisation would (`Native()`).
        axes: Which axes of a tensor are its outputs and its inputs, where the class of its layer
            does not tell: a dict from name patterns to tuples of `"out"`, `"in"` and `"kernel"`,
            `{"*.c_attn.weight": ("in", "out")}`. Forms and inits go by it.
        execution: How batches are run. Default `Execution()`: all conditions at once, nothing
            computed again. An attribute too: assign another one to bound memory.

    Attributes:
        plan: The compiled `Plan`: what is generated, by what, how large it is.
        execution: As given, or the default.

    Raises:
        TypeError: An argument of another class, or a complex or integer parameter to generate.
        ValueError: A target without parameters, a pattern that names nothing, two choices for
            one tensor, a layout that needs ids with a condition that has none.
    """

    plan: Plan
    execution: Execution

    def __call__(self, *inputs: Any, condition: Any) -> Any:
        """Generate the target's parameters and run it with them.

        Args:
            *inputs: The target's inputs. For a batch of conditions `(B,)` every array has a
                leading `B`, one slice for each condition, unless said otherwise. Or one `Inputs`
                object, for targets that take a keyword named `condition`.
            condition: Raw value of one condition, or of a batch with leading dimensions.

        Returns:
            What the target returns; for a batch, with the batch's dimensions in front. With a
            condition that carries a state, the pair of that and the next state.

        Raises:
            TypeError: A condition of the wrong type or dtype.
            ValueError: A condition of the wrong width, inputs that do not pair with it, or a
                method that the target does not have.
            IndexError: A condition id out of range.
        """

    @classmethod
    def from_plan(
        cls, target: Any, plan: Plan, *, condition: Any = None, trunk: Any = None
    ) -> HyperNetwork:
        """Make a hypernetwork that executes a given plan, e.g. one read from a checkpoint.

        Args:
            target: A target with the tensors of `plan.spec`.
            plan: The plan.
            condition: The condition, if the plan says `Custom`; in a `Concat`, all of it.
            trunk: The trunk module, if the plan says `CustomTrunk`.

        Raises:
            TypeError: No plan, or a part that the plan leaves open and nobody gives.
            ValueError: The target's tensors are not those of the plan.
        """
        ...

    def encode(self, condition: Any, carry: Any = None) -> Any:
        """Return the vector of a raw condition, with ids and the next state where it has any.

        Args:
            condition: As in a call.
            carry: For a condition that carries a state, that of the call before.

        Returns:
            `vector` `(*batch, E)`; `ids` `(*batch,)`, or `None`; `carry`, the next state.

        Raises:
            TypeError: A state for a condition that carries none; or as a call.
            ValueError, IndexError: As a call.
        """
        ...

    def generate(
        self,
        condition: Any,
        *,
        carry: Any = None,
        parameters: Mapping[str, Array] | None = None,
    ) -> Any:
        """Generate the target's parameters.

        Args:
            condition: Raw value of one condition, or of a batch.
            carry: For a condition that carries a state, that of the call before.
            parameters: Arrays to use in the place of the hypernetwork's own, by name: all of
                them, or some. They may come from another hypernetwork; gradients reach them. A
                table may have another number of rows, which are then the ids that there are.

        Returns:
            `{name: array (*batch, *shape)}` for every generated tensor, differentiable; tied
            tensors once, under their first name. With a condition that carries a state, the pair
            of that and the next state.

        Raises:
            TypeError, ValueError, IndexError: As a call.
        """
        ...

    def factors(self, condition: Any, *, carry: Any = None) -> Any:
        """Generate the factors of low-rank changes: no tensor is formed.

        Args:
            condition: Raw value of one condition, or of a batch.
            carry: For a condition that carries a state, that of the call before.

        Returns:
            `{name: Factors(a, b, scaling)}` for every tensor whose form is a product of factors
            (`LoRA`, `LowRank`, `VeRA`): `W = base + scaling * B @ A`, with `a`
            `(*batch, rank, inputs)` and `b` `(*batch, outputs, rank)` as PEFT has them, in the
            dtype of the generator; differentiable. With a condition that carries a state, the
            pair of that and the next state.

        Raises:
            ValueError: No tensor's form has factors. Otherwise as a call.
        """
        ...

    def explain(self, *inputs: Any, condition: Any) -> Any:
        """Say how a call is run: what is formed, what is not, and why.

        Args:
            *inputs: As in a call.
            condition: As in a call.

        Returns:
            An `Explanation`: the strategy, and for each use of a generated tensor the way that is
            taken with the estimated operations and bytes of the alternatives. Print it.
        """
        ...

    def doctor(self, *inputs: Any, condition: Any) -> Any:
        """Look whether this hypernetwork can learn: one call, examined. Print what it returns.

        Does the gradient reach every part of the generator; do the outputs depend on the
        condition; are activations, gradients and generated tensors of the scale that the
        template's own initialisation gives; dtypes, devices.

        Args:
            *inputs: As in a call.
            condition: As in a call; a batch of two different conditions or more, or else (unless
                the condition is an `Embedding`) the dependence on it is not checked.

        Returns:
            A `Report`: `report.findings` says what is wrong, `report.ok` whether anything is.
            A call that fails is a finding, not an error.
        """
        ...

    def run(self, params: Mapping[str, Array], *inputs: Any) -> Any:
        """Run the target with given parameters.

        Args:
            params: What `generate` returns, or arrays of the same names and shapes, with common
                leading batch dimensions. Tensors that the hypernetwork keeps may be given too.
                In the place of an array there may be `Factors`, of what `factors` returns or any
                others: they change the target's own tensor, unless its form has no base.
            *inputs: As in a call.

        Returns:
            What the target returns.

        Raises:
            TypeError: A value that is not an array, or of another dtype than the target's.
            ValueError: A missing or unknown name, or a wrong shape.
        """

    def bind(self, condition: Any, *, rows: Any = None, carry: Any = None) -> Any:
        """Return an object that stands for the target with the weights of these conditions.

        For many calls, and for any method of the target: `net(x)`, `net.decode(z)`; attributes
        and parts read through. Gradients flow from all calls to the generator.

        Args:
            condition: Raw value of one condition, or of a batch.
            rows: For a batch, which row of all later inputs has which condition, as in a call.
            carry: For a condition that carries a state, that of the call before.

        Returns:
            The object: `net(x)` is `hnet(x, condition=condition, rows=rows)`.

        Raises:
            TypeError, ValueError, IndexError: As a call.
        """

    def instantiate(self, condition: Any, *, carry: Any = None) -> Any:
        """Return a plain module of the target's class with the parameters of one condition in it.

        The module owns copies of the arrays and has nothing to do with the hypernetwork any more:
        to deploy, to save, to fine-tune. Ties are kept; modes follow the hypernetwork's.

        Args:
            condition: Raw value of one condition.
            carry: For a condition that carries a state, that of the call before.

        Raises:
            ValueError: A batch of conditions. Otherwise as a call.
        """

    def add_conditions(self, num: int) -> list[Any]:
        """Add ids at the end; the outputs of the old ids stay bitwise the same.

        Args:
            num: How many ids to add.

        Returns:
            The new parameters.

        Raises:
            ValueError: `num` below 1, or a condition without ids of its own to grow.
        """
        ...

    def load(self, path: Any) -> None:
        """Fill this hypernetwork from a checkpoint of the same plan. See the function `load`.

        Raises:
            CheckpointError: The file is cut, altered, too new, or of another plan or target;
                the hypernetwork is as it was.
        """
