"""Initialise and collect embeddings of any of the hypernetworks."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torch import nn

from hyperloom.compat.hypnettorch._door.errors import require
from hyperloom.compat.hypnettorch.hnets.hnet_container import HContainer
from hyperloom.compat.hypnettorch.hnets.hnet_interface import HyperNetInterface
from hyperloom.compat.hypnettorch.hnets.hnet_perturbation_wrapper import HPerturbWrapper

Fill = Callable[..., Any]


def init_conditional_embeddings(
    hnet: Any, normal_mean: float = 0.0, normal_std: float = 1.0, init_fct: Fill | None = None
) -> None:
    """Fill the condition embeddings that a hypernetwork holds with normal draws.

    Args:
        hnet: The hypernetwork.
        normal_mean: Mean of the draws.
        normal_std: Their standard deviation.
        init_fct: `f(embedding, condition id)` that fills in place, instead of the draws.
    """
    require(isinstance(hnet, HyperNetInterface), "hnet: wanted a hypernetwork.")
    if hnet.conditional_params is None:
        _warn_of_none()
        return
    for member in _leaves(hnet):
        for cond_id in range(member.num_known_conds):
            try:
                embedding = member.get_cond_in_emb(cond_id)
            except RuntimeError:  # none is held inside
                break
            if init_fct is None:
                nn.init.normal_(embedding, normal_mean, normal_std)
            else:
                init_fct(embedding, cond_id)


def init_chunk_embeddings(
    hnet: Any, normal_mean: float = 0.0, normal_std: float = 1.0, init_fct: Fill | None = None
) -> None:
    """Fill the chunk embeddings that a hypernetwork holds with normal draws.

    Args:
        hnet: The hypernetwork; one without chunks is left as it is.
        normal_mean: Mean of the draws.
        normal_std: Their standard deviation.
        init_fct: `f(embedding, chunk id, cond_id=None)` that fills in place, instead of the
            draws. For `StructuredHMLP` it gets all embeddings of an internal hypernetwork.
    """
    require(isinstance(hnet, HyperNetInterface), "hnet: wanted a hypernetwork.")
    for member in _leaves(hnet):
        if not hasattr(member, "cond_chunk_embs"):
            continue
        for cond_id in range(member.num_known_conds) if member.cond_chunk_embs else [None]:
            try:
                found = _chunk_embeddings(member, cond_id)
            except RuntimeError:  # none are held inside
                break
            for i, embedding in enumerate(found):
                if init_fct is None:
                    nn.init.normal_(embedding, normal_mean, normal_std)
                else:
                    init_fct(embedding, i, cond_id=cond_id)


def get_conditional_parameters(hnet: Any, cond_id: int) -> list[Any]:
    """Return the parameters that belong to one condition; empty if none are held inside."""
    require(isinstance(hnet, HyperNetInterface), "hnet: wanted a hypernetwork.")
    if hnet.conditional_params is None:
        _warn_of_none()
        return []
    num = hnet.num_known_conds
    require(0 <= cond_id < num, f"cond_id: got {cond_id}; wanted 0 .. {num - 1}.")
    if isinstance(hnet, HPerturbWrapper):
        return get_conditional_parameters(hnet.internal_hnet, cond_id)
    if isinstance(hnet, HContainer):
        made = [p for h in hnet.internal_hnets for p in get_conditional_parameters(h, cond_id)]
        own = [e for e in hnet._ledger.held if e.extra.get("celement_cind") == cond_id]
        return made + [e.parameter for e in own]
    made = []
    if hnet._widths[1]:
        made.append(hnet.get_cond_in_emb(cond_id))
    if getattr(hnet, "cond_chunk_embs", False):
        whole = hasattr(hnet, "get_chunk_emb")
        made += [hnet.get_chunk_emb(cond_id=cond_id)] if whole else hnet.get_chunk_embs(cond_id)
    return made


def _leaves(hnet: Any) -> list[Any]:
    """Return the hypernetworks that a hypernetwork is made of."""
    if isinstance(hnet, HContainer):
        return [leaf for member in hnet.internal_hnets for leaf in _leaves(member)]
    if isinstance(hnet, HPerturbWrapper):
        return _leaves(hnet.internal_hnet)
    return [hnet]


def _chunk_embeddings(hnet: Any, cond_id: int | None) -> list[Any]:
    if hasattr(hnet, "get_chunk_embs"):
        return hnet.get_chunk_embs(cond_id=cond_id)
    return [hnet.get_chunk_emb(i, cond_id) for i in range(hnet.num_chunks)]


def _warn_of_none() -> None:
    warnings.warn("The hypernetwork holds no conditional parameters.", stacklevel=3)
