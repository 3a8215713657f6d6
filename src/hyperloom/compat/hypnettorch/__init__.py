"""hypnettorch's hypernetworks by their own names: `from hyperloom.compat.hypnettorch import hnets`.

Classes, arguments, properties and return formats are those of hypnettorch's `hnets`; what runs is
a `hyperloom.torch.HyperNetwork` behind each. State dicts have hypnettorch's keys, so checkpoints
of 0.0.4 can be read. See the page on migrating for what differs, and why.
"""

from hyperloom.compat.hypnettorch import hnets, mnets, utils
from hyperloom.compat.hypnettorch._door.native import to_native

# As attributes of hnets and utils, as in hypnettorch.
from hyperloom.compat.hypnettorch.hnets import hnet_helpers as hnet_helpers
from hyperloom.compat.hypnettorch.hnets import structured_hmlp_examples as structured_hmlp_examples
from hyperloom.compat.hypnettorch.utils import batchnorm_layer as batchnorm_layer
from hyperloom.compat.hypnettorch.utils import hnet_regularizer as hnet_regularizer

__all__ = ["hnets", "mnets", "to_native", "utils"]
