"""What every test gets: seeded generators, hypothesis profiles, no windows from matplotlib."""

from __future__ import annotations

import gc
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

from hyperloom._core.plan.cost import forcing

os.environ.setdefault("MPLBACKEND", "Agg")
# The tests' arrays are small: a second thread costs more than it brings, up to ten times more
# where another process wants the core. Set before torch is imported; subprocesses inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Most of what JAX does here is compile, programs that run once: with these it takes half as long.
# What the environment says comes later, and so wins.
QUICK_COMPILATION = (
    "--xla_cpu_opt_preset=CPU_OPT_PRESET_FAST_COMPILE",
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
)
# XLA ends the process for a flag that it does not know: only with the JAX that has been tried.
if any(d.version.startswith("0.10.") for d in metadata.distributions(name="jaxlib")):
    FLAGS = (*QUICK_COMPILATION, os.environ.get("XLA_FLAGS", ""))
    os.environ["XLA_FLAGS"] = " ".join(FLAGS).strip()

SEED = 20_261_121
LONG = Path(__file__).with_name("long.txt")


def _torch() -> Any:
    """Return torch if something has imported it; tests of the core run without it."""
    return sys.modules.get("torch")


class _TorchRandom:
    """Lets hypothesis seed and restore torch's generator for each example."""

    def seed(self, value: int) -> None:
        if torch := _torch():
            torch.manual_seed(value)

    def getstate(self) -> Any:
        torch = _torch()
        return torch and torch.get_rng_state()

    def setstate(self, state: Any) -> None:
        if state is not None:
            _torch().set_rng_state(state)


# hypothesis keeps only a weak reference, so the object needs a name.
_TORCH_RANDOM = _TorchRandom()
hypothesis.register_random(_TORCH_RANDOM)  # type: ignore[arg-type]

# Few examples: most of them run a network. `--hypothesis-profile=thorough` tries harder.
hypothesis.settings.register_profile("dev", max_examples=25, deadline=None)
hypothesis.settings.register_profile(
    "ci", parent=hypothesis.settings.get_profile("dev"), derandomize=True, print_blob=True
)
hypothesis.settings.register_profile("thorough", max_examples=500, deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that long.txt lists as slow."""
    listed = set(LONG.read_text("utf-8").splitlines())
    for item in items:
        if item.nodeid in listed:
            item.add_marker("slow")


def pytest_collection_finish() -> None:
    """Tell the garbage collector that what was imported stays: it need not look there again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Seed every generator, so that a test's numbers do not depend on the tests before it."""
    random.seed(SEED)
    np.random.seed(SEED)
    if torch := _torch():
        torch.manual_seed(SEED)


@pytest.fixture
def take() -> Iterator[Callable[..., None]]:
    """Give `forcing` as a function, in force until the test ends."""
    with ExitStack() as stack:
        yield lambda way, of="layers": stack.enter_context(forcing(way, of))
