"""Where the target's tensors stand in a copy of it, and modules with others in those places."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from hyperloom._core.target.spec import TargetSpec
from hyperloom.torch._target.attributes import compute_by_hooks, have_dense_gradients
from hyperloom.torch._target.copying import copy_over, copy_with, reference_to, tie


class Places:
    """The paths of every tensor of a target, in a copy of it.

    Args:
        module: The copy.
        target: What it was copied from.
        spec: Of the target; its names are those of the tensors.

    Attributes:
        paths: Name of a tensor -> its paths, in parts that are not reached by an earlier path: a
            shared submodule is set once, for setting it twice would leave the second value behind.
    """

    def __init__(self, module: nn.Module, target: nn.Module, spec: TargetSpec) -> None:
        self.module, self.spec = module, spec
        self._sparse = have_dense_gradients(module)
        first = {
            f"{path}.{key}" if path else key
            for path, part in target.named_modules()
            for key in (*part._parameters, *part._buffers)
        }
        self.paths = {t.name: tuple(n for n in t.names if n in first) for t in spec}

    def names_by_module(self) -> dict[int, dict[str, str]]:
        """Return module (by `id`) and parameter -> name of the tensor (ties)."""
        names: dict[int, dict[str, str]] = {}
        for name in self.paths:
            for part, key in self._in(self.module, name):
                names.setdefault(id(part), {})[key] = name
        return names

    def replace_parameter(self, module: nn.Module, name: str, value: Tensor) -> None:
        """Put a tensor in the place of the target's `name` in another copy of the target."""
        for part, key in self._in(module, name):
            part._parameters[key] = value  # type: ignore[assignment]

    def by_path(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors, given by name, by path."""
        return {path: tensors[name] for name, paths in self.paths.items() for path in paths}

    def by_placeholder(self, values: Mapping[str, Tensor]) -> dict[int, Tensor]:
        """Return what `values` has by path, by the tensor of the copy (`id`) in that place."""
        return {
            id(tensor): values[f"{path}.{key}" if path else key]
            for path, part in self.module.named_modules()
            for key, tensor in (*part._parameters.items(), *part._buffers.items())
            if tensor is not None
        }

    def holding(self, tensors: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> nn.Module:
        """Return a module in which `tensors`, by name, and `buffers` stand as they are."""
        given = self.by_placeholder({**self.by_path(tensors), **buffers})
        return copy_over(self.module, lambda t: given[id(t)])

    def plain(
        self,
        tensors: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        shared: Collection[str] = (),
    ) -> nn.Module:
        """Return a plain module over the given tensors, ties kept.

        Args:
            tensors: By the spec's names.
            buffers: By their paths.
            shared: Names of tensors that the module is to hold where they are; it owns copies of
                the others.
        """
        values = {path: tensors[t.name] for t in self.spec for path in t.names}
        given = self.by_placeholder({**values, **buffers})
        stay = {id(tensors[name]) for name in shared}

        def value(placeholder: Tensor) -> Tensor:
            tensor = given[id(placeholder)]
            if id(tensor) in stay:
                return reference_to(tensor)
            own = reference_to(tensor, tensor.detach().clone())
            vars(own).update(copy.deepcopy(vars(own)))
            return own

        module = copy_with(self.module, value)
        for part in module.modules():
            compute_by_hooks(part)
        for path in self._sparse:
            table: Any = module.get_submodule(path)
            table.sparse = True
        return tie(module, self.spec)

    def _in(self, module: nn.Module, name: str) -> Iterator[tuple[nn.Module, str]]:
        for path, _, key in (full.rpartition(".") for full in self.paths[name]):
            yield module.get_submodule(path), key
