"""hypnettorch's hypernetworks."""

from hyperloom.compat.hypnettorch.hnets.chunked_deconv_hnet import ChunkedHDeconv
from hyperloom.compat.hypnettorch.hnets.chunked_mlp_hnet import ChunkedHMLP
from hyperloom.compat.hypnettorch.hnets.deconv_hnet import HDeconv
from hyperloom.compat.hypnettorch.hnets.hnet_container import HContainer
from hyperloom.compat.hypnettorch.hnets.hnet_interface import HyperNetInterface
from hyperloom.compat.hypnettorch.hnets.hnet_perturbation_wrapper import HPerturbWrapper
from hyperloom.compat.hypnettorch.hnets.mlp_hnet import HMLP
from hyperloom.compat.hypnettorch.hnets.structured_mlp_hnet import StructuredHMLP

__all__ = [
    "HMLP",
    "ChunkedHDeconv",
    "ChunkedHMLP",
    "HContainer",
    "HDeconv",
    "HPerturbWrapper",
    "HyperNetInterface",
    "StructuredHMLP",
]
