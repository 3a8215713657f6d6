"""The table of torch.nn: every class that has parameters, how to make it and what to feed it.

`classes.py` enumerates the package, and has what needs no entry here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

Inputs = Callable[..., tuple[Any, ...]]


@dataclass(frozen=True)
class Layer:
    """One way to use a class.

    Attributes:
        make: Returns the module.
        inputs: Returns inputs with the leading dimensions it is given.
        double: Whether the class works in float64; the reason where it does not.
        note: What the docs say about it.
        eval_only: Why it is not tested in training mode; empty if it is.
        train_only: Why it is not tested in eval mode; empty if it is.
    """

    make: Callable[[], nn.Module]
    inputs: Inputs
    single: str = ""
    note: str = ""
    eval_only: str = ""
    train_only: str = ""


def floats(*shapes: tuple[int, ...]) -> Inputs:
    """Return a maker of floating inputs of these shapes."""
    return lambda *lead, dtype: tuple(torch.randn(*lead, *s, dtype=dtype) for s in shapes)


def tokens(*shape: int, num: int = 6) -> Inputs:
    return lambda *lead, dtype: (torch.randint(0, num, (*lead, *shape)),)


class Held(nn.Module):
    """A container that has no forward of its own, in a module that uses it."""

    def __init__(self, held: nn.Module, run: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.held, self.run = held, run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.held, x)


def _weights() -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4))]


def initialised(module: nn.Module, *inputs: Tensor) -> nn.Module:
    """Return a lazy module after its first call, which gives its parameters a shape."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lazy modules are "under heavy development"
        module(*inputs)
    return module


def _lazy(name: str, *arguments: Any) -> Callable[..., nn.Module]:
    def make() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return getattr(nn, name)(*arguments)

    return make


_ROW = floats((2, 4))
_FLOAT_STATE = "its initial state is float32"


def _convolutions() -> dict[str, list[Layer]]:
    made: dict[str, list[Layer]] = {}
    for n in (1, 2, 3):
        size = (5, 4, 3)[:n]
        x = floats((2, 4, *size))
        for kind in ("Conv", "ConvTranspose"):
            name = f"{kind}{n}d"
            cls = getattr(nn, name)
            rows = [
                Layer(lambda cls=cls: cls(4, 6, 2), x),
                Layer(lambda cls=cls: cls(4, 6, 2, groups=2, stride=2, bias=False), x),
                Layer(lambda cls=cls: cls(4, 6, 2, padding=1, dilation=1), floats((4, *size))),
            ]
            if kind == "Conv":
                rows.append(
                    Layer(lambda cls=cls: cls(4, 4, 3, padding=1, padding_mode="circular"), x)
                )
            made[name] = rows
            lazy, shape = _lazy(f"Lazy{name}", 6, 2), (2, 4, *size)
            made[f"Lazy{name}"] = [
                Layer(lambda make=lazy, shape=shape: initialised(make(), torch.randn(shape)), x)
            ]
    return made


def _norms() -> dict[str, list[Layer]]:
    made: dict[str, list[Layer]] = {}
    for n in (1, 2, 3):
        size = (5, 4, 3)[:n]
        x, shape = floats((3, 4, *size)), (3, 4, *size)
        batch, instance = getattr(nn, f"BatchNorm{n}d"), getattr(nn, f"InstanceNorm{n}d")
        made[f"BatchNorm{n}d"] = [
            Layer(lambda cls=batch: cls(4), x),
            Layer(lambda cls=batch: cls(4, track_running_stats=False), x),
            Layer(lambda cls=batch: cls(4, momentum=None), x),
        ]
        made[f"InstanceNorm{n}d"] = [
            Layer(lambda cls=instance: cls(4, affine=True), x),
            Layer(lambda cls=instance: cls(4, affine=True, track_running_stats=True), x),
        ]
        for kind in (f"BatchNorm{n}d", f"InstanceNorm{n}d"):
            options = () if "Batch" in kind else (1e-5, 0.1, True)
            lazy = _lazy(f"Lazy{kind}", *options)
            made[f"Lazy{kind}"] = [
                Layer(lambda make=lazy, shape=shape: initialised(make(), torch.randn(shape)), x)
            ]
    made["SyncBatchNorm"] = [
        Layer(lambda: nn.SyncBatchNorm(4), floats((3, 4, 2)), note="in one process, a BatchNorm")
    ]
    made["LayerNorm"] = [
        Layer(lambda: nn.LayerNorm(4), floats((3, 4))),
        Layer(lambda: nn.LayerNorm([2, 4], bias=False), floats((3, 2, 4))),
    ]
    made["RMSNorm"] = [Layer(lambda: nn.RMSNorm(4), floats((3, 4)))]
    made["GroupNorm"] = [Layer(lambda: nn.GroupNorm(2, 4), floats((3, 4, 5)))]
    return made


