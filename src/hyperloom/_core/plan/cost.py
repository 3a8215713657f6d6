"""Dense or contracted: what a layer costs each way, and which way is taken.

A generated weight that is a sum of `R` templates can be formed for each of `B` conditions and
applied to `n` rows each (dense), or the layer can be evaluated from the templates (contracted),
multiplying the coefficients in before the templates (`inputs`) or after them (`outputs`). The
model counts operations and bytes of a forward and a backward pass and divides by the rates of
the device class. Rates come from `benchmarks/calibrate.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Device:
    """Rates of a device class, as the calibration script measures them.

    Attributes:
        name: `"cpu"` or `"cuda"`.
        gemm: Operations a second of one large matrix product.
        bmm: Operations a second of many small ones.
        bandwidth: Bytes a second of an elementwise pass.
        fresh: Bytes a second of memory that comes fresh from the system. On a CPU arrays above
            32 MiB do, every time (the C library gives them back at once); on a GPU none do.
        call: Seconds that one operation costs however small it is, its backward pass included.
    """

    name: str
    gemm: float
    bmm: float
    bandwidth: float
    fresh: float
    call: float


DEVICES = {
    "cpu": Device("cpu", gemm=1.4e11, bmm=6.6e10, bandwidth=9e9, fresh=1.4e9, call=7.6e-5),
    "cuda": Device("cuda", gemm=2.0e13, bmm=1.0e13, bandwidth=1.5e12, fresh=1e15, call=8e-6),
}


KEPT = 32 * 2**20  # bytes of the largest array whose memory is used again


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


_forced: dict[str, list[Callable[[], str]]] = {"layers": [], "penalties": []}


@contextmanager
def forcing(way: str | Callable[[], str], of: str = "layers") -> Generator[None]:
    """Let all layers, or all penalties, go one way while this lasts, in both backends.

    The one hook by which tests choose in place of an estimate: they compare what the ways give.
    A user chooses the way of layers by `Execution(ways=)`.

    Args:
        way: `"dense"`, `"inputs"` or `"outputs"` for layers; `"gram"` or `"outputs"` for penalties
            of `OutputRegularizer`. Or a function that returns one of these, called for each.
        of: `"layers"` or `"penalties"`.
    """
    _forced[of].append((lambda: way) if isinstance(way, str) else way)
    try:
        yield
    finally:
        _forced[of].pop()


def is_forced() -> bool:
    """Whether the way of layers is forced."""
    return bool(_forced["layers"])


def forced(of: str) -> str | None:
    """Return the way that is forced, for what `forcing` names `of`; `None` if none is."""
    return _forced[of][-1]() if _forced[of] else None


def choose(layer: Layer, itemsize: int, device: str) -> str:
    """Return the cheapest way: `"dense"`, `"inputs"` or `"outputs"`."""
    way = forced("layers")
    if way is not None:
        return way
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
    # Not by float(): sizes may be symbols of an exporter, which that would turn into constants.
    weight = 1.0 * b * i * o
    templates = 1.0 * itemsize * r * i * o
    back = 1 if layer.backward else 0
    into = 1 if layer.backward and layer.input_gradient else 0
    # Products: forward; backward for the templates, for the coefficients, for the inputs.
    form = (1 + 2 * back) * 2 * r * weight
    apply = (1 + back + into) * 2 * n * weight
    # The templates themselves: read forward, read backward, their gradient written.
    dense_bytes = itemsize * (2 + 4 * back) * weight + (1 + 2 * back) * templates
    seconds = form / rates.gemm + apply / rates.bmm + 4 * rates.call
    seconds += _moving(rates, dense_bytes, itemsize * weight, 1 + back)
    dense = Estimate("dense", form + apply, dense_bytes, seconds)
    costs = [dense]
    # The gradient of coefficients in the inputs needs the product for the inputs, always; that
    # of coefficients in the outputs needs none.
    # For the outputs the templates are copied to another order, and their gradient back.
    for choice, width, products, passes, calls in (
        ("inputs", layer.inputs, 1 + 2 * back, 1 + 2 * back, 8),
        ("outputs", 1.0 * o, 1 + back + into, 3 + 5 * back, 9),
    ):
        operations = products * 2 * n * r * weight
        array = 1.0 * itemsize * b * n * r * width
        traffic = (2 + 4 * back) * array + passes * templates
        seconds = operations / rates.gemm + calls * rates.call
        seconds += _moving(rates, traffic, array, 1 + back)
        costs.append(Estimate(choice, operations, traffic, seconds))
    return costs


def _moving(rates: Device, traffic: float, array: float, num: int) -> float:
    """Return the seconds for `traffic` bytes, with `num` new arrays of `array` bytes among them."""
    fresh = num * array / rates.fresh if array > KEPT else 0.0
    return traffic / rates.bandwidth + fresh
