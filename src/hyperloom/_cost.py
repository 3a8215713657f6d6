"""Dense or contracted: what a layer costs each way, and which way is taken.

A generated weight that is a sum of `R` templates can be formed for each of `B` conditions and
applied to `n` rows each (dense), or the layer can be evaluated from the templates (contracted),
multiplying the coefficients in before the templates (`inputs`) or after them (`outputs`). The
model counts operations and bytes of a forward and a backward pass and divides by the rates of
the device class. Rates come from `benchmarks/calibrate.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Device:
    """Rates of a device class, as the calibration script measures them.

    Attributes:
        name: `"cpu"` or `"cuda"`.
        gemm: Operations a second of one large matrix product.
        bmm: Operations a second of many small ones.
        bandwidth: Bytes a second of an elementwise pass.
        call: Seconds that one operation costs however small it is.
    """

    name: str
    gemm: float
    bmm: float
    bandwidth: float
    call: float


DEVICES = {
    "cpu": Device("cpu", gemm=1.0e11, bmm=3.0e10, bandwidth=6e9, call=8e-6),
    "cuda": Device("cuda", gemm=2.0e13, bmm=1.0e13, bandwidth=1.5e12, call=8e-6),
}


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one way of evaluating a layer costs, forward and backward.

    Attributes:
        choice: `"dense"`, `"inputs"` or `"outputs"`.
        operations: Floating-point operations.
        traffic: Bytes read and written beside the shared templates.
        seconds: Estimated time.
    """

    choice: str
    operations: float
    traffic: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear map with a generated weight, seen by its sizes.

    Attributes:
        conditions: Conditions `B`.
        rows: Rows (or output positions) `n` of one condition.
        terms: Templates `R`.
        fan_in: Inputs of one output number.
        fan_out: Outputs of one position.
        inputs: Input numbers of one row, where rows share inputs (convolutions); else `fan_in`.
    """

    conditions: int
    rows: int
    terms: int
    fan_in: int
    fan_out: int
    inputs: float


@lru_cache(maxsize=4096)
def estimates(layer: Layer, itemsize: int, device: str) -> tuple[Estimate, ...]:
    """Return what each way costs, the cheapest first."""
    rates = DEVICES.get(device, DEVICES["cpu"])
    b, n, r = layer.conditions, layer.rows, layer.terms
    i, o = layer.fan_in, layer.fan_out
    weight = float(b * i * o)
    # Forward, and twice that backward: for the two operands of each product.
    form, apply = 3 * 2 * r * weight, 3 * 2 * n * weight
    dense_bytes = itemsize * 6 * weight
    dense = Estimate(
        "dense",
        form + apply,
        dense_bytes,
        form / rates.gemm + apply / rates.bmm + dense_bytes / rates.bandwidth + 4 * rates.call,
    )
    contracted = []
    for choice, width in (("inputs", layer.inputs), ("outputs", float(o))):
        operations = 3 * 2 * n * r * weight
        traffic = itemsize * 6 * b * n * r * width
        seconds = operations / rates.gemm + traffic / rates.bandwidth + 6 * rates.call
        contracted.append(Estimate(choice, operations, traffic, seconds))
    return tuple(sorted((dense, *contracted), key=lambda e: e.seconds))


def choose(layer: Layer, itemsize: int, device: str) -> str:
    """Return the cheapest way: `"dense"`, `"inputs"` or `"outputs"`."""
    return estimates(layer, itemsize, device)[0].choice
