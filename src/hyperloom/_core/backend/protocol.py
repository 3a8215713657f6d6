"""What a backend owes: the classes and functions that users find in each, and what these do.

The docstrings here, and in `tools.py` those of what stands around a hypernetwork, are those of the
backends' own, which complete them (`documented.completes`). Beside this a backend has a
`TargetSpec` of any target (`target_spec`), a module for each kind of head (`HeadModule` below), a
`WeightMaker` (`weights.py`), and tensors under the names of the checkpoint. `docs/extend.md` says
where the two that there are have them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from hyperloom._core.backend.factors import Factors
from hyperloom._core.backend.tools import Array, Arrays, Assembled, OutputRegularizer, Perturbed
from hyperloom._core.choices.execution import Execution
from hyperloom._core.plan.plan import Plan
from hyperloom._core.target.spec import TargetSpec


class HeadModule(Protocol):
    """A head of a plan, as a module: what it holds, how it starts, runs and grows."""

    def numbers(self, seen: Any) -> Array:
        """Run the head on features or ids: `(*batch, num_slots * slot_size)`."""

    def start(self, moment: float, source: Any) -> float:
        """Fill what the head holds.

        Args:
            moment: Mean square of its features.
            source: Where numbers come from: draws, and the target's own values.

        Returns:
            What the scales of its pieces are to be divided by.
        """
        ...

    def grow(self, num: int, source: Any) -> list[Any]:
        """Add `num` ids to what is looked up by id; return the new parameters."""
        ...


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


class Backend(Protocol):
    """A backend's public module. Options of its own (streams, modes) come on top."""

    OutputRegularizer: Callable[..., OutputRegularizer]
    Perturbed: Callable[..., Perturbed]
    Assembled: Callable[..., Assembled]
    HyperNetwork: Callable[..., HyperNetwork]
    Shapes: Callable[..., Any]
    target_spec: Callable[..., TargetSpec]

    def flatten(self, params: Mapping[str, Array], plan: Plan) -> Array:
        """Join generated tensors into one vector for each condition.

        Args:
            params: What `generate` returned: `{name: (*batch, *shape)}`.
            plan: The hypernetwork's plan, `hnet.plan`.

        Returns:
            `(*batch, P)`, tensor after tensor in the target's order, each in row-major order.

        Raises:
            TypeError: Not a dict from names to arrays, or no plan.
            ValueError: A tensor is missing, has another shape, or another batch than the first.
        """

    def unflatten(self, flat: Array, plan: Plan) -> Arrays:
        """Cut vectors into tensors: what `flatten` joined.

        Args:
            flat: `(*batch, P)`.
            plan: The hypernetwork's plan.

        Returns:
            `{name: (*batch, *shape)}`; in PyTorch views.

        Raises:
            TypeError: No array, or no plan.
            ValueError: Another width than `P`.
        """
        ...

    def unstack(self, params: Mapping[str, Array]) -> list[Arrays]:
        """Take a batch of generated tensors apart.

        Args:
            params: `{name: (B, *shape)}`.

        Returns:
            For each condition `{name: (*shape,)}`; in PyTorch views.

        Raises:
            TypeError: Not a dict from names to arrays.
            ValueError: Tensors with different first dimensions, or none at all.
        """
        ...

    def stack(self, samples: Sequence[Mapping[str, Array]]) -> Arrays:
        """Put the tensors of several conditions into a batch: what `unstack` took apart.

        Args:
            samples: For each condition `{name: (*shape,)}`.

        Returns:
            `{name: (B, *shape)}`.

        Raises:
            TypeError: Not a list of dicts from names to arrays.
            ValueError: No sample, or samples with other names than the first.
        """
        ...

    def concatenate(self, factors: Any, weights: Any = None) -> dict[str, Factors]:
        """Sum low-rank changes by putting their factors side by side: exact, nothing is formed.

        The rank of the sum is the sum of the ranks. For the chunks of a long document
        (Doc-to-LoRA), and for weighted mixtures of adapters.

        Args:
            factors: Factors of a batch of conditions, `{name: Factors}`, which are summed over the
                last dimension of the batch; or a list of such dicts of equal batch, which are
                summed, and whose ranks may differ.
            weights: Factors on the summands: an array `(*batch, N)`, or for a list a list of
                numbers. `None` (default) for 1. A weight of zero leaves a condition out.

        Returns:
            `{name: Factors}`, for `hnet.run`.

        Raises:
            TypeError: No factors.
            ValueError: Factors of one condition where a batch is summed over, adapters of other
                tensors or sizes than the first, or weights that do not pair with the summands.
        """
        ...

    def shared_parameters(self, hnet: Any) -> Arrays:
        """Return the hypernetwork's own parameters that all conditions share, by name.

        Perturb them without changing them: `hnet.generate(c, parameters={n: p + d for ...})`.
        """
        ...

    def conditional_parameters(self, hnet: Any, cond_id: int | None = None) -> Arrays:
        """Return the hypernetwork's own parameters that belong to single conditions, by name.

        Args:
            hnet: The hypernetwork.
            cond_id: A condition's id, for its rows only.

        Raises:
            TypeError: No hypernetwork, or an id that is no int.
            IndexError: An id that the hypernetwork does not know.
        """
        ...

    def readings(self, hnet: Any, condition: Any = None) -> dict[str, float]:
        """Return what a logger (TensorBoard, W&B, a list) wants to see of a hypernetwork.

        Args:
            hnet: The hypernetwork.
            condition: Raw value of a batch of conditions, to look at what is generated for them.
                Default: nothing is generated.

        Returns:
            Root mean squares by flat names: `parameters/<name>` and `gradients/<name>` of what is
            learned; with conditions `generated/<tensor>`, and `spread/<tensor>`, how far the
            tensors of single conditions are from their mean.

        Raises:
            TypeError: No hypernetwork; or as a call.
        """
        ...

    def unroll(self, hnet: Any, *inputs: Any, condition: Any, carry: Any = None) -> Any:
        """Run a hypernetwork whose condition carries a state over `T` steps, time first.

        The condition is run step by step, which is cheap; all `T * B` generated networks are then
        run in one batch, with the result that `T` calls would give. For targets that need their
        own output of the step before, call the hypernetwork step by step instead.

        Args:
            hnet: A hypernetwork with a `Recurrent` condition, or another that carries a state.
            *inputs: The target's inputs; every array `(T, *batch, ...)`.
            condition: Raw values of all steps; every array `(T, *batch, ...)`. What is no array
                (an int as an id) is the same at every step.
            carry: The state before the first step, as a call returns it; `None` for the start.

        Returns:
            What the target returns, with `(T, *batch)` in front of every array, and the state
            after the last step.

        Raises:
            TypeError: A condition without a state.
            ValueError: Arrays that differ in `T`, none at all, or what a call refuses.
        """

    def save(self, hnet: Any, path: Any, *, with_base: bool = False) -> None:
        """Write a hypernetwork to one safetensors file, which every backend can read.

        The file holds all that is learned, the target's buffers, and the plan with condition,
        trunk and layout as JSON. Of what is not trained, the tensors that the target keeps and the
        bases of forms, it holds a fingerprint, by which `load` tells whether it is given the same
        base. The file appears whole or not at all.

        Args:
            hnet: The hypernetwork.
            path: Where to; a file that is there is replaced. A link is followed.
            with_base: Write the frozen tensors too: the values of the target that `load` is given
                then do not matter. Default `False`.

        Raises:
            OSError: The file cannot be written.
            TypeError: A tensor of a dtype that the file cannot hold (complex128, float8).
            ValueError: Learned values that are NaN or infinite, which `load` would refuse; or
                what is at `path` is no file.
        """

    def load(
        self,
        path: Any,
        target: Any,
        *,
        condition: Any = None,
        trunk: Any = None,
        translate: bool | Mapping[str, str] = False,
    ) -> Any:
        """Read a hypernetwork from a file that `save` wrote, here or in another backend.

        Args:
            path: The file.
            target: A target of the same class and shapes. What the file holds replaces its values
                in the hypernetwork; what is frozen has to be what it was, unless the file was
                saved `with_base`.
            condition: The condition module, if the hypernetwork was made with one of the user's
                own (built the same way; its parameters are loaded). In a `Concat`, the whole
                `Concat`.
            trunk: The trunk module, likewise.
            translate: `True` if the file was made for the same network in another framework: the
                target then runs with the tensors that the plan generates, turned into its own;
                `generate` keeps their names and shapes. A dict says which layer or tensor of
                `target` is which of the file's where that cannot be told. See
                `hyperloom.translate`.

        Returns:
            The hypernetwork, in training mode.

        Raises:
            FileNotFoundError: There is no such file.
            CheckpointError: The file is cut, altered, of a newer format, holds values that are not
                finite, names a class that is not defined, or was made for another target; the
                message says which.
            ValueError: `translate` for networks that cannot be matched.
        """
