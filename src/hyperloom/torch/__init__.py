"""hyperloom for PyTorch: `import hyperloom.torch as hl`."""

from hyperloom import BatchStatistics, PerConditionStatistics, SharedStatistics
from hyperloom._core import names as _names
from hyperloom._core.names import *  # noqa: F403
from hyperloom.torch._hypernetwork import TOOLS as _TOOLS
from hyperloom.torch._hypernetwork import HyperNetwork
from hyperloom.torch._target.shapes import Shapes
from hyperloom.torch._target.spec import target_spec
from hyperloom.torch._tools import checkpoint as _checkpoint
from hyperloom.torch._tools import doctor as _doctor
from hyperloom.torch._tools import peft as peft
from hyperloom.torch._tools.assembled import Assembled
from hyperloom.torch._tools.checkpoint import load, save
from hyperloom.torch._tools.dynamic import unroll
from hyperloom.torch._tools.layer_by_layer import LayerByLayer
from hyperloom.torch._tools.perturbed import Perturbed
from hyperloom.torch._tools.rates import param_groups
from hyperloom.torch._tools.readings import readings
from hyperloom.torch._tools.regularizer import OutputRegularizer
from hyperloom.torch._tools.views import (
    concatenate,
    conditional_parameters,
    flatten,
    shared_parameters,
    stack,
    unflatten,
    unstack,
)

__all__ = [
    "Assembled",
    "BatchStatistics",
    "HyperNetwork",
    "LayerByLayer",
    "OutputRegularizer",
    "PerConditionStatistics",
    "Perturbed",
    "Shapes",
    "SharedStatistics",
    "concatenate",
    "conditional_parameters",
    "flatten",
    "load",
    "param_groups",
    "peft",
    "readings",
    "save",
    "shared_parameters",
    "stack",
    "target_spec",
    "unflatten",
    "unroll",
    "unstack",
]
__all__ += _names.__all__

# What `hnet.doctor(...)` and `hnet.load(...)` call stands above `HyperNetwork`.
_TOOLS.update(doctor=_doctor.examine, load=_checkpoint.load_into)
