"""hyperloom: hypernetworks, networks that generate the weights of other networks.

`import hyperloom.torch as hl` is the door for PyTorch. This package holds the part without a
framework: specs, layouts, plans, initialisation, and the NumPy oracle. Importing it imports
neither torch nor jax.
"""

from hyperloom._core.choices.conditions import (
    Concat,
    Condition,
    CosSin,
    Custom,
    CustomRecurrent,
    Embedding,
    Ids,
    Noise,
    Recurrent,
    Vector,
)
from hyperloom._core.choices.deconv import Deconv
from hyperloom._core.choices.execution import Execution, SlowWarning
from hyperloom._core.choices.forms import (
    Delta,
    DoRA,
    Form,
    LoRA,
    LowRank,
    RankOne,
    Scale,
    Shift,
    Templates,
    Whole,
)
from hyperloom._core.choices.inits import (
    BiasHyperInit,
    Harmonic,
    HyperfanIn,
    HyperfanOut,
    Init,
    Native,
    Orthogonal,
    Unscaled,
)
from hyperloom._core.choices.layouts import (
    Chunked,
    Direct,
    Full,
    Given,
    Grouped,
    Largest,
    Layers,
    Layout,
    Modules,
    PerCondition,
    Ranks,
    Shared,
    Tensors,
    Tiles,
)
from hyperloom._core.choices.sets import AttentionPool, Context, MeanPool
from hyperloom._core.choices.slot_parts import (
    OfBlock,
    OfLayer,
    OfModule,
    OfRole,
    OfShape,
    PerModule,
    SlotSum,
)
from hyperloom._core.choices.slot_trunks import Perceiver, Transformer
from hyperloom._core.choices.statistics import (
    BatchStatistics,
    PerConditionStatistics,
    SharedStatistics,
)
from hyperloom._core.choices.trunks import MLP, CustomTrunk, Linear, Trunk
from hyperloom._core.errors import CheckpointError
from hyperloom._core.plan.compile import compile_plan
from hyperloom._core.plan.picture import draw
from hyperloom._core.plan.plan import Plan
from hyperloom._core.records import Role, Start
from hyperloom._core.reports.doctor import Report
from hyperloom._core.reports.explanation import Explanation
from hyperloom._core.reports.readings import Finding
from hyperloom._core.target.spec import TargetSpec, TensorSpec
from hyperloom._core.target.translate import translate
from hyperloom._core.target.translation import Translation

__version__ = "0.1.0.dev0"

__all__ = [
    "MLP",
    "AttentionPool",
    "BatchStatistics",
    "BiasHyperInit",
    "CheckpointError",
    "Chunked",
    "Concat",
    "Condition",
    "Context",
    "CosSin",
    "Custom",
    "CustomRecurrent",
    "CustomTrunk",
    "Deconv",
    "Delta",
    "Direct",
    "DoRA",
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
    "Largest",
    "Layers",
    "Layout",
    "Linear",
    "LoRA",
    "LowRank",
    "MeanPool",
    "Modules",
    "Native",
    "Noise",
    "OfBlock",
    "OfLayer",
    "OfModule",
    "OfRole",
    "OfShape",
    "Orthogonal",
    "PerCondition",
    "PerConditionStatistics",
    "PerModule",
    "Perceiver",
    "Plan",
    "RankOne",
    "Ranks",
    "Recurrent",
    "Report",
    "Role",
    "Scale",
    "Shared",
    "SharedStatistics",
    "Shift",
    "SlotSum",
    "SlowWarning",
    "Start",
    "TargetSpec",
    "Templates",
    "TensorSpec",
    "Tensors",
    "Tiles",
    "Transformer",
    "Translation",
    "Trunk",
    "Unscaled",
    "Vector",
    "Whole",
    "compile_plan",
    "draw",
    "translate",
]
