"""What a backend owes: the classes and functions that users find in each, and what these do.

The docstrings here, those in `hypernetwork.py` (the object that users hold) and those in `tools.py`
(what stands around it) are the backends' docstrings too, which complete them
(`documented.completes`). Beside this a backend has a `TargetSpec` of any target (`target_spec`), a
module for each kind of head (`HeadModule` below), a `WeightMaker` (`weights.py`), and tensors under
the names of the checkpoint. `docs/extend.md` says where PyTorch and JAX have them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from hyperloom._core.backend.factors import Factors
from hyperloom._core.backend.hypernetwork import HyperNetwork
from hyperloom._core.backend.tools import Array, Arrays, Assembled, OutputRegularizer, Perturbed
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
