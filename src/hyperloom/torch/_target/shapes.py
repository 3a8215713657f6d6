"""A target that is nothing but its shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import nn

from hyperloom._core.errors import a_kind, message
from hyperloom._core.target.shapes import named_shapes, spec_of_shapes
from hyperloom._core.target.spec import TargetSpec


class Shapes(nn.Module):
    """A target without a forward: for `generate()` where no module holds the tensors.

    Its tensors have no memory (they are on the meta device). Fans and roles are told from the
    shapes: a tensor of at least two axes is a weight, `(out, in, *kernel)`, or `(*kernel, in, out)`
    where it is called a kernel; another is a bias, that of the weight of its layer if it has one.

    Args:
        shapes: The shapes, in order; the names are then `"0.weight"`, `"0.bias"`, `"1.weight"`
            and so on, a layer for each weight. Or a dict from names to shapes.
        dtype: Their dtype. Default `torch.get_default_dtype()`, float32 unless it was set.

    Raises:
        ValueError: No shape, or a name twice.
        TypeError: A shape that is not a sequence of ints.

    Example:
        >>> hnet = HyperNetwork(Shapes([(10, 4), (10,)]), condition=Embedding(3, 8))
        >>> hnet.generate(0)["0.weight"].shape
        torch.Size([10, 4])
    """

    def __init__(
        self,
        shapes: Sequence[Sequence[int]] | Mapping[str, Sequence[int]],
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if dtype is not None:
            a_kind("dtype", dtype, torch.dtype, "a torch.dtype")
        named = named_shapes(shapes)
        self.names = tuple(named)
        for name, size in named.items():
            *path, leaf = name.split(".")
            node: nn.Module = self
            for step in path:
                if step not in node._modules:
                    node.add_module(step, nn.Module())
                node = node.get_submodule(step)
            values = torch.empty(size, dtype=dtype, device="meta")
            node.register_parameter(leaf, nn.Parameter(values, requires_grad=False))

    def spec(self) -> TargetSpec:
        """Return the tensors in the order given."""
        held = dict(self.named_parameters())
        shapes = {name: tuple(held[name].shape) for name in self.names}
        dtypes = {name: str(held[name].dtype).removeprefix("torch.") for name in self.names}
        return spec_of_shapes(shapes, dtypes)

    def forward(self, *inputs: Any, **kwargs: Any) -> NoReturn:
        """Raise: there is nothing to run."""
        raise TypeError(
            message("target", "Shapes, which has no forward", "a module", "Use generate().")
        )
