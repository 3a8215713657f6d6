"""What the output regularisers of all backends look up and refuse. No framework needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from hyperloom._condition import Concat, Condition, Noise
from hyperloom._errors import did_you_mean, message
from hyperloom._plan import Plan


def weight_of(weights: Mapping[str, Any], name: str) -> Any:
    """Return the importance of a tensor: that of the first pattern that names it, or 1."""
    matching = (weight for pattern, weight in weights.items() if fnmatchcase(name, pattern))
    return next(matching, 1.0)


def check_weights(
    weights: Mapping[str, Any],
    plan: Plan,
    shape_of: Callable[[Any], tuple[int, ...]],
    an_array: str,
) -> None:
    """Raise `ValueError` for a weight that is for nothing, or does not fit what it is for.

    Args:
        weights: Name pattern -> weight.
        plan: Whose tensors are meant.
        shape_of: Returns the shape of a weight; `()` for a number.
        an_array: What the backend calls it: `"a tensor"`, `"an array"`.
    """
    shapes = {entry.tensor: plan.spec[entry.tensor].shape for entry in plan.entries}
    for pattern, weight in weights.items():
        named = [name for name in shapes if fnmatchcase(name, pattern)]
        if not named:
            got = f"the pattern {pattern!r}, which names no generated tensor"
            way_out = did_you_mean(pattern, shapes)
            raise ValueError(message("weights", got, "patterns that do", way_out))
        size = shape_of(weight)
        for name in named:
            if not _broadcasts(size, shapes[name]):
                got = f"{an_array} of shape {size} for {name!r}"
                wanted = f"a number, or a shape that broadcasts to {shapes[name]}"
                raise ValueError(message(f"weights[{pattern!r}]", got, wanted))


def check_fixed(choice: Condition, value: Any, arrays: tuple[type, ...], an_array: str) -> None:
    """Raise `ValueError` for a raw value that asks for noise which differs from call to call.

    Args:
        choice: The condition.
        value: Its raw value.
        arrays: The classes of arrays: noise that is given is one.
        an_array: As for `check_weights`.
    """
    if _is_drawn(choice, value, arrays):
        wanted = "conditions that are the same at each call"
        way_out = f"Give the noise itself, as {an_array}."
        raise ValueError(message("conditions", "noise to be drawn anew", wanted, way_out))


def check_batch(batch: tuple[int, ...]) -> None:
    """Raise `ValueError` for conditions that do not have one batch dimension."""
    if len(batch) != 1:
        got = f"conditions with dimensions {batch}"
        raise ValueError(message("conditions", got, "a batch (T,)", "For one: [id]."))


def _broadcasts(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    """Whether `small` broadcasts to exactly `large`."""
    tails = zip(reversed(small), reversed(large), strict=False)
    return len(small) <= len(large) and all(a in (1, b) for a, b in tails)


def _is_drawn(choice: Condition, value: Any, arrays: tuple[type, ...]) -> bool:
    if isinstance(choice, Concat) and isinstance(value, (tuple, list)):
        pairs = zip(choice.parts, value, strict=False)
        return any(_is_drawn(part, v, arrays) for part, v in pairs)
    return isinstance(choice, Noise) and not isinstance(value, arrays)
