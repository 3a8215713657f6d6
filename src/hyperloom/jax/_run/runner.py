"""`Runner`: the target, the tensors that it keeps, and how its batches are run."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

from jax import Array

from hyperloom._core.choices.execution import Execution
from hyperloom.jax._target.adaptor import Adaptor


@dataclass(frozen=True, eq=False)
class Runner:
    """What a hypernetwork runs.

    The modules belong to the hypernetwork, under these names; a runner only refers to them.

    Attributes:
        target: The target without its parameters.
        kept: The target's tensors that nothing generates, by name.
        execution: How batches are run.
        notices: What was said once already.
    """

    target: Adaptor
    kept: Any
    execution: Execution
    notices: set[str]

    @classmethod
    def of(cls, owner: Any) -> Self:
        """Return the runner whose parts are attributes of `owner`."""
        return cls(**{field.name: getattr(owner, field.name) for field in fields(cls)})

    def modules(self) -> dict[str, Any]:
        """Return the modules by name."""
        return {"target": self.target, "kept": self.kept}

    def kept_tensors(self) -> dict[str, Array]:
        """Return the kept tensors as arrays."""
        return {name: self.kept[name][...] for name in self.kept}
