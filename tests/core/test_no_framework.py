"""The core and its tests need no framework."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# An import of a module that is None in sys.modules fails.
WITHOUT = """
import sys
for name in ("torch", "jax", "flax"):
    sys.modules[name] = None
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", *sys.argv[1:]]))
"""


def run_without_frameworks(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_tests_of_the_core_run_without_torch_and_jax() -> None:
    own = Path(__file__).relative_to(ROOT)
    done = run_without_frameworks("tests/core", f"--ignore={own}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_a_test_that_needs_torch_would_be_seen(tmp_path: Path) -> None:
    test = tmp_path / "test_torch.py"
    test.write_text("def test():\n    import torch\n")
    done = run_without_frameworks(str(test), f"--rootdir={tmp_path}", "-c", "/dev/null")
    assert done.returncode == 1
    assert "import of torch halted" in done.stdout
