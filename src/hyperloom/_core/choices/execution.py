"""How a batch of conditions is run: which way, how many at a time, and what is computed again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hyperloom._core.choice import Choice
from hyperloom._core.errors import a_bool, message, one_of, positive_int, shown

STRATEGIES = ("auto", "rows", "vmap", "loop")
RANDOMNESS = ("different", "same")
WAYS = ("dense", "inputs", "outputs")


class SlowWarning(UserWarning):
    """A batch of conditions is run by a slower way than the usual; the results are the same."""


@dataclass(frozen=True, repr=False)
class Execution(Choice):
    """How batches of conditions are run; the results are the same.

    Args:
        max_memory: Bytes that what is generated for one run may take: factors as they are, any
            other tensor dense. A larger batch is run in several parts, one after the other. `None`
            (default) for all at once. While training, a bound on the peak needs `recompute` as
            well, because without it the backward pass keeps what every part has made.
        recompute: Generate and run again in the backward pass instead of keeping generated
            tensors and activations in between (activation checkpointing around the call): about
            a third more time, much less memory. Default False.
        strategy: How the conditions of a batch are run. `"auto"` (default): all at once where that
            is exact, else one after the other; `explain()` says what was chosen, and the first
            time that a loop is needed a `SlowWarning` names the module that is the reason.
            `"rows"`: the target's forward runs once on all rows, and each row meets the weights of
            its condition; a target whose rows meet (batch statistics) raises an error.
            PyTorch only; in JAX a hypernetwork refuses it.
            `"vmap"`: all at once, always; what cannot be run so raises the framework's own error.
            `"loop"`: one after the other, always, without a warning; any target can be run so.
        randomness: `"different"` (default): each condition makes random draws of its own inside
            the target (dropout masks). `"same"`: they are made once, for all conditions of a
            batch, as in `torch.func.vmap`.
        ways: How layers with a generated weight are evaluated, by name patterns of the weights, in
            order, first match wins: `"dense"` (the weight is formed), `"inputs"` or `"outputs"`
            (the templates are shared; coefficients are multiplied into a layer's inputs or into its
            outputs), e.g. `{"fc.*": "outputs"}`. What no pattern names is chosen by the cost model.
        check: PyTorch: at the first call of each kind that is run at once, one condition is run
            alone as well and compared, on copies and without a trace; where the results differ
            beyond rounding, the conditions are run one after the other from then on, and a
            `SlowWarning` says why. Of a target that draws random numbers, structure, shapes and
            dtypes are compared. Default True; it costs one condition's forward, once.

    Raises:
        TypeError: An argument of another class.
        ValueError: `max_memory` below 1, or a word that is not one of those above. Where it is
            given to a hypernetwork: a pattern that names nothing; in the call, a way that the
            weight does not have.
    """

    max_memory: int | None = None
    recompute: bool = False
    strategy: str = "auto"
    randomness: str = "different"
    ways: Mapping[str, str] | None = None
    check: bool = True

    def __post_init__(self) -> None:
        if self.max_memory is not None:
            positive_int("Execution(max_memory=)", self.max_memory)
        a_bool("Execution(recompute=)", self.recompute)
        a_bool("Execution(check=)", self.check)
        one_of("Execution(strategy=)", self.strategy, STRATEGIES)
        one_of("Execution(randomness=)", self.randomness, RANDOMNESS)
        if self.ways is not None:
            if not isinstance(self.ways, Mapping) or not self.ways:
                wanted = "a dict from name patterns to ways"
                raise TypeError(message("Execution(ways=)", shown(self.ways), wanted))
            for pattern, way in self.ways.items():
                one_of(f"Execution(ways=)[{pattern!r}]", way, WAYS)

    def __hash__(self) -> int:
        ways = None if self.ways is None else tuple(self.ways.items())
        rest = self.max_memory, self.recompute, self.strategy, self.randomness, self.check
        return hash((*rest, ways))

    def conditions_at_once(self, bytes_each: int) -> int | None:
        """Return how many conditions one run takes, at least 1; `None` for all.

        Args:
            bytes_each: Bytes of what is generated for one condition.
        """
        return None if self.max_memory is None else max(1, self.max_memory // bytes_each)
