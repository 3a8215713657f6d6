"""From hypnettorch's hypernetworks to native ones, with the numbers that they hold."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import hyperloom.torch as hl
from hyperloom.compat.hypnettorch._door.generator import Numbers, Slots, activation_name
from hyperloom.compat.hypnettorch.hnets.chunked_mlp_hnet import ChunkedHMLP
from hyperloom.compat.hypnettorch.hnets.mlp_hnet import HMLP


def to_native(hnet: Any, target: nn.Module) -> hl.HyperNetwork:
    """Return a native hypernetwork that generates the same tensors.

    Args:
        hnet: An `HMLP` or `ChunkedHMLP` of the door that holds its parameters, whose activation
            has a native name.
        target: The target network, with the parameters of `hnet.target_shapes`, in that order.

    Returns:
        A `HyperNetwork` with copies of the numbers. Its condition is the id; with an
        unconditional input the pair `(input, id)`. Where `hnet` has no biases it has biases
        that are zero.

    Raises:
        TypeError: Another class.
        ValueError: Parameters from outside, an activation without a name, or another target.
    """
    if not isinstance(hnet, (HMLP, ChunkedHMLP)):
        raise TypeError(f"hnet: got a {type(hnet).__name__}; wanted an HMLP or ChunkedHMLP.")
    inner = hnet._hnet if isinstance(hnet, ChunkedHMLP) else hnet
    options = inner._options
    name = activation_name(options.activation)
    if hnet._ledger.external or name is None:
        raise ValueError("hnet: wanted parameters held inside, and an activation with a name.")
    shapes = [list(p.shape) for p in target.parameters()]
    if shapes != [list(s) for s in hnet.target_shapes]:
        raise ValueError(f"target: has tensors {shapes}; wanted {list(hnet.target_shapes)}.")
    slots = None
    layout: Any = hl.Full()
    if isinstance(hnet, ChunkedHMLP):
        slots = Slots(hnet._chunk_size, hnet.chunk_emb_size, hnet.cond_chunk_embs)
        layout = hl.Chunked(slots.size, slots.width, slots.per_condition, signs=False)
    trunk = None
    if options.layers:
        trunk = hl.MLP(
            *options.layers,
            activation=name,
            dropout=options.dropout,
            norm="batch" if options.batch_norm else None,
            spectral=options.spectral_norm,
        )
    made = hl.HyperNetwork(
        target, condition=_condition(hnet), trunk=trunk, layout=layout, init=hl.Unscaled()
    )
    with torch.no_grad():
        own = dict(made.named_parameters()) | dict(made.named_buffers())
        for key, value in _numbers(hnet, inner, slots).items():
            own[key].copy_(value)
    return made


def _condition(hnet: Any) -> Any:
    uncond, cond = hnet._widths
    own: Any = hl.Embedding(hnet.num_known_conds, cond) if cond else hl.Ids(hnet.num_known_conds)
    return hl.Concat(hl.Vector(uncond), own) if uncond else own


def _numbers(hnet: Any, inner: HMLP, slots: Slots | None) -> dict[str, torch.Tensor]:
    """Return the values of the native parameters by their names."""
    shared = list(hnet.unconditional_params)
    embeddings: Any = None
    if slots is not None and slots.per_condition:
        each = [hnet.get_chunk_emb(cond_id=i) for i in range(hnet.num_known_conds)]
        embeddings = torch.stack(each)
    elif slots is not None:
        embeddings = shared.pop()
    numbers: Numbers = inner._numbers(shared, 0 if inner.batchnorm_layers else None)
    numbers.slots = embeddings
    generator = inner._native(slots, hnet.target_shapes)
    given = generator._given(numbers, numbers.weights[-1])
    # The door's own trunk may stand inside a module of its own.
    made = {_plain(k, generator.trunk): v for k, v in given.items()}
    if hnet._widths[1]:
        table = torch.stack([hnet.get_cond_in_emb(i) for i in range(hnet.num_known_conds)])
        prefix = "condition.parts.1." if hnet._widths[0] else "condition."
        made[f"{prefix}table.0"] = table
    return made


def _plain(name: str, trunk: str) -> str:
    inside = bool(trunk) and name.startswith(trunk)
    return f"trunks.0.{name.removeprefix(trunk)}" if inside else name
