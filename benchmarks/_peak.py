"""Peak memory of one contestant: `python -m benchmarks._peak CASE KEY NAME DEVICE THREADS`."""

from __future__ import annotations

import json
import sys

import torch

from benchmarks._all import CASES
from benchmarks._case import Setting
from benchmarks._measure import peak_of


def main(case: str, key: str, name: str, device: str, threads: str) -> None:
    """Print the bytes."""
    torch.set_num_threads(int(threads))
    setting = Setting(torch.device(device), only=key)
    workload = next(w for w in CASES[case].workloads(setting) if w.key == key)
    step = next(c.step for c in workload.make() if c.name == name)
    print(json.dumps(peak_of(step, setting.device)))


if __name__ == "__main__":
    main(*sys.argv[1:])
