"""Readings for loggers: `readings`."""

from __future__ import annotations

from typing import Any

import torch

from hyperloom._core.backend import protocol
from hyperloom._core.backend.documented import completes
from hyperloom._core.backend.readings import flat
from hyperloom.torch._hypernetwork import HyperNetwork
from hyperloom.torch._tools.given import a_hypernetwork


@completes(protocol.Backend.readings)
def readings(hnet: HyperNetwork, condition: Any = None) -> dict[str, float]:
    """Gradients are those in `.grad`.

    Example:
        >>> for name, value in hl.readings(hnet, range(5)).items():
        >>>     writer.add_scalar(name, value, step)      # or wandb.log(hl.readings(hnet))
    """
    hnet = a_hypernetwork("hnet", hnet)
    with torch.no_grad():
        parameters = {n: p.float() for n, p in hnet.named_parameters() if p.numel()}
        having = ((n, p.grad) for n, p in hnet.named_parameters() if p.numel())
        gradients = {n: g.float() for n, g in having if g is not None}
        made = {} if condition is None else hnet.generate(condition)
        generated = {name: value.float() for name, value in made.items() if value.numel()}
        read = flat(parameters, gradients, generated)
        numbers = torch.stack([value.cpu() for value in read.values()]).tolist() if read else []
    return dict(zip(read, numbers, strict=True))
