"""hypnettorch's helper that makes a hypernetwork from command-line arguments.

`from hyperloom.compat.hypnettorch.utils import sim_utils as sutils` in a script: `get_hypernet`
makes the door's classes. All else is hypnettorch's own, which has to be installed for it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from hyperloom.compat.hypnettorch._door.errors import require
from hyperloom.compat.hypnettorch.hnets.chunked_mlp_hnet import ChunkedHMLP
from hyperloom.compat.hypnettorch.hnets.mlp_hnet import HMLP
from hyperloom.compat.hypnettorch.hnets.structured_mlp_hnet import StructuredHMLP

_ACTIVATIONS: dict[str, Callable[[], nn.Module | None]] = {
    "linear": lambda: None,
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
}


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return getattr(importlib.import_module("hypnettorch.utils.sim_utils"), name)


def get_hypernet(
    config: Any,
    device: Any,
    net_type: str,
    target_shapes: Sequence[Sequence[int]],
    num_conds: int,
    no_cond_weights: bool = False,
    no_uncond_weights: bool = False,
    uncond_in_size: int = 0,
    shmlp_chunk_shapes: Any = None,
    shmlp_num_per_chunk: Any = None,
    shmlp_assembly_fct: Any = None,
    verbose: bool = True,
    cprefix: str | None = None,
) -> nn.Module:
    """Return a hypernetwork for a script's command-line arguments.

    Args:
        config: The parsed arguments, of hypnettorch's `cli_args.hnet_args`.
        device: Where it is to be.
        net_type: `"hmlp"`, `"chunked_hmlp"` or `"structured_hmlp"`.
        target_shapes: As in `HMLP`.
        num_conds: Number of conditions.
        no_cond_weights: As in `HMLP`; so are `no_uncond_weights` and `uncond_in_size`.
        no_uncond_weights: See above.
        uncond_in_size: See above.
        shmlp_chunk_shapes: `chunk_shapes` of `StructuredHMLP`.
        shmlp_num_per_chunk: Its `num_per_chunk`.
        shmlp_assembly_fct: Its `assembly_fct`.
        verbose: Print what was made.
        cprefix: What the names of the arguments begin with.

    Raises:
        ValueError: An unknown type or activation, or several architectures for one network.
        NotImplementedError: A deconvolutional type, as in hypnettorch.
    """

    def value(name: str) -> Any:
        return getattr(config, f"{cprefix or ''}{name}", None)

    archs = _architectures(net_type, value("hmlp_arch"))
    common: dict[str, Any] = {
        "uncond_in_size": uncond_in_size,
        "cond_in_size": value("cond_emb_size") or 0,
        "verbose": verbose,
        "no_uncond_weights": no_uncond_weights,
        "no_cond_weights": no_cond_weights,
        "num_cond_embs": num_conds,
    }
    whole = {**common, **_inner(value), "layers": archs[0]}
    if net_type == "hmlp":
        return HMLP(target_shapes, **whole).to(device)
    size: Any = _one_or_all(_ints(value("chunk_emb_size")))
    common["cond_chunk_embs"] = bool(value("use_cond_chunk_embs"))
    if net_type == "chunked_hmlp":
        whole |= {**common, "chunk_emb_size": size}
        return ChunkedHMLP(target_shapes, value("chmlp_chunk_size"), **whole).to(device)
    kwargs = _one_or_all([{**_inner(value), "layers": arch} for arch in archs])
    layout = shmlp_chunk_shapes, shmlp_num_per_chunk, size, kwargs, shmlp_assembly_fct
    return StructuredHMLP(target_shapes, *layout, **common).to(device)


def _one_or_all(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else values


def _architectures(net_type: str, text: Any) -> list[Any]:
    """Return the widths of the hidden layers: of one network, or of several that share a type."""
    if net_type in ("hdeconv", "chunked_hdeconv"):
        raise NotImplementedError(
            f"net_type: got {net_type!r}; hypnettorch has no arguments for it"
        )
    known = ("hmlp", "chunked_hmlp", "structured_hmlp")
    require(net_type in known, f"net_type: got {net_type!r}; wanted one of {known}")
    archs = [_ints(part) for part in str(text).split(";")]
    require(
        len(archs) == 1 or net_type == "structured_hmlp",
        f"hmlp_arch: got {text!r}; wanted one architecture for a {net_type}",
    )
    return archs


def _inner(value: Callable[[str], Any]) -> dict[str, Any]:
    """Return what the arguments say of the layers; what they do not say stays the default."""
    found: dict[str, Any] = {
        "dropout_rate": value("hnet_dropout_rate"),
        "use_spectral_norm": value("hnet_specnorm"),
        "use_batch_norm": value("hnet_batchnorm"),
    }
    if found["use_batch_norm"] is None and value("hnet_no_batchnorm") is not None:
        found["use_batch_norm"] = not value("hnet_no_batchnorm")
    found = {key: option for key, option in found.items() if option is not None}
    name = value("hnet_net_act")
    if name is not None:
        wanted = f"wanted one of {tuple(_ACTIVATIONS)}"
        require(name in _ACTIVATIONS, f"hnet_net_act: got {name!r}; {wanted}")
        activation = _ACTIVATIONS[name]()
        # hypnettorch takes None, which stands for "linear", for "not given".
        found.update({} if activation is None else {"activation_fn": activation})
    return {**found, "use_bias": not value("hnet_no_bias")}


def _ints(text: Any) -> list[int]:
    """Return the integers of a list with commas, or of one integer."""
    return [int(part) for part in str(text).split(",") if part]
