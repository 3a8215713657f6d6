"""One backend never imports the other's framework, shown in subprocesses."""

from __future__ import annotations

import subprocess
import sys

import pytest

# An import of a module that is None in sys.modules fails.
WITHOUT = "import sys\nfor name in {blocked!r}:\n    sys.modules[name] = None\n{code}\n"
MODULES = {
    "jax": ("hyperloom.jax", "hyperloom.recipes.continual.jax"),
    "torch": ("hyperloom.torch", "hyperloom.recipes.continual.torch"),
}
OTHER = {"jax": ("torch",), "torch": ("jax", "flax")}


def run(code: str, *blocked: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT.format(blocked=blocked, code=code)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("backend", MODULES)
def test_a_backend_does_not_import_the_other_framework(backend: str) -> None:
    code = "\n".join(f"import {module}" for module in MODULES[backend])
    code += f"\nprint([n for n in {OTHER[backend]!r} if sys.modules.get(n) is not None])"
    done = run(code, *OTHER[backend])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    # Without anything in the way it does not either.
    done = run(code)
    assert done.stdout.strip() == "[]", done.stderr


def test_importing_the_core_imports_neither() -> None:
    done = run("import hyperloom\nprint([n for n in ('torch', 'jax', 'flax') if n in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_an_import_of_the_other_framework_would_be_seen() -> None:
    done = run("import hyperloom.jax, hyperloom.torch", "torch")
    assert done.returncode == 1
    assert "import of torch halted" in done.stderr
    done = run("import hyperloom.jax, torch\nprint('torch' in sys.modules)")
    assert done.stdout.strip() == "True", done.stderr
