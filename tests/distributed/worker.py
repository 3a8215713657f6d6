"""One of two processes that train a hypernetwork together. Run by `test_two_processes.py`.

Arguments: rank, number of processes, the folder in which they meet and leave their results.
"""

from __future__ import annotations

import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from tests._support import targets
from tests._support.on_torch import hypernetwork, shaken

STEPS = 3  # a parameter that waits for a gradient shows in the second step


mlp = partial(targets.mlp, 4, 6, 2)


def cnn() -> nn.Module:
    layers = nn.Conv2d(1, 3, 2), nn.GroupNorm(1, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3, 2)
    return nn.Sequential(*layers)


CASES: dict[str, dict[str, Any]] = {
    "full": {"target": mlp, "trunk": hl.MLP(5)},
    "chunked": {"target": mlp, "trunk": hl.MLP(5), "layout": hl.Chunked(9, embedding=3)},
    "by id": {"target": mlp, "layout": {"0.*": hl.PerCondition(), "*": hl.Shared()}},
    "tables only": {"target": mlp, "layout": hl.PerCondition()},
    "low rank": {"target": mlp, "form": {"*.weight": hl.LoRA(2)}},
    "trained base": {"target": mlp, "form": hl.Delta(trained=True), "trunk": hl.MLP(5)},
    "own slots": {"target": mlp, "layout": hl.Chunked(9, embedding=3, per_condition=True)},
    "vmap": {"target": cnn, "trunk": hl.MLP(5)},
    "recurrent": {"target": lambda: nn.GRU(4, 3), "trunk": hl.MLP(5)},
    "grown": {"target": mlp, "trunk": hl.MLP(5), "grow": 2},
}


def built_case(name: str) -> hl.HyperNetwork:
    choices: dict[str, Any] = {"condition": hl.Embedding(4, 3), **CASES[name]}
    make, grow = choices.pop("target"), choices.pop("grow", 0)
    hnet = hypernetwork(lambda: make().double(), **choices)
    if grow:
        hnet.add_conditions(grow)
    return shaken(hnet)  # away from a start at zero


def data(name: str) -> tuple[Tensor, Tensor]:
    """Return inputs and ids of four conditions for each step."""
    torch.manual_seed(1)
    shape = {"vmap": (5, 1, 2, 2), "recurrent": (5, 2, 4)}.get(name, (5, 4))
    x = torch.randn(STEPS, 4, *shape, dtype=torch.float64)
    return x, torch.tensor([[0, 1, 2, 3], [3, 0, 0, 1], [2, 2, 1, 0]])


def train(model: nn.Module, name: str, part: slice) -> list[Tensor]:
    """Take `STEPS` steps on a part of the conditions; return all gradients and parameters."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, ids = data(name)
    seen: list[Tensor] = []
    for step in range(STEPS):
        optimizer.zero_grad()
        out = model(x[step, part], condition=ids[step, part])
        out = out[0] if isinstance(out, tuple) else out
        out.square().mean().backward()
        trained = [p for p in model.parameters() if p.requires_grad]
        # What nothing reads has no gradient in one process, and a gradient of zero in several.
        apart = not torch.distributed.is_initialized()
        assert apart or all(p.grad is not None for p in trained)
        seen += [torch.zeros_like(p) if p.grad is None else _whole(p.grad) for p in trained]
        optimizer.step()
    return seen + [_whole(p.detach()) for p in model.parameters()]


def _whole(tensor: Tensor) -> Tensor:
    """Return a copy of a tensor, put together if each process has a part of it."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()


def main(rank: int, num: int, folder: Path) -> None:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    warnings.simplefilter("error")
    # Outputs are often views, and FSDP2 says what not to do with those.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module")
    torch.set_num_threads(1)
    meeting = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=num)
    part = slice(rank * 2, rank * 2 + 2)
    found, mesh = {}, init_device_mesh("cpu", (num,))
    for name in CASES:
        model = DistributedDataParallel(built_case(name), find_unused_parameters=False)
        found[f"{name}, copied"] = train(model, name, part)
        sharded: Any = fully_shard(built_case(name), mesh=mesh)
        found[f"{name}, sharded"] = train(sharded, name, part)
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
