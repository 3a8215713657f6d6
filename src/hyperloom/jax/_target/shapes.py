"""A target that is nothing but its shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from hyperloom._core.errors import message, shown
from hyperloom._core.target.shapes import named_shapes, spec_of_shapes
from hyperloom.jax._target.adaptor import Adaptor, Method, Notes, Pure, Read
from hyperloom.jax._target.arrays import is_array
from hyperloom.jax._target.variables import Variable


class Shapes:
    """A target without a forward: for `generate()` where no module holds the tensors.

    Its tensors have no values. Fans and roles are told from the shapes: a tensor of at least two
    axes is a weight, `(out, in, *kernel)`, or `(*kernel, in, out)` where it is called a kernel;
    another is a bias, that of the weight of its layer if it has one. The plan is that of the same
    shapes in the PyTorch backend.

    Args:
        shapes: The shapes, in order; the names are then `"0.weight"`, `"0.bias"`, `"1.weight"`
            and so on, a layer for each weight. Or a dict from names to shapes.
        dtype: Their dtype. Default float32.

    Raises:
        ValueError: No shape.
        TypeError: A shape that is not a sequence of ints.

    Example:
        >>> target = Shapes({"0.kernel": (4, 10), "0.bias": (10,)})
        >>> hnet = HyperNetwork(target, condition=Embedding(3, 8), rngs=nnx.Rngs(0))
        >>> hnet.generate(0)["0.kernel"].shape
        (4, 10)
    """

    def __init__(
        self,
        shapes: Sequence[Sequence[int]] | Mapping[str, Sequence[int]],
        dtype: Any = jnp.float32,
    ) -> None:
        named = named_shapes(shapes)
        self.spec = spec_of_shapes(named, dict.fromkeys(named, str(_floating(dtype))))

    def __repr__(self) -> str:
        return f"Shapes({ {tensor.name: tensor.shape for tensor in self.spec} })"


def _floating(dtype: Any) -> Any:
    """Return a dtype of floating numbers."""
    wanted = "a dtype such as jnp.float32"
    try:
        floating = None if dtype is None or is_array(dtype) else jnp.dtype(dtype)
    except (TypeError, ValueError, AttributeError):
        floating = None
    if floating is None or not jnp.issubdtype(floating, jnp.floating):
        raise TypeError(message("dtype", shown(dtype), wanted))
    return floating


class ShapesTarget(Adaptor):
    """Nothing to run, and no state."""

    def state_variables(self) -> Iterator[tuple[str, Variable]]:
        return iter(())

    def keys(self, rngs: nnx.Rngs | None, method: Method = None) -> dict[str, Array]:
        return {}

    def pure(self, notes: Notes, method: Method = None) -> Pure:
        _refuse()

    def outline(self) -> Any:
        _refuse()

    def build(self, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> Any:
        _refuse()


def _refuse() -> NoReturn:
    got, way_out = "Shapes, which has no forward", "Use generate()."
    raise TypeError(message("target", got, "a module", way_out))


def read_shapes(target: Shapes) -> Read:
    """Read bare shapes."""
    values = {t.name: jax.ShapeDtypeStruct(t.shape, jnp.dtype(t.dtype)) for t in target.spec}
    return Read(target.spec, values, ShapesTarget())
