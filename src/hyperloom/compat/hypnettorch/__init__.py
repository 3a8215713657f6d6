"""hypnettorch's hypernetworks by their own names: `from hyperloom.compat.hypnettorch import hnets`.

Classes, arguments, properties and return formats are those of hypnettorch's `hnets`; what runs is
a `hyperloom.torch.HyperNetwork` behind each. State dicts have hypnettorch's keys, so checkpoints
of 0.0.4 can be read. See the page on migrating for what differs, and why.
"""

from hyperloom.compat.hypnettorch import hnets, mnets, utils
from hyperloom.compat.hypnettorch._native import to_native
from hyperloom.compat.hypnettorch.hnets import (
    hnet_helpers,  # noqa: F401  as attributes of hnets and utils
    structured_hmlp_examples,  # noqa: F401
)
from hyperloom.compat.hypnettorch.utils import (
    batchnorm_layer,  # noqa: F401
    hnet_regularizer,  # noqa: F401
)

__all__ = ["hnets", "mnets", "to_native", "utils"]
