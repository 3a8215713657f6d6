"""hyperloom for JAX: `import hyperloom.jax as hl`."""

from hyperloom import (
    MLP,
    BiasHyperInit,
    CheckpointError,
    Chunked,
    Concat,
    CosSin,
    Deconv,
    Delta,
    Direct,
    Embedding,
    Execution,
    Explanation,
    Full,
    Given,
    Grouped,
    Harmonic,
    HyperfanIn,
    HyperfanOut,
    Ids,
    Layers,
    LoRA,
    LowRank,
    Native,
    Noise,
    PerCondition,
    Plan,
    RankOne,
    Recurrent,
    Report,
    Scale,
    Shared,
    Shift,
    Templates,
    Tensors,
    Tiles,
    Unscaled,
    Vector,
    Whole,
)
from hyperloom._core.backend.inputs import Inputs
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
from hyperloom.jax._tools.perturbed import Perturbed
from hyperloom.jax._tools.rates import param_groups
from hyperloom.jax._tools.regularizer import OutputRegularizer
from hyperloom.jax._tools.views import (
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
    "MLP",
    "Assembled",
    "BiasHyperInit",
    "CheckpointError",
    "Chunked",
    "Concat",
    "CosSin",
    "Deconv",
    "Delta",
    "Direct",
    "Embedding",
    "Execution",
    "Explanation",
    "Full",
    "Function",
    "Functional",
    "Given",
    "Grouped",
    "Harmonic",
    "HyperNetwork",
    "HyperfanIn",
    "HyperfanOut",
    "Ids",
    "Inputs",
    "Layers",
    "Linen",
    "LoRA",
    "LowRank",
    "Native",
    "Noise",
    "OutputRegularizer",
    "PerCondition",
    "Perturbed",
    "Plan",
    "RankOne",
    "Recurrent",
    "Report",
    "Scale",
    "Shapes",
    "Shared",
    "Shift",
    "Templates",
    "Tensors",
    "Tiles",
    "Unscaled",
    "Vector",
    "Whole",
    "conditional_parameters",
    "flatten",
    "functional",
    "load",
    "param_groups",
    "save",
    "shared_parameters",
    "stack",
    "target_spec",
    "unflatten",
    "unroll",
    "unstack",
]
