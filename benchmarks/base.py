"""What a hypernetwork adds to a large base: `python -m benchmarks.base` writes a page of it.

A transformer of random numbers with an adapter of rank 8 for each condition. Memory is the resident
set of this process beside what it was before, which holds the base once. `--millions` sets the
base's size, for a trial.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from benchmarks import _report

PAGE = Path("docs/reports/base.md")
LAYERS, HEADS, RANK = 24, 16, 8


class Model(nn.Module):
    """An embedding and a transformer encoder, about `millions` parameters."""

    def __init__(self, millions: float) -> None:
        super().__init__()
        width = int((millions * 1e6 / (12 * LAYERS)) ** 0.5) // HEADS * HEADS
        self.embed = nn.Embedding(1000, width)
        layer = nn.TransformerEncoderLayer(width, HEADS, 4 * width, 0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.layers(self.embed(ids))


def resident() -> int:
    """Return the bytes of this process that are in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


def measured(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return what a call returns, its processor seconds, and the MB that stay after it.

    What the C library has freed and keeps for later is given back first.
    """
    trim = ctypes.CDLL(None).malloc_trim
    gc.collect()
    trim(0)
    before, start = resident(), time.process_time()
    result = call()
    seconds = time.process_time() - start
    gc.collect()
    trim(0)
    return result, seconds, (resident() - before) / 1e6


def model(millions: float) -> Model:
    """Return a model of random numbers, without what its initialisation would take."""
    with torch.device("meta"):
        made = Model(millions)
    made = made.to_empty(device="cpu").eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.02)
    return made.requires_grad_(False)


def adapted(base: Model) -> hl.HyperNetwork:
    """Return a hypernetwork with an adapter on the last projection of every layer."""
    names = "*.linear2.weight"
    return hl.HyperNetwork(
        base,
        condition=hl.Embedding(8, 16),
        trunk=hl.MLP(32),
        layout={names: hl.Grouped(embedding=16)},
        form={names: hl.LoRA(RANK)},
    ).eval()


@torch.no_grad()
def rows(millions: float) -> tuple[str, list[tuple[str, str]]]:
    """Measure; return the base in words, and a row for each figure."""
    base = model(millions)
    bytes_of_base = sum(p.nbytes for p in base.parameters())
    said = f"{sum(p.numel() for p in base.parameters()) / 1e6:.0f} million parameters, "
    said += f"{bytes_of_base / 1e6:.0f} MB"
    ids = torch.randint(0, 1000, (4, 16))
    base(ids)  # the libraries' own buffers are there from here on
    hnet, seconds, added = measured(lambda: adapted(base))
    learned = sum(p.nbytes for p in hnet.parameters())

    def line(what: str, seconds: float, added: float) -> tuple[str, str]:
        return what, f"{seconds:.2f} s, {added:+.0f} MB ({100e6 * added / bytes_of_base:+.1f} %)"

    found = [
        ("learned numbers", f"{learned / 1e6:.1f} MB"),
        ("state dict", f"{sum(t.nbytes for t in hnet.state_dict().values()) / 1e6:.1f} MB"),
        line("HyperNetwork(base, ...)", seconds, added),
    ]
    bound, *figures = measured(lambda: hnet.bind(3))
    found.append(line("bind(condition)", *figures))
    _, *figures = measured(lambda: bound(ids))
    found.append(line("a call of the bound network", *figures))
    _, *figures = measured(lambda: hnet(ids[:2, None].expand(2, 2, 16), condition=[0, 3]))
    found.append(line("a call of two conditions", *figures))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hnet.safetensors"
        _, *figures = measured(lambda: hl.save(hnet, path))
        found.append((f"save: a file of {path.stat().st_size / 1e6:.1f} MB", f"{figures[0]:.2f} s"))
        again, *figures = measured(lambda: hl.load(path, base))
        found.append(line("load(path, base)", *figures))
    generated = 4 * sum(base.get_parameter(e.tensor).numel() for e in hnet.plan.entries) / 1e6
    net, *figures = measured(lambda: again.instantiate(3, copy=False))
    name = f"instantiate(3, copy=False), {generated:.0f} MB of it generated"
    found.append(line(name, *figures))
    del net
    return said, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=float, default=500.0)
    parser.add_argument("--out", type=Path, default=PAGE)
    parser.add_argument("--remark", default="", help="a sentence for the report, on this run")
    options = parser.parse_args()
    said, found = rows(options.millions)
    machine = ", ".join(f"{name} {value}" for name, value in list(_report.machine().items())[:6])
    table = "".join(f"| {what} | {figure} |\n" for what, figure in found)
    page = (
        "# A base that is not copied\n\n"
        "Written by `python -m benchmarks.base`. A transformer encoder of random numbers, "
        f"{said}; an adapter of rank {RANK} on the last projection of each of its {LAYERS} layers, "
        "from an id. Seconds are those of the processor. Memory is what stays in this process "
        "after the step, beside the base.\n\n"
        f"{machine}. {options.remark}\n\n| step | measured |\n| --- | --- |\n{table}"
    )
    options.out.write_text(page, "utf-8")
    print(page)


if __name__ == "__main__":
    main()
