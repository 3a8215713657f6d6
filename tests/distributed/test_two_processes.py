"""Data-parallel training: two processes give the gradients of one, step after step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.worker import CASES, built_case, train

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Run two processes that meet at a file, and return what each has seen."""
    folder = tmp_path_factory.mktemp("ddp")
    paths = [str(ROOT), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.distributed.worker"]
    started = [
        subprocess.Popen(
            [*command, str(rank), "2", str(folder)],
            env=environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=240)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(said)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("how", ["copied", "sharded"])
@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_gradients_of_one(
    name: str, how: str, results: list[dict[str, Any]]
) -> None:
    """DDP without `find_unused_parameters`, so that all parameters get a gradient; and FSDP2."""
    alone = train(built_case(name), name, slice(0, 4))
    for rank in range(2):
        found = results[rank][f"{name}, {how}"]
        torch.testing.assert_close(found, alone, rtol=1e-9, atol=1e-12)


def test_half_of_the_conditions_gives_other_gradients() -> None:
    whole = train(built_case("full"), "full", slice(0, 4))
    half = train(built_case("full"), "full", slice(0, 2))
    assert not torch.allclose(whole[0], half[0])
