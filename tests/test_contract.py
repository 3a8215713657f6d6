"""The contract between the rooms, which `make lint` checks: the code keeps it, and it can fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A wrong import for each contract, and each way to write one: where, what, and what is said.
WRONG = {
    "errors": ("_core/errors.py", "import numpy\nimport torch", "hyperloom._core.errors -> torch"),
    "core": (
        "_core/choices/inits.py",
        "from hyperloom._core.plan.plan import Plan",
        "hyperloom._core.choices.inits -> hyperloom._core.plan.plan",
    ),
    "backends": (
        "jax/_target/read.py",
        "def late():\n    import hyperloom.torch._target.spec",
        "hyperloom.jax._target.read -> hyperloom.torch._target.spec",
    ),
    "for type checkers": (
        "torch/_target/spec.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
        "    from hyperloom.torch._generate.build import Built",
        "hyperloom.torch._target.spec -> hyperloom.torch._generate.build",
    ),
    "door": (
        "torch/_tools/views.py",
        "from hyperloom.compat.hypernn import torch as door",
        "hyperloom.torch._tools.views -> hyperloom.compat.hypernn",
    ),
}
CONTRACTS = 4


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the package in a folder."""
    code = "from importlinter.cli import lint_imports_command as c; c()"
    command = [sys.executable, "-c", code, "--no-cache", "--config", "pyproject.toml"]
    environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "500"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Return a folder with a copy of the package and its configuration."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src" / "hyperloom", tmp_path / "hyperloom", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_code_keeps_the_contract(copied: Path) -> None:
    done = lint(copied)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Contracts: {CONTRACTS} kept, 0 broken." in done.stdout


def test_wrong_imports_are_seen(copied: Path) -> None:
    for where, line, _ in WRONG.values():
        path = copied / "hyperloom" / where
        path.write_text(f"{path.read_text('utf-8')}\n\n{line}\n", "utf-8")
    done = lint(copied)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"Contracts: 0 kept, {CONTRACTS} broken." in done.stdout
    for _, _, said in WRONG.values():
        assert said in done.stdout


def test_only_rooms_have_an_underscore() -> None:
    """A room is private by its folder's name; the files in it are not marked again."""
    package = ROOT / "src" / "hyperloom"
    marked = {path.relative_to(package).as_posix() for path in package.rglob("_[!_]*.py")}
    assert marked == {"_cli.py", "torch/_hypernetwork.py", "jax/_hypernetwork.py"}
