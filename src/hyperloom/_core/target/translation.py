"""Where every tensor of a target stands in the tensors of another: recipes, and their execution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hyperloom._core.target.spec import TargetSpec


class Arrays(Protocol):
    """What a backend lends to join and turn arrays."""

    def permute(self, array: Any, axes: tuple[int, ...]) -> Any:
        """Return the array with its axes in another order."""
        ...

    def join(self, arrays: Sequence[Any], axis: int) -> Any:
        """Return arrays one after the other along an axis."""
        ...

    def zeros(self, like: Any, shape: tuple[int, ...]) -> Any:
        """Return zeros of `shape`, of the dtype and on the device of `like`."""
        ...


@dataclass(frozen=True)
class Term:
    """One tensor of the source, or a range of it, as it appears in a tensor of the target.

    Attributes:
        name: Its name.
        axes: Order in which its axes appear.
        axis: Axis of the source along which a range is taken, or `None` for all of it.
        start: First position of the range.
        stop: One past the last.
    """

    name: str
    axes: tuple[int, ...]
    axis: int | None = None
    start: int = 0
    stop: int = 0


@dataclass(frozen=True)
class Recipe:
    """How a tensor of the target is computed: sums of terms, joined along an axis.

    Attributes:
        name: The tensor of the target.
        shape: Its shape.
        blocks: For each block its terms, which are summed; none for a tensor of zeros.
        axis: Axis of the target along which the blocks are joined.
    """

    name: str
    shape: tuple[int, ...]
    blocks: tuple[tuple[Term, ...], ...]
    axis: int = 0


@dataclass(frozen=True)
class Translation:
    """Where the tensors of one target stand in those of another. Made by `translate`.

    Attributes:
        source: The target that there are tensors of.
        target: The target that tensors are wanted of.
        recipes: One for each tensor of `target`.
        layers: Pairs of layers that were matched, of the target and of the source.
    """

    source: TargetSpec
    target: TargetSpec
    recipes: tuple[Recipe, ...]
    layers: tuple[tuple[str, str], ...] = ()

    def apply(self, tensors: Mapping[str, Any], arrays: Arrays) -> dict[str, Any]:
        """Return the target's tensors.

        Args:
            tensors: The source's tensors by name, each `(*shape)`.
            arrays: What joins and turns the backend's arrays.
        """
        return {recipe.name: self._make(recipe, tensors, arrays) for recipe in self.recipes}

    def _make(self, recipe: Recipe, tensors: Mapping[str, Any], arrays: Arrays) -> Any:
        if not recipe.blocks:
            return arrays.zeros(tensors[self.source.tensors[0].name], recipe.shape)
        blocks = []
        for terms in recipe.blocks:
            summands = [self._read(term, tensors, arrays) for term in terms]
            blocks.append(sum(summands[1:], summands[0]))
        whole = blocks[0] if len(blocks) == 1 else arrays.join(blocks, recipe.axis)
        return whole.reshape(recipe.shape)

    def _read(self, term: Term, tensors: Mapping[str, Any], arrays: Arrays) -> Any:
        value = tensors[self.source[term.name].name]
        if term.axis is not None:
            value = value[(slice(None),) * term.axis + (slice(term.start, term.stop),)]
        return (
            value if term.axes == tuple(range(len(term.axes))) else arrays.permute(value, term.axes)
        )

    def state_names(self, names: Sequence[str]) -> dict[str, str]:
        """Return which of the source's `names` of running statistics each of the target's is."""
        names_of_target = {}
        for mine, theirs in self.layers:
            for of_target in (("mean", "running_mean"), ("var", "running_var")):
                for a, b in (of_target, of_target[::-1]):
                    if f"{theirs}.{b}" in names:
                        names_of_target[f"{mine}.{a}"] = f"{theirs}.{b}"
        return names_of_target
