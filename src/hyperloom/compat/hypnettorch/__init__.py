"""hypnettorch's hypernetworks by their own names: `from hyperloom.compat.hypnettorch import hnets`.

Classes, arguments, properties and return formats are those of hypnettorch's `hnets`; what runs is
a `hyperloom.torch.HyperNetwork` behind each. State dicts have hypnettorch's keys, so checkpoints
of 0.0.4 can be read. See the page on migrating for what differs, and why.
"""

from hyperloom.compat.hypnettorch import hnets, mnets, utils

__all__ = ["hnets", "mnets", "utils"]
