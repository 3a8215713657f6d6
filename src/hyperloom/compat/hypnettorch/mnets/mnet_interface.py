"""The interface of main networks, which hypernetworks share."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hyperloom.compat.hypnettorch._door.errors import require
from hyperloom.compat.hypnettorch._door.ledger import Ledger

Shapes = Sequence[Sequence[int]]


class MainNetInterface(ABC):
    """What hypnettorch says of a network: its parameters, their shapes and what they are for."""

    _ledger: Ledger
    _internal_params: nn.ParameterList | None
    _layer_weight_tensors: nn.ParameterList
    _layer_bias_vectors: nn.ParameterList
    _batchnorm_layers: nn.ModuleList | None
    _has_bias: bool
    _has_fc_out: bool
    _mask_fc_out: bool
    _has_linear_out: bool

    @property
    def internal_params(self) -> nn.ParameterList | None:
        """Parameters held inside, in the order of `param_shapes`."""
        return self._internal_params

    @property
    def weights(self) -> nn.ParameterList | None:
        """Deprecated name of `internal_params`."""
        warnings.warn("Use internal_params instead of weights.", DeprecationWarning, stacklevel=2)
        return self.internal_params

    @property
    def internal_params_ref(self) -> list[int] | None:
        """For each of `internal_params`, its place in `param_shapes`."""
        if self.internal_params is None:
            return None
        return [i for i, e in enumerate(self._ledger.entries) if e.parameter is not None]

    @property
    def param_shapes(self) -> list[list[int]]:
        """Shapes of all parameters, held inside or not."""
        return self._ledger.shapes

    @property
    def param_shapes_meta(self) -> list[dict[str, Any]]:
        """What each parameter is: a dict with `name`, `index` and `layer`."""
        return self._ledger.meta

    @property
    def hyper_shapes_learned(self) -> list[list[int]] | None:
        """Shapes of the parameters that come from outside."""
        return [self.param_shapes[i] for i in self._ledger.external]

    @property
    def hyper_shapes_learned_ref(self) -> list[int] | None:
        """For each of `hyper_shapes_learned`, its place in `param_shapes`."""
        return self._ledger.external

    @property
    def hyper_shapes_distilled(self) -> list[list[int]] | None:
        """Always `None`: nothing is distilled."""
        return None

    @property
    def has_bias(self) -> bool:
        """Whether all fully connected layers have biases."""
        return self._has_bias

    @property
    def has_fc_out(self) -> bool:
        """Whether the output layer is fully connected."""
        return self._has_fc_out

    @property
    def mask_fc_out(self) -> bool:
        """Whether output neurons can be told apart by `get_output_weight_mask`."""
        return self._mask_fc_out

    @property
    def has_linear_out(self) -> bool:
        """Whether the output is linear in the last features."""
        return self._has_linear_out

    @property
    def num_params(self) -> int:
        """Numbers in all parameters."""
        return self.shapes_to_num_weights(self.param_shapes)

    @property
    def num_internal_params(self) -> int:
        """Numbers in the parameters held inside."""
        return sum(p.numel() for p in self.internal_params or ())

    @property
    def layer_weight_tensors(self) -> nn.ParameterList:
        """Weights of the fully connected layers held inside."""
        return self._layer_weight_tensors

    @property
    def layer_bias_vectors(self) -> nn.ParameterList:
        """Their biases."""
        return self._layer_bias_vectors

    @property
    def batchnorm_layers(self) -> nn.ModuleList | None:
        """The batch norm layers, or `None`."""
        return self._batchnorm_layers

    @property
    def context_mod_layers(self) -> None:
        """Always `None`: there are none."""
        return None

    @abstractmethod
    def distillation_targets(self) -> Any:
        """Targets to be distilled after training."""

    @staticmethod
    def shapes_to_num_weights(dims: Shapes) -> int:
        """Return how many numbers tensors of the given shapes hold together."""
        return sum(math.prod(shape) for shape in dims)

    def custom_init(
        self, normal_init: bool = False, normal_std: float = 0.02, zero_bias: bool = True
    ) -> None:
        """Fill the fully connected layers with Xavier (or normal) draws, biases with zeros."""
        for weight in self.layer_weight_tensors:
            if normal_init:
                nn.init.normal_(weight, std=normal_std)
            else:
                nn.init.xavier_uniform_(weight)
        if zero_bias:
            for bias in self.layer_bias_vectors:
                nn.init.zeros_(bias)

    def get_output_weight_mask(
        self, out_inds: list[int] | None = None, device: Any = None
    ) -> list[Tensor | None]:
        """Return masks of the parameters that belong to some output neurons.

        Args:
            out_inds: The neurons; all by default.
            device: Where the masks are wanted.

        Returns:
            A boolean tensor for the output layer's weight and bias, `None` for all others.

        Raises:
            NotImplementedError: The output layer is not fully connected, or has no such mask.
        """
        if not (self.has_fc_out and self.mask_fc_out):
            raise NotImplementedError("The output neurons of this network cannot be masked.")
        made: list[Tensor | None] = [None] * len(self.param_shapes)
        for place in (-2, -1) if self.has_bias else (-1,):
            mask = torch.full(self.param_shapes[place], out_inds is None, device=device)
            if out_inds is not None:
                mask[out_inds] = True
            made[place] = mask
        return made

    def overwrite_internal_params(self, new_params: Sequence[Tensor]) -> None:
        """Put new values into the parameters held inside, one tensor for each."""
        held = list(self.internal_params or ())
        require(len(new_params) == len(held), "new_params: wanted one tensor for each parameter.")
        for own, new in zip(held, new_params, strict=True):
            require(own.shape == new.shape, "new_params: wanted the shapes of internal_params.")
            own.data = new.data if isinstance(new, nn.Parameter) else new

    @staticmethod
    def flatten_params(
        params: Any, param_shapes: Shapes | None = None, unflatten: bool = False
    ) -> Any:
        """Join tensors into one vector, or cut a vector into tensors of `param_shapes`."""
        if not unflatten:
            return torch.cat([p.flatten() for p in params])
        require(param_shapes is not None, "param_shapes: wanted when unflatten=True.")
        sizes = [math.prod(shape) for shape in param_shapes or ()]
        cuts = params.split(sizes)
        return [cut.view(*shape) for cut, shape in zip(cuts, param_shapes or (), strict=True)]
