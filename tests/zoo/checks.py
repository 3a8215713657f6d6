"""What every entry of the zoo must pass: batch equals loop, and the template stays as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

import hyperloom.torch as hl
from tests._support.compare import close as close
from tests._support.on_torch import shaken

NUM = 3  # conditions in a batch
IDS = (2, 0, 1)  # not in order, so that a pairing by position would show


def hypernetwork(target: nn.Module, seed: int = 0, **choices: Any) -> hl.HyperNetwork:
    """Return a hypernetwork of four ids, moved away from its start.

    A change starts at zero, a bias at its constant: gradients that are lost would not show.
    """
    torch.manual_seed(seed)
    choices = {"condition": hl.Embedding(4, 3), **choices}
    return shaken(hl.HyperNetwork(target, **choices), by=0.02)


def frozen_copy(target: nn.Module) -> dict[str, Tensor]:
    """Return copies of all tensors of a module, to compare with afterwards."""
    named = [*target.named_parameters(), *target.named_buffers()]
    return {name: value.detach().clone() for name, value in named}


def unchanged(target: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Assert that a module's tensors are bitwise what they were, and that none was added."""
    after = dict([*target.named_parameters(), *target.named_buffers()])
    assert after.keys() == before.keys()
    assert all(p.grad is None for p in target.parameters())
    for name, value in after.items():
        same = torch.equal(value, before[name]) or bool((value != value).all())
        assert same, f"{name} of the template has changed"


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def projection(outputs: list[Tensor]) -> Tensor:
    """Return a random projection of all floating outputs `(B, ...)`, always the same."""
    draws = torch.Generator().manual_seed(0)
    made = [
        (out * torch.randn(out.shape, generator=draws).to(out)).sum()
        for out in outputs
        if out.is_floating_point() and out.requires_grad
    ]
    assert made, "no output has a gradient"
    return torch.stack([m.double() for m in made]).sum()


def gradients(outputs: list[Tensor], hnet: nn.Module) -> dict[str, Tensor | None]:
    named = dict(hnet.named_parameters())
    found = torch.autograd.grad(projection(outputs), list(named.values()), allow_unused=True)
    return dict(zip(named, found, strict=True))


def pick(tree: Any, index: int) -> Any:
    """Return one slice of every tensor in a tree."""
    return tree_map(lambda leaf: leaf[index] if isinstance(leaf, Tensor) else leaf, tree)


def batch_equals_loop(
    hnet: hl.HyperNetwork,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    tolerance: float = 1e-9,
    prepare: Callable[[], None] = lambda: None,
) -> None:
    """Assert that outputs and gradients of a batch are those of a loop over its conditions.

    Args:
        hnet: The hypernetwork, with ids.
        args: Positional inputs; tensors with a leading `NUM`.
        kwargs: Keyword inputs, likewise.
        tolerance: Relative to the largest number of each tensor.
        prepare: Called before the batch and before the loop, to set random generators.
    """
    kwargs = dict(kwargs or {})
    # The loop starts from what the batch started from: a target may write its buffers.
    looped = copy.deepcopy(hnet)
    prepare()
    batch = tensors(hnet(*args, condition=list(IDS), **kwargs))
    each: list[list[Tensor]] = []
    prepare()
    for i, condition in enumerate(IDS):
        outputs = looped(*pick(args, i), condition=condition, **pick(kwargs, i))
        each.append(tensors(outputs))
    assert batch, "no outputs"
    loop = [torch.stack(list(outs)) for outs in zip(*each, strict=True)]
    assert [b.dtype for b in batch] == [a.dtype for a in loop]
    compare(batch, loop, tolerance, [str(i) for i in range(len(batch))])
    ours, theirs = gradients(batch, hnet), gradients(loop, looped)
    missing = [n for n in ours if (ours[n] is None) != (theirs[n] is None)]
    # A part that no output reaches may get zeros one way and nothing the other.
    for name in missing:
        found = [g for g in (ours.pop(name), theirs.pop(name)) if g is not None]
        assert not any(bool(g.any()) for g in found), f"{name} gets a gradient one way only"
    names = [n for n in ours if ours[n] is not None]
    assert names, "no gradient"
    compare([ours[n] for n in names], [theirs[n] for n in names], tolerance, names)
    # What both have written into their buffers, e.g. running statistics by id.
    written, also = dict(hnet.named_buffers()), dict(looped.named_buffers())
    held = [name for name in written if written[name].is_floating_point()]
    compare([written[n] for n in held], [also[n] for n in held], tolerance, held)


def compare(actual: list[Any], expected: list[Any], tolerance: float, names: list[str]) -> None:
    """Compare tensors; differences are relative to the largest number of each, at least 1."""
    for name, one, two in zip(names, actual, expected, strict=True):
        assert one.shape == two.shape, (name, one.shape, two.shape)
        assert bool(torch.isfinite(one.float()).all()) or torch.equal(
            torch.isfinite(one), torch.isfinite(two)
        ), f"{name} is not finite"
        size = (
            max(1.0, float(two.detach()[torch.isfinite(two)].abs().max())) if two.numel() else 1.0
        )
        torch.testing.assert_close(
            one, two, rtol=0.0, atol=tolerance * size, msg=lambda m, n=name: f"{n}: {m}"
        )


def ten_steps(
    hnet: hl.HyperNetwork, loss: Callable[[Any], Tensor], rate: float = 0.02
) -> list[Tensor]:
    """Train ten steps of SGD with momentum on a loss; return all parameters."""
    optimizer = torch.optim.SGD(hnet.parameters(), lr=rate, momentum=0.9)
    for _ in range(10):
        optimizer.zero_grad()
        loss(hnet).backward()
        optimizer.step()
    return [p.detach().clone() for p in hnet.parameters()]