def _recurrent() -> dict[str, list[Layer]]:
    made: dict[str, list[Layer]] = {}
    x, state = (5, 2, 4), (2, 3)
    for name in ("RNN", "GRU", "LSTM"):
        cls, cell = getattr(nn, name), getattr(nn, f"{name}Cell")
        made[name] = [
            Layer(lambda cls=cls: cls(4, 3), floats(x)),
            Layer(lambda cls=cls: cls(4, 3, 2, bidirectional=True, batch_first=True), floats(x)),
            Layer(lambda cls=cls: cls(4, 3, bias=False), floats((5, 4))),
        ]
        made[f"{name}Cell"] = [
            Layer(lambda cell=cell: cell(4, 3), floats((2, 4))),
            Layer(lambda cell=cell: cell(4, 3, bias=False), floats((2, 4))),
        ]
    made["LSTM"].append(Layer(lambda: nn.LSTM(4, 6, proj_size=3), floats(x)))
    made["RNN"].append(Layer(lambda: nn.RNN(4, 3, nonlinearity="relu"), floats(x, (1, *state))))
    made["GRUCell"].append(Layer(lambda: nn.GRUCell(4, 3), floats((2, 4), state)))
    return made


def _attention() -> dict[str, list[Layer]]:
    options: dict[str, Any] = {"dropout": 0.0, "batch_first": True}
    x, memory = (2, 5, 4), (2, 3, 4)

    def encoder(**more: Any) -> nn.TransformerEncoderLayer:
        return nn.TransformerEncoderLayer(4, 2, 6, **options, **more)

    def encoders() -> nn.Module:
        return nn.TransformerEncoder(encoder(), 2, enable_nested_tensor=False)

    def decoder() -> nn.TransformerDecoderLayer:
        return nn.TransformerDecoderLayer(4, 2, 6, **options)

    def decoders() -> nn.Module:
        return nn.TransformerDecoder(decoder(), 2)

    return {
        "MultiheadAttention": [
            Layer(lambda: nn.MultiheadAttention(4, 2, batch_first=True), floats(x, memory, memory)),
            Layer(
                lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True),
                floats((5, 2, 4), (3, 2, 3), (3, 2, 5)),
            ),
        ],
        "TransformerEncoderLayer": [
            Layer(encoder, floats(x)),
            Layer(lambda: encoder(norm_first=True, activation="gelu"), floats(x)),
        ],
        "TransformerDecoderLayer": [Layer(decoder, floats(x, memory))],
        "TransformerEncoder": [Layer(encoders, floats(x))],
        "TransformerDecoder": [Layer(decoders, floats(x, memory))],
        "Transformer": [Layer(lambda: nn.Transformer(4, 2, 1, 1, 6, **options), floats(memory, x))],
    }


def _targets(width: int) -> Inputs:
    """Return a maker of inputs and classes for a loss with parameters."""
    return lambda *lead, dtype: (
        torch.randn(*lead, 7, width, dtype=dtype),
        torch.randint(0, 9, (*lead, 7)),
    )


def _others() -> dict[str, list[Layer]]:
    return {
        "Linear": [
            Layer(lambda: nn.Linear(4, 3), floats((2, 4))),
            Layer(lambda: nn.Linear(4, 3, bias=False), floats((4,))),
        ],
        "NonDynamicallyQuantizableLinear": [
            Layer(lambda: nn.modules.linear.NonDynamicallyQuantizableLinear(4, 3), floats((2, 4)))
        ],
        "LazyLinear": [
            Layer(lambda: initialised(_lazy("LazyLinear", 3)(), torch.randn(2, 4)), floats((2, 4)))
        ],
        "Bilinear": [Layer(lambda: nn.Bilinear(4, 3, 2), floats((2, 4), (2, 3)))],
        "Embedding": [
            Layer(lambda: nn.Embedding(6, 3), tokens(5)),
            Layer(lambda: nn.Embedding(6, 3, padding_idx=1), tokens(5)),
        ],
        "EmbeddingBag": [
            Layer(lambda: nn.EmbeddingBag(6, 3), tokens(2, 5)),
            Layer(lambda: nn.EmbeddingBag(6, 3, mode="sum"), tokens(2, 5)),
        ],
        "PReLU": [
            Layer(lambda: nn.PReLU(), floats((3, 4))),
            Layer(lambda: nn.PReLU(4), floats((3, 4, 2))),
        ],
        "AdaptiveLogSoftmaxWithLoss": [
            Layer(lambda: nn.AdaptiveLogSoftmaxWithLoss(16, 9, [3, 6]), _targets(16))
        ],
        "LinearCrossEntropyLoss": [
            Layer(lambda: nn.LinearCrossEntropyLoss(4, 9), _targets(4)),
        ],
        "ParameterList": [
            Layer(
                lambda: Held(nn.ParameterList(_weights()), lambda p, x: x @ p[0] + p[1]),
                floats((2, 4)),
            )
        ],
        "ParameterDict": [
            Layer(
                lambda: Held(
                    nn.ParameterDict(dict(zip("wb", _weights(), strict=True))),
                    lambda p, x: x @ p["w"] + p["b"],
                ),
                floats((2, 4)),
            )
        ],
        "ModuleList": [
            Layer(
                lambda: Held(nn.ModuleList([nn.Linear(4, 4)]), lambda m, x: m[0](x)),
                floats((2, 4)),
            )
        ],
        "ModuleDict": [
            Layer(
                lambda: Held(nn.ModuleDict({"a": nn.Linear(4, 4)}), lambda m, x: m["a"](x)),
                floats((2, 4)),
            )
        ],
        "Sequential": [
            Layer(
                lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), floats((2, 4))
            )
        ],
    }


