"""Every module class under torch.nn, enumerated from the package itself.

A class that torch adds makes `test_layers.py` fail until it stands in one of three places:

- `LAYERS` in `layers.py`: it has parameters. An entry makes one and says what it is fed.
- `WITHOUT_PARAMETERS`: it has none, so there is nothing to generate.
- `LEFT_OUT`: it cannot be a target. The reason is shown in docs/zoo.md.
"""

from __future__ import annotations

import inspect
import pkgutil
import warnings
from importlib import import_module

from torch import nn

_PLAIN = """
AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d
AdaptiveMaxPool3d AlphaDropout AvgPool1d AvgPool2d AvgPool3d BCELoss BCEWithLogitsLoss CELU CTCLoss
ChannelShuffle CircularPad1d CircularPad2d CircularPad3d ConstantPad1d ConstantPad2d ConstantPad3d
CosineEmbeddingLoss CosineSimilarity CrossEntropyLoss CrossMapLRN2d Dropout Dropout1d Dropout2d
Dropout3d ELU FeatureAlphaDropout Flatten Fold FractionalMaxPool2d FractionalMaxPool3d GELU GLU
GaussianNLLLoss Hardshrink Hardsigmoid Hardswish Hardtanh HingeEmbeddingLoss HuberLoss Identity
KLDivLoss L1Loss LPPool1d LPPool2d LPPool3d LeakyReLU LocalResponseNorm LogSigmoid LogSoftmax
MSELoss MarginRankingLoss MaxPool1d MaxPool2d MaxPool3d MaxUnpool1d MaxUnpool2d MaxUnpool3d Mish
MultiLabelMarginLoss MultiLabelSoftMarginLoss MultiMarginLoss NLLLoss NLLLoss2d PairwiseDistance
PixelShuffle PixelUnshuffle PoissonNLLLoss RReLU ReLU ReLU6 ReflectionPad1d ReflectionPad2d
ReflectionPad3d ReplicationPad1d ReplicationPad2d ReplicationPad3d SELU SiLU Sigmoid SmoothL1Loss
SoftMarginLoss Softmax Softmax2d Softmin Softplus Softshrink Softsign Tanh Tanhshrink Threshold
TripletMarginLoss TripletMarginWithDistanceLoss Unflatten Unfold Upsample UpsamplingBilinear2d
UpsamplingNearest2d ZeroPad1d ZeroPad2d ZeroPad3d
"""
WITHOUT_PARAMETERS = frozenset(_PLAIN.split())

# By name, or by the module that a class comes from.
LEFT_OUT = {
    "Module": "the base of all modules; has no forward",
    "Container": "a deprecated name of `Module`; has no forward",
    "RNNBase": "the base of RNN, GRU and LSTM",
    "RNNCellBase": "the base of RNNCell, GRUCell and LSTMCell",
    "torch.nn.cpp": "wraps a module written in C++, whose parameters are not Python's to replace",
    "torch.nn.parallel": "spreads a module over devices or processes: wrap the hypernetwork in it",
    "torch.ao.nn.quantized": "quantised: weights are packed integers, no parameters to generate",
    "torch.ao.nn.intrinsic.quantized": "quantised, likewise",
    "torch.ao.nn.qat": "rounds its weights as in quantisation; needs a qconfig with observers",
    "torch.ao.nn.intrinsic.qat": "rounds its weights, likewise",
}


def classes() -> dict[str, type[nn.Module]]:
    """Return every module class under torch.nn, by the name it has in the tables.

    Private classes are bases of public ones, and stand there under those.
    """
    found: dict[str, type[nn.Module]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old places of torch.ao warn of their new ones
        modules = [import_module(i.name) for i in pkgutil.walk_packages(nn.__path__, "torch.nn.")]
    for module in modules:
        for value in vars(module).values():
            if not inspect.isclass(value) or not issubclass(value, nn.Module):
                continue
            if value.__module__.startswith("torch.") and not value.__name__.startswith("_"):
                found[name_of(value)] = value
    return found


def name_of(cls: type) -> str:
    """Return a class's name in the tables, with its part of the package where that is not nn."""
    home = cls.__module__
    if home.startswith("torch.nn.modules."):
        return cls.__name__
    if home.startswith("torch.nn.utils."):
        return f"utils.{cls.__name__}"
    for part in ("intrinsic", "quantizable"):
        if home.startswith(f"torch.ao.nn.{part}.modules."):
            return f"{part}.{cls.__name__}"
    return f"{home}.{cls.__name__}"


def reason(name: str) -> str:
    """Return why a class is left out; empty if it is not."""
    places = [key for key in LEFT_OUT if name == key or name.startswith(f"{key}.")]
    return LEFT_OUT[max(places, key=len)] if places else ""
