"""What `import hyperloom.torch` takes beside `import torch`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable

from benchmarks._case import Case, Claim, Contestant, Results, Setting, Workload, within

KEY, TORCH = "a new process", "import torch"


def contestants() -> list[Contestant]:
    # As in any installation the modules are compiled once, whatever this machine's settings are.
    compiled = tempfile.mkdtemp()
    env = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
    env.pop("PYTHONDONTWRITEBYTECODE", None)

    def run(code: str) -> Callable[[], None]:
        command = [sys.executable, "-c", code]
        return lambda: subprocess.run(command, check=True, env=env) and None

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
    [
        "A new Python process that imports one or the other and ends; bytecode is there. What is "
        "not torch takes about .1 s. Python's collector may walk torch's objects on the way, which "
        "takes .08 s more: the ratio is 1.0 to 1.14 from run to run.",
    ],
    workloads,
    judge,
)
