"""hyperloom: hypernetworks, networks that generate the weights of other networks.

`import hyperloom.torch as hl` is the door for PyTorch. This package holds the part without a
framework: specs, layouts, plans, initialisation, and the NumPy oracle. Importing it imports
neither torch nor jax.
"""

from hyperloom._compile import compile_plan
from hyperloom._condition import Angles, Concat, Condition, Custom, Embedding, Ids, Noise, Vector
from hyperloom._deconv import Deconv
from hyperloom._doctor import Report
from hyperloom._doctor_readings import Finding
from hyperloom._errors import CheckpointError
from hyperloom._execution import Auto, Execution, Loop, SlowWarning, Vmap
from hyperloom._explain import Explanation
from hyperloom._factored import LowRank, Product, RankOne, Scale, Shift, Templates
from hyperloom._form import Delta, Form, Start, Whole
from hyperloom._init import (
    BiasHyperInit,
    Harmonic,
    HyperfanIn,
    HyperfanOut,
    Init,
    Native,
    Unscaled,
)
from hyperloom._layout import (
    Chunked,
    Direct,
    Full,
    Given,
    Grouped,
    Layers,
    Layout,
    PerCondition,
    Shared,
    Tensors,
    Tiles,
)
from hyperloom._plan import Plan
from hyperloom._recurrent import CustomRecurrent, Recurrent
from hyperloom._spec import Role, TargetSpec, TensorSpec
from hyperloom._statistics import BatchStatistics, PerConditionStatistics, SharedStatistics
from hyperloom._translate import translate
from hyperloom._translation import Translation
from hyperloom._trunk import MLP, CustomTrunk, Linear, Trunk

__version__ = "0.1.0.dev0"

__all__ = [
    "MLP",
    "Angles",
    "Auto",
    "BatchStatistics",
    "BiasHyperInit",
    "CheckpointError",
    "Chunked",
    "Concat",
    "Condition",
    "Custom",
    "CustomRecurrent",
    "CustomTrunk",
    "Deconv",
    "Delta",
    "Direct",
    "Embedding",
    "Execution",
    "Explanation",
    "Finding",
    "Form",
    "Full",
    "Given",
    "Grouped",
    "Harmonic",
    "HyperfanIn",
    "HyperfanOut",
    "Ids",
    "Init",
    "Layers",
    "Layout",
    "Linear",
    "Loop",
    "LowRank",
    "Native",
    "Noise",
    "PerCondition",
    "PerConditionStatistics",
    "Plan",
    "Product",
    "RankOne",
    "Recurrent",
    "Report",
    "Role",
    "Scale",
    "Shared",
    "SharedStatistics",
    "Shift",
    "SlowWarning",
    "Start",
    "TargetSpec",
    "Templates",
    "TensorSpec",
    "Tensors",
    "Tiles",
    "Translation",
    "Trunk",
    "Unscaled",
    "Vector",
    "Vmap",
    "Whole",
    "compile_plan",
    "translate",
]
