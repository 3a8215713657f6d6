"""What `explain()` returns: for each generated tensor how it was used, and why."""

from __future__ import annotations

from dataclasses import dataclass

from hyperloom._core.errors import did_you_mean, message, shown
from hyperloom._core.plan.cost import Estimate, Layer, estimates
from hyperloom._core.tables import human, table
from hyperloom._core.target.spec import TensorSpec

_WORDS = {
    "dense": "formed for each condition",
    "inputs": "coefficients into the inputs, templates shared",
    "outputs": "templates shared, coefficients into the outputs",
    "factors": "run from its factors",
    "shared": "the same for all conditions",
    "unused": "not used by this call",
}


@dataclass(frozen=True)
class Used:
    """How one generated tensor was used in a call.

    Attributes:
        tensor: Its name.
        operation: `linear`, `conv`, `embedding`, `other` for anything else, or `none`.
        choice: `dense`, `inputs`, `outputs` or `factors`; `shared` for a learned tensor that does
            not depend on the condition, `unused` for a matrix that the call did not touch.
        layer: The sizes that the cost model saw, or `None` where there was nothing to choose.
        estimates: What each way was estimated to cost, the cheapest first.
        why: The reason, in words.
    """

    tensor: str
    operation: str
    choice: str
    layer: Layer | None
    estimates: tuple[Estimate, ...]
    why: str


@dataclass(frozen=True, repr=False)
class Explanation:
    """How a call was run. Printing it gives a table.

    Attributes:
        strategy: How the target was run: `single`, `chain`, `rows`, `vmap` or `loop`.
        reason: Why.
        conditions: Conditions in the batch.
        used: One entry for each use of a generated tensor, in the order of the call.
        slow: What was run by a slower way than the usual: module and reason.
    """

    strategy: str
    reason: str
    conditions: int
    used: tuple[Used, ...]
    slow: tuple[str, ...] = ()

    def __getitem__(self, tensor: str) -> Used:
        for use in self.used:
            if isinstance(tensor, str) and use.tensor == tensor:
                return use
        way_out = did_you_mean(tensor, dict.fromkeys(use.tensor for use in self.used))
        got = shown(tensor)
        raise KeyError(message("tensor", got, "a generated tensor that this call used", way_out))

    def __repr__(self) -> str:
        noun = "condition" if self.conditions == 1 else "conditions"
        head = f"{self.conditions} {noun}, run as {self.strategy}: {self.reason}"
        titles = ["tensor", "layer", "way", "operations", "bytes", "alternatives", "why"]
        rows = [[*_row(use), use.why] for use in self.used]
        slow = [f"slow: {found}" for found in self.slow if found not in self.reason]
        return "\n".join([head, *slow, *table(titles, rows)])


def used(
    tensor: TensorSpec,
    operation: str,
    choice: str,
    layer: Layer | None,
    itemsize: int,
    device: str,
    single: bool,
) -> Used:
    """Return the entry for a use; the cost model's estimates and the reason are filled in."""
    costs = estimates(layer, itemsize, device) if layer is not None else ()
    formed = single and choice == "dense"
    why = "one condition: formed once" if formed else _why(tensor, choice, layer, costs)
    return Used(tensor.name, operation, choice, layer, costs, why)


def _row(use: Used) -> list[str]:
    chosen = next((e for e in use.estimates if e.choice == use.choice), None)
    others = [e for e in use.estimates if e.choice != use.choice and e.seconds < float("inf")]
    cost = [human(chosen.operations), human(chosen.traffic, "B")] if chosen else ["", ""]
    shown = ", ".join(f"{e.choice} {human(e.operations)} / {human(e.traffic, 'B')}" for e in others)
    return [use.tensor, use.operation, _WORDS[use.choice], *cost, shown]


def _why(tensor: TensorSpec, choice: str, layer: Layer | None, costs: tuple[Estimate, ...]) -> str:
    if choice in ("shared", "unused"):
        return "learned as it is" if choice == "shared" else "the target did not read it"
    if choice == "factors":
        return "a factored form"
    if len(tensor.shape) < 2:
        return "a vector: no larger than its parts"
    if layer is None:
        return "not a sum of templates: looked up, or spread over several chunks"
    best = next(e for e in costs if e.choice == choice)
    rest = min(e.seconds for e in costs if e.choice != choice)
    rows = f"{layer.rows} row{'s' if layer.rows != 1 else ''}, {layer.terms} templates"
    if rest < best.seconds:
        return f"{rows}; asked for, or no rule for another way"
    return f"{rows}: estimated {rest / best.seconds:.2g} x faster than the next"
