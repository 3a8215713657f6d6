"""What hypnettorch's hypernetworks inherit from its main networks."""

from hyperloom.compat.hypnettorch.mnets.mnet_interface import MainNetInterface

__all__ = ["MainNetInterface"]
