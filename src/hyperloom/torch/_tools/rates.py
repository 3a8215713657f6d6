"""Learning rates that do not depend on the generator's width."""

from __future__ import annotations

from typing import Any

from torch import nn

from hyperloom._core.backend.rates import check_rate, divisors, label
from hyperloom._core.errors import message
from hyperloom.torch._hypernetwork import HyperNetwork


def param_groups(module: nn.Module, lr: float) -> list[dict[str, Any]]:
    """Return a module's parameters in groups for an optimiser, with the rate of each.

    `lr` is the rate that a plain network would take. A step of Adam moves a number that is
    generated from `F` features by `F` times the rate, so the matrices that read features (linear
    heads, layers of an `MLP` after the first) get `lr` divided by the number of their inputs;
    everything else gets `lr`. The same `lr` is then good for narrow and wide generators. See
    "Learning rates" in the documentation, and `doctor(optimizer=...)`, which measures a step.

    Args:
        module: A hypernetwork, or a module with hypernetworks anywhere inside: the parameters
            of other modules get `lr`.
        lr: The rate, at least 0.

    Returns:
        `[{"params": [...], "lr": ..., "name": ...}, ...]`, every parameter once. The first group,
        `"lr"`, has those whose rate is not divided; the others are named `"lr/32"` and so on.

    Raises:
        TypeError: `module` is no module, or `lr` no number.
        ValueError: `lr` is negative or not finite, or a module without parameters.

    Example:
        >>> optimizer = torch.optim.Adam(hl.param_groups(hnet, lr=1e-2))
    """
    if not isinstance(module, nn.Module):
        raise TypeError(message("module", module, "a torch.nn.Module"))
    rate, by = check_rate(lr), {id(p): 1 for p in module.parameters()}
    if not by:
        raise ValueError(message("module", "one without parameters", "a module to train"))
    for hnet in module.modules():
        if isinstance(hnet, HyperNetwork):
            parameters = dict(hnet.named_parameters())
            by.update(
                (id(parameters[name]), d)
                for name, d in divisors(hnet.plan, parameters).items()
                if d > 1
            )
    return [
        {
            "params": [p for p in module.parameters() if by[id(p)] == divisor],
            "lr": rate / divisor,
            "name": label(divisor),
        }
        for divisor in sorted({1, *by.values()})
        if divisor in by.values()
    ]
