"""A PyTorch target that is run with the tensors of the same network in another framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hyperloom._core.target.spec import TargetSpec
from hyperloom._core.target.translate import translate
from hyperloom.torch._target.spec import target_spec
from hyperloom.torch._target.tensors import TensorTree


class TorchArrays:
    """Joins and turns tensors for a `Translation`."""

    def permute(self, array: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Return the tensor with its axes in another order."""
        return array.permute(axes)

    def join(self, arrays: Sequence[Tensor], axis: int) -> Tensor:
        """Return tensors one after the other along an axis."""
        return torch.cat(tuple(arrays), axis)

    def zeros(self, like: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return zeros."""
        return like.new_zeros(shape)


class Translated(TensorTree):
    """A module with the source's tensors as its parameters and buffers; it runs the target.

    Args:
        target: The target.
        source: What a plan was made for.
        names: As for `hyperloom.translate`.
        buffers: The source's buffers; those that are running statistics become the target's.
    """

    def __init__(
        self,
        target: nn.Module,
        source: TargetSpec,
        names: Mapping[str, str],
        buffers: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        for tensor in source:
            self.add_parameter(tensor.name, torch.empty(tensor.shape, dtype=_dtype(tensor.dtype)))
            for alias in tensor.aliases:
                path, _, leaf = alias.rpartition(".")
                self._node(f"{path}.{leaf}")[0].register_parameter(
                    leaf, self.get_parameter(tensor.name)
                )
        for name, value in buffers.items():
            self.add_buffer(name, value)
        self.__dict__["target"] = target  # past nn.Module: its parameters are not ours
        self._translation = translate(source, target_spec(target), names)
        self._statistics = self._translation.state_names(list(buffers))

    def train(self, mode: bool = True) -> Translated:
        """Set training mode here and in the target."""
        self.__dict__["target"].train(mode)
        return super().train(mode)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the target with the tensors that are there now."""
        parameters = dict(self.named_parameters(remove_duplicate=False))
        translated = self._translation.apply(parameters, TorchArrays())
        target = self.__dict__["target"]
        buffers = {name: value.clone() for name, value in target.named_buffers()}
        for mine, theirs in self._statistics.items():
            buffers[mine] = self.get_buffer(theirs)
        tensors = {n: translated[t.name] for t in self._translation.target for n in t.names}
        return functional_call(target, {**tensors, **buffers}, args, kwargs, tie_weights=False)


def _dtype(name: str) -> torch.dtype:
    return getattr(torch, name)
