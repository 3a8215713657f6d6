"""One backend never imports the other's framework, shown in subprocesses."""

from __future__ import annotations

import subprocess
import sys

import pytest

MODULES = {
    "jax": ("hyperloom.jax", "hyperloom.recipes.continual.jax"),
    "torch": ("hyperloom.torch", "hyperloom.recipes.continual.torch"),
}
OTHER = {"jax": ("torch",), "torch": ("jax", "flax")}


def run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"import sys\n{code}"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def loaded(code: str, *names: str) -> list[str]:
    """Return which of `names` a fresh interpreter has loaded after `code`."""
    done = run(f"{code}\nprint(*[n for n in {names!r} if n in sys.modules])")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("backend", MODULES)
def test_a_backend_does_not_import_the_other_framework(backend: str) -> None:
    # Nothing is in the way of it: what is not imported here is not missed where it cannot be.
    code = "\n".join(f"import {module}" for module in MODULES[backend])
    assert loaded(code, *OTHER[backend], backend) == [backend]


def test_importing_the_core_imports_neither() -> None:
    assert loaded("import hyperloom", "torch", "jax", "flax") == []


def test_an_import_of_the_other_framework_would_be_seen() -> None:
    assert loaded("import hyperloom, torch", "torch") == ["torch"]
