"""Adapters that PEFT reads and writes: `hl.peft`. Needs the extra `peft`."""

from hyperloom.torch._tools.peft.choices import choices
from hyperloom.torch._tools.peft.read import load
from hyperloom.torch._tools.peft.write import config, export, state_dict

__all__ = ["choices", "config", "export", "load", "state_dict"]
