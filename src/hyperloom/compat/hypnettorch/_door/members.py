"""What hypernetworks that are made of others have in common."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch import nn

from hyperloom.compat.hypnettorch._door.ledger import Entry


def joined(hnets: Sequence[Any], key: str, extra: dict[str, Any]) -> list[Entry]:
    """Return the entries of all members, one after the other, marked with the member's index."""
    made: list[Entry] = []
    for i, hnet in enumerate(hnets):
        # Layers of members can be told apart in the first only.
        entries = hnet._ledger.entries
        made += [e.moved(-1 if i else e.layer, **extra, **{key: i}) for e in entries]
    return made


def take_over(hnet: Any, members: Sequence[Any]) -> None:
    """Take over from the members what is to be the same in all of them."""
    biases = {member.has_bias for member in members}
    if len(biases) > 1:
        text = "Some internal hypernetworks have biases, others do not: has_bias is False."
        warnings.warn(text, stacklevel=3)
    hnet._has_bias = biases == {True}
    hnet._has_fc_out = all(member.has_fc_out for member in members)
    hnet._has_linear_out = all(member.has_linear_out for member in members)
    norms = [layer for member in members for layer in member.batchnorm_layers or ()]
    hnet._batchnorm_layers = nn.ModuleList(norms) if norms else None


def train_members(members: Sequence[Any], mode: bool) -> None:
    """Set the mode of members, which are not submodules (their parameters would be there twice)."""
    for member in members:
        member.train(mode)
