"""Forms: what is generated for a tensor, the tensor itself or a change. One file per kind."""

from hyperloom._core.choices.forms.base import Form, OnBase
from hyperloom._core.choices.forms.factors import RankOne, Scale, Shift
from hyperloom._core.choices.forms.low_rank import DoRA, LoRA, LowRank
from hyperloom._core.choices.forms.templates import Templates
from hyperloom._core.choices.forms.whole import Delta, Whole

__all__ = [
    "Delta",
    "DoRA",
    "Form",
    "LoRA",
    "LowRank",
    "OnBase",
    "RankOne",
    "Scale",
    "Shift",
    "Templates",
    "Whole",
]
