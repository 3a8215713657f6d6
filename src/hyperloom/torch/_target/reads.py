"""Which of its tensors a target's code uses in a call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


class Reads(TorchFunctionMode):
    """Notes the names of tensors that functions of PyTorch are given.

    What comes to code in another way is not seen; so a tensor that is not noted may still be used.

    Attributes:
        names: The names noted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self._known: dict[int, tuple[str, Tensor]] = {}

    def know(self, tensors: Mapping[str, Tensor]) -> None:
        """Note uses of these tensors from now on."""
        # With the tensors: an `id` is used again when they are gone.
        self._known.update((id(tensor), (name, tensor)) for name, tensor in tensors.items())

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for leaf in tree_leaves((args, kwargs)):
            known = self._known.get(id(leaf))
            if known is not None:
                self.names.add(known[0])
        return func(*args, **kwargs)
