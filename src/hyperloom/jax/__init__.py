"""hyperloom for JAX: `import hyperloom.jax as hl`."""

from hyperloom._core import names as _names
from hyperloom._core.names import *  # noqa: F403
from hyperloom.jax._hypernetwork import TOOLS as _TOOLS
from hyperloom.jax._hypernetwork import HyperNetwork
from hyperloom.jax._target.function import Function
from hyperloom.jax._target.linen import Linen
from hyperloom.jax._target.read import target_spec
from hyperloom.jax._target.shapes import Shapes
from hyperloom.jax._tools import doctor as _doctor
from hyperloom.jax._tools.assembled import Assembled
from hyperloom.jax._tools.checkpoint import load, save
from hyperloom.jax._tools.dynamic import unroll
from hyperloom.jax._tools.functional import Functional, functional
from hyperloom.jax._tools.layer_by_layer import LayerByLayer
from hyperloom.jax._tools.perturbed import Perturbed
from hyperloom.jax._tools.rates import param_groups
from hyperloom.jax._tools.readings import readings
from hyperloom.jax._tools.regularizer import OutputRegularizer
from hyperloom.jax._tools.views import (
    concatenate,
    conditional_parameters,
    flatten,
    shared_parameters,
    stack,
    unflatten,
    unstack,
)

# What `hnet.doctor(...)` calls stands above `HyperNetwork`.
_TOOLS["doctor"] = _doctor.examine

__all__ = [
    "Assembled",
    "Function",
    "Functional",
    "HyperNetwork",
    "LayerByLayer",
    "Linen",
    "OutputRegularizer",
    "Perturbed",
    "Shapes",
    "concatenate",
    "conditional_parameters",
    "flatten",
    "functional",
    "load",
    "param_groups",
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
