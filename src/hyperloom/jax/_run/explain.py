"""`explain()`: how a call would be run, found by tracing it; nothing is computed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax
from flax import nnx

from hyperloom._core.plan.contraction import layer_of
from hyperloom._core.plan.cost import Layer
from hyperloom._core.reports.explanation import Explanation, used
from hyperloom.jax._generate.conditions import Encoded
from hyperloom.jax._run.call import Call
from hyperloom.jax._run.run import Extras, run_part, split_keys
from hyperloom.jax._target.adaptor import Notes
from hyperloom.jax._weights.choose import device_class

if TYPE_CHECKING:
    from hyperloom.jax._hypernetwork import HyperNetwork


def explain(hnet: HyperNetwork, encoded: Encoded, call: Call, extras: Extras) -> Explanation:
    """Trace a call, and note what was chosen for every use of a generated tensor."""
    notes: list[tuple[str, str, str, Layer | None]] = []

    def record(name: str, operation: str, way: str, layer: Layer | None) -> None:
        notes.append((name, operation, way, layer))

    graphdef, state = nnx.split(hnet)

    def run(state: Any, vector: Any, ids: Any, keys: Any, arrays: Any) -> Any:
        # A copy that is traced too: a batch norm in the trunk keeps statistics of what it sees.
        traced = nnx.merge(graphdef, state, copy=True)
        own = Extras(keys, extras.trunk_key, extras.state, extras.mutable)
        part = Call.of_arrays(call, arrays, call.batch)
        return run_part(traced, Encoded(vector, ids), part, own, Notes(), record)

    keys = split_keys(extras.keys, call.batch)
    jax.eval_shape(run, state, encoded.vector, encoded.ids, keys, call.arrays)
    num, single = math.prod(call.batch), not call.batch
    size, device = encoded.vector.dtype.itemsize, device_class()
    entries = {entry.tensor: entry for entry in hnet.plan.entries}
    seen = {name for name, *_ in notes}
    notes += [(name, "other", "dense", None) for name in entries if name not in seen]
    uses = []
    # A loop's body may be traced more than once.
    for name, operation, way, layer in dict.fromkeys(notes):
        if layer is None and way == "dense" and not single:
            layer = layer_of(hnet.plan, entries[name], num, call.rows())
        spec = hnet.plan.spec[name]
        uses.append(used(spec, operation, way, layer, size, device, single))
    if single:
        return Explanation("single", "one condition: the target is run as it is", 1, tuple(uses))
    reason = "the target is traced, and its equations run for all conditions at once"
    return Explanation("vmap", reason, num, tuple(uses))
