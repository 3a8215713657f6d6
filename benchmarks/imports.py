"""What `import hyperloom.torch` takes beside `import torch`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from benchmarks._case import Case, Claim, Contestant, Results, Setting, Workload, within

KEY, TORCH = "a new process", "import torch"


def contestants() -> list[Contestant]:
    def run(code: str) -> Callable[[], None]:
        return lambda: subprocess.run([sys.executable, "-c", code], check=True) and None

    return [
        Contestant("import hyperloom.torch", run("import hyperloom.torch"), None, "ours"),
        Contestant(TORCH, run(TORCH), None),
    ]


def workloads(setting: Setting) -> list[Workload]:
    return [] if setting.tiny else [Workload(KEY, contestants, seconds=60, elsewhere=True)]


def judge(results: Results) -> list[Claim]:
    return [within(results[KEY], 1.1, "import hyperloom.torch", TORCH)]


CASE = Case(
    "imports",
    "Import",
    ["A new Python process that imports one or the other and ends."],
    workloads,
    judge,
)