def _parametrized() -> dict[str, list[Layer]]:
    """Return layers whose weight is computed from other parameters."""
    of, old = nn.utils.parametrizations, nn.utils

    def old_weight_norm() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated in favour of the parametrization
            return old.weight_norm(nn.Linear(4, 3))

    return {
        "utils.ParametrizationList": [
            Layer(lambda: of.weight_norm(nn.Linear(4, 3)), _ROW, note="`weight_norm`"),
            Layer(lambda: of.spectral_norm(nn.Linear(4, 3)), _ROW, note="`spectral_norm`"),
            Layer(lambda: of.orthogonal(nn.Linear(4, 4)), _ROW, note="`orthogonal`"),
            Layer(old_weight_norm, _ROW, note="the older `utils.weight_norm`"),
            Layer(
                lambda: old.spectral_norm(nn.Linear(4, 3)),
                _ROW,
                note="the older `utils.spectral_norm`",
            ),
        ]
    }


def _fused() -> dict[str, list[Layer]]:
    """Return the float layers that torch fuses before it quantises."""
    fused: Any = import_module("torch.ao.nn.intrinsic")
    made: dict[str, list[Layer]] = {
        "intrinsic.LinearReLU": [Layer(lambda: fused.LinearReLU(nn.Linear(4, 3), nn.ReLU()), _ROW)],
        "intrinsic.LinearBn1d": [
            Layer(lambda: fused.LinearBn1d(nn.Linear(4, 3), nn.BatchNorm1d(3)), _ROW)
        ],
    }
    for n in (1, 2, 3):
        x = floats((2, 4, *(5, 4, 3)[:n]))
        conv, norm = getattr(nn, f"Conv{n}d"), getattr(nn, f"BatchNorm{n}d")
        parts = {"Conv": lambda c=conv: c(4, 3, 2), "Bn": lambda b=norm: b(3), "ReLU": nn.ReLU}
        for name in ("ConvReLU", "ConvBn", "ConvBnReLU"):
            cls = getattr(fused, f"{name}{n}d")
            own = [part for key, part in parts.items() if key in name]
            made[f"intrinsic.{name}{n}d"] = [
                Layer(lambda cls=cls, own=own: cls(*(part() for part in own)), x)
            ]
        if n > 1:
            cls = getattr(fused, f"BNReLU{n}d")
            made[f"intrinsic.BNReLU{n}d"] = [Layer(lambda cls=cls, b=norm: cls(b(4), nn.ReLU()), x)]
    return made


def _quantizable() -> dict[str, list[Layer]]:
    """Return the float layers that torch has for quantisation, written in Python."""
    able: Any = import_module("torch.ao.nn.quantizable")
    x = floats((5, 2, 4))
    return {
        "quantizable.LSTM": [Layer(lambda: able.LSTM(4, 3), x, single=_FLOAT_STATE)],
        "quantizable.LSTMCell": [Layer(lambda: able.LSTMCell(4, 3), _ROW, single=_FLOAT_STATE)],
        "quantizable.MultiheadAttention": [
            Layer(lambda: able.MultiheadAttention(4, 2), floats(*[(5, 2, 4)] * 3))
        ],
    }


LAYERS: dict[str, list[Layer]] = {
    **_convolutions(),
    **_norms(),
    **_recurrent(),
    **_attention(),
    **_others(),
    **_parametrized(),
    **_fused(),
    **_quantizable(),
}
