"""Training that goes on after ids were added: state dicts, files and the states of optimisers."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from hyperloom import extend

Optimizer = Callable[..., torch.optim.Optimizer]
OPTIMIZERS: dict[str, Optimizer] = {
    "adam": torch.optim.Adam,
    "momentum": functools.partial(torch.optim.SGD, momentum=0.9),
}


def _trained(hnet: hl.HyperNetwork, optimizer: torch.optim.Optimizer, num: int) -> Tensor:
    x = torch.linspace(-1, 1, 8).reshape(2, 4)
    for i in range(num):
        optimizer.zero_grad()
        hnet(x, condition=i).square().sum().backward()
        optimizer.step()
    return hl.flatten(hnet.generate(range(num)), hnet.plan).detach()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("layout", [hl.Full(), hl.PerCondition()], ids=repr)
def test_training_goes_on_after_ids_were_added(
    layout: extend.Layout, optimizer: str, tmp_path: Path
) -> None:
    """A fresh hypernetwork that grows in the same steps, and the state of an optimiser."""

    def fresh(num: int = 3) -> hl.HyperNetwork:
        torch.manual_seed(num)
        return hl.HyperNetwork(nn.Linear(4, 3), condition=hl.Embedding(num, 3), layout=layout)

    def grown(groups: bool) -> tuple[hl.HyperNetwork, torch.optim.Optimizer]:
        hnet = fresh()
        if not groups:  # the optimiser was made after the growth
            hnet.add_conditions(2)
        made = OPTIMIZERS[optimizer](hnet.parameters(), lr=0.01)
        if groups:
            made.add_param_group({"params": hnet.add_conditions(2)})
        return hnet, made

    for groups in (True, False):
        hnet, made = grown(groups)
        _trained(hnet, made, 5)
        hl.save(hnet, tmp_path / "file")
        states = copy.deepcopy((hnet.state_dict(), made.state_dict()))
        wanted = _trained(hnet, made, 5)
        for way in ("state", "file"):
            again, other = grown(groups)
            again.load_state_dict(states[0]) if way == "state" else again.load(tmp_path / "file")
            other.load_state_dict(copy.deepcopy(states[1]))  # it trains these very tensors
            torch.testing.assert_close(_trained(again, other, 5), wanted, rtol=0, atol=0)
    # Of as many ids from the start: rows are rows, whatever steps they came in.
    whole = fresh(5)
    whole.load_state_dict(states[0])
    back = grown(True)[0]
    back.load_state_dict(whole.state_dict())
    for other_way in (whole, back):
        generated = hl.flatten(other_way.generate(range(5)), whole.plan)
        again.load_state_dict(states[0])
        torch.testing.assert_close(generated, hl.flatten(again.generate(range(5)), again.plan))
    text = r"state_dict: got 5 ids in 'condition\.table'; wanted 3 ids\. Add 2 first"
    with pytest.raises(RuntimeError, match=text):
        fresh().load_state_dict(states[0])
