"""The interface of all hypernetworks."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from hyperloom.compat.hypnettorch._door.errors import require
from hyperloom.compat.hypnettorch._door.formats import FORMATS, from_flat, from_samples
from hyperloom.compat.hypnettorch._door.ledger import Ledger
from hyperloom.compat.hypnettorch.mnets.mnet_interface import MainNetInterface


class HyperNetInterface(MainNetInterface):
    """A network whose output is the weights of another: hypnettorch's view of it.

    Parameters that belong to one condition (embeddings) are called conditional, those that all
    conditions share unconditional. Both can be held inside or come from outside at every call
    (argument `weights` of `forward`).
    """

    _target_shapes: Sequence[Sequence[int]]
    _num_known_conds: int

    def _settle(
        self,
        ledger: Ledger,
        target_shapes: Sequence[Sequence[int]],
        num_known_conds: int,
        hold: bool = True,
    ) -> None:
        """Take over what the properties tell; `hold` makes a list of the parameters held."""
        self._ledger = ledger
        self._target_shapes = target_shapes
        self._num_known_conds = num_known_conds
        held = [e.parameter for e in ledger.held]
        self._internal_params = nn.ParameterList(held) if hold else None
        self._layer_weight_tensors = ledger.linear("weight")
        self._layer_bias_vectors = ledger.linear("bias")
        self._batchnorm_layers = None

    @property
    def target_shapes(self) -> Sequence[Sequence[int]]:
        """Shapes of the tensors generated."""
        return self._target_shapes

    @property
    def num_outputs(self) -> int:
        """Numbers generated for one condition."""
        return self.shapes_to_num_weights(self.target_shapes)

    @property
    def num_known_conds(self) -> int:
        """Conditions whose ids `forward` takes."""
        return self._num_known_conds

    @property
    def unconditional_param_shapes_ref(self) -> list[int]:
        """Places in `param_shapes` of the parameters that all conditions share."""
        return self._ledger.positions(conditional=False)

    @property
    def unconditional_param_shapes(self) -> list[list[int]]:
        """Their shapes."""
        return [self.param_shapes[i] for i in self.unconditional_param_shapes_ref]

    @property
    def conditional_param_shapes_ref(self) -> list[int]:
        """Places in `param_shapes` of the parameters that belong to one condition."""
        return self._ledger.positions(conditional=True)

    @property
    def conditional_param_shapes(self) -> list[list[int]]:
        """Their shapes."""
        return [self.param_shapes[i] for i in self.conditional_param_shapes_ref]

    @property
    def unconditional_params_ref(self) -> list[int] | None:
        """Places in `internal_params` of the shared parameters, `None` if none is held inside."""
        found = [i for i, e in enumerate(self._ledger.held) if not e.conditional]
        return found or None

    @property
    def unconditional_params(self) -> list[Any] | None:
        """Parameters held inside that all conditions share, `None` if there are none."""
        refs = self.unconditional_params_ref
        held = self.internal_params
        return None if refs is None or held is None else [held[i] for i in refs]

    @property
    def conditional_params(self) -> list[Any] | None:
        """Parameters held inside that belong to one condition each."""
        if self.internal_params is None:
            return None
        shared = set(self.unconditional_params_ref or ())
        return [p for i, p in enumerate(self.internal_params) if i not in shared]

    def get_task_embs(self) -> list[Any] | None:
        """Return `conditional_params`. Deprecated.

        Raises:
            RuntimeError: There is not one conditional parameter for each condition.
        """
        text = "Use conditional_params instead of get_task_embs()."
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        return self._embeddings()

    def get_task_emb(self, task_id: int) -> Any:
        """Return one of `conditional_params`. Deprecated.

        Raises:
            ValueError: There are no conditional parameters.
            RuntimeError: There is not one for each condition.
        """
        text = "Use conditional_params instead of get_task_emb()."
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        found = self._embeddings()
        if found is None:
            raise ValueError("task_id: there are no conditional parameters.")
        return found[task_id]

    def _embeddings(self) -> list[Any] | None:
        found = self.conditional_params
        if found is not None and len(found) != self.num_known_conds:
            raise RuntimeError("There is not one conditional parameter for each condition.")
        return found

    @abstractmethod
    def forward(
        self,
        uncond_input: Tensor | None = None,
        cond_input: Tensor | None = None,
        cond_id: int | list[int] | None = None,
        weights: Any = None,
        distilled_params: Any = None,
        condition: Any = None,
        ret_format: str = "squeezed",
    ) -> Any:
        """Generate weights.

        Args:
            uncond_input: Unconditional input `(B, uncond_in_size)`.
            cond_input: Conditional input `(B, cond_in_size)`.
            cond_id: Id of a condition, or a list of ids, in place of `cond_input`.
            weights: Parameters from outside: a list for all of `param_shapes` or for
                `hyper_shapes_learned`, or a dict with lists `uncond_weights`, `cond_weights`.
            distilled_params: Not used.
            condition: Which statistics batch norm uses.
            ret_format: `"flattened"` for a tensor `(B, num_outputs)`; `"sequential"` for a list
                of lists of tensors, one for each sample; `"squeezed"` (default) for the same, or
                for only the inner list where the batch has one sample.
        """

    def add_to_uncond_params(
        self, dparams: Sequence[Tensor], params: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        """Return `params` (by default the shared parameters) with `dparams` added.

        Raises:
            ValueError: No shared parameters are held inside and `params` is not given, or the
                lists differ in length.
        """
        if params is None:
            params = self.unconditional_params
        if params is None:
            raise ValueError("params: wanted, as no shared parameters are held inside.")
        if len(params) != len(dparams):
            raise ValueError(f"dparams: got {len(dparams)} tensors; wanted {len(params)}.")
        return [own + change for own, change in zip(params, dparams, strict=True)]

    def convert_out_format(self, hnet_out: Any, src_format: str, trgt_format: str) -> Any:
        """Bring what `forward` returned in one format into another."""
        for argument, value in (("src_format", src_format), ("trgt_format", trgt_format)):
            require(value in FORMATS, f"{argument}: got {value!r}; wanted one of {FORMATS}.")
        if src_format == trgt_format:
            return hnet_out
        if src_format == "flattened":
            return from_flat(hnet_out, self.target_shapes, trgt_format)
        one = src_format == "squeezed" and len(hnet_out) > 0 and isinstance(hnet_out[0], Tensor)
        return from_samples([hnet_out] if one else hnet_out, trgt_format)

    def __str__(self) -> str:
        parts = [f"{self.num_params} weights generate {self.num_outputs}"]
        parts.append(f"{self.num_params / self.num_outputs:.2f} for each")
        held = self._ledger.held
        for word, conditional in (("shared", False), ("for single conditions", True)):
            shapes = [e.shape for e in self._ledger.entries if e.conditional is conditional]
            inside = [e.shape for e in held if e.conditional is conditional]
            total, own = map(self.shapes_to_num_weights, (shapes, inside))
            parts.append(f"{total} {word} ({own} held inside)")
        return f"{type(self).__name__}: " + ", ".join(parts)
