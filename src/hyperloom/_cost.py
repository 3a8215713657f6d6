"""Dense or contracted: what a layer costs each way, and which way is taken.

A generated weight that is a sum of `R` templates can be formed for each of `B` conditions and
applied to `n` rows each (dense), or the layer can be evaluated from the templates (contracted),
multiplying the coefficients in before the templates (`inputs`) or after them (`outputs`). The
model counts operations and bytes of a forward and a backward pass and divides by the rates of
the device class. Rates come from `benchmarks/calibrate.py`.
"""

from __future__ import annotations

from dataclasses import dataclass


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
        inputs: Input numbers of one row; infinite where coefficients cannot go into the inputs.
        backward: Whether a backward pass will follow.
        input_gradient: Whether it goes on into the layer's inputs.
    """

    conditions: int
    rows: int
    terms: int
    fan_in: int
    fan_out: int
    inputs: float
    backward: bool = True
    input_gradient: bool = True


def estimates(layer: Layer, itemsize: int, device: str) -> tuple[Estimate, ...]:
    """Return what each way costs, the cheapest first."""
    return tuple(sorted(_each(layer, itemsize, device), key=lambda e: e.seconds))


def choose(layer: Layer, itemsize: int, device: str) -> str:
    """Return the cheapest way: `"dense"`, `"inputs"` or `"outputs"`."""
    # By comparisons, not sorted: sizes may be symbols of a compiler, which asks about each.
    best, *others = _each(layer, itemsize, device)
    for other in others:
        if other.seconds < best.seconds:
            best = other
    return best.choice


def _each(layer: Layer, itemsize: int, device: str) -> list[Estimate]:
    """Return what each way costs, in the order of preference between equals."""
    rates = DEVICES.get(device, DEVICES["cpu"])
    b, n, r = layer.conditions, layer.rows, layer.terms
    i, o = layer.fan_in, layer.fan_out
    weight = float(b * i * o)
    back = 1 if layer.backward else 0
    into = 1 if layer.backward and layer.input_gradient else 0
    # Products: forward; backward for the templates, for the coefficients, for the inputs.
    form = (1 + 2 * back) * 2 * r * weight
    apply = (1 + back + into) * 2 * n * weight
    dense_bytes = itemsize * (2 + 4 * back) * weight
    dense = Estimate(
        "dense",
        form + apply,
        dense_bytes,
        form / rates.gemm + apply / rates.bmm + dense_bytes / rates.bandwidth + 4 * rates.call,
    )
    found = [dense]
    # The gradient of coefficients in the inputs needs the product for the inputs, always; that
    # of coefficients in the outputs needs none.
    for choice, width, products in (
        ("inputs", layer.inputs, 1 + 2 * back),
        ("outputs", float(o), 1 + back + into),
    ):
        operations = products * 2 * n * r * weight
        traffic = itemsize * (2 + 4 * back) * b * n * r * width
        seconds = operations / rates.gemm + traffic / rates.bandwidth + 6 * rates.call
        found.append(Estimate(choice, operations, traffic, seconds))
    return found
