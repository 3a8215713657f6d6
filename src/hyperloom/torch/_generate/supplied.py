"""A hypernetwork with parameters from outside: from another hypernetwork, or perturbed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from hyperloom._core.errors import did_you_mean, message
from hyperloom.torch._generate.table import Table


def generate_with(
    generator: nn.Module, condition: Any, parameters: Mapping[str, Tensor], carry: Any = None
) -> Any:
    """Generate with given tensors in the place of the hypernetwork's own."""
    check_own(generator, parameters)
    given = {f"generator.{name}": value for name, value in parameters.items()}
    return functional_call(_Generate(generator), given, (condition, carry))


class _Generate(nn.Module):
    """`generate` as a forward, which is what `functional_call` calls."""

    def __init__(self, generator: Any) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, condition: Any, carry: Any) -> Any:
        return self.generator.generate(condition, carry=carry)


def check_own(generator: nn.Module, parameters: Mapping[str, Tensor]) -> None:
    """Raise for names that are not the hypernetwork's own, or tensors of other shapes."""
    wanted = "a dict from names of the hypernetwork's parameters to tensors"
    if not isinstance(parameters, Mapping):
        raise TypeError(message("parameters", f"a {type(parameters).__name__}", wanted))
    tensors: dict[str, Tensor] = dict(generator.named_parameters(remove_duplicate=False))
    tensors.update(generator.named_buffers(remove_duplicate=False))
    for name, value in parameters.items():
        if name not in tensors:
            way_out = did_you_mean(name, tensors)
            raise ValueError(message("parameters", f"the name {name!r}", wanted, way_out))
        if not isinstance(value, Tensor):
            raise TypeError(message(f"parameters[{name!r}]", value, "a tensor"))
        # A table has a row for each id, of which others may be given: for ids that it lacks.
        first = 1 if _is_table(generator, name) else 0
        if value.shape[first:] != tensors[name].shape[first:] or value.ndim != tensors[name].ndim:
            got, shape = f"shape {tuple(value.shape)}", tuple(tensors[name].shape)
            sizes = ("ids", *shape[1:]) if first else shape
            right = f"({', '.join(map(str, sizes))}{',' if len(sizes) == 1 else ''})"
            raise ValueError(message(f"parameters[{name!r}]", got, f"shape {right}"))


def _is_table(generator: nn.Module, name: str) -> bool:
    return isinstance(generator.get_submodule(name.rpartition(".")[0]), Table)
