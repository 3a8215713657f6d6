"""The package as a whole: what it imports, what it ships, what it documents."""

from __future__ import annotations

import importlib.resources
import inspect
import json
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from _pytest.mark import ParameterSet

import hyperloom
import hyperloom.torch

ROOT = Path(__file__).parents[1]
LoadedBy = Callable[[str], set[str]]
FRAMEWORKS = {"torch", "jax", "flax"}
PUBLIC = [hyperloom, hyperloom.torch]


@pytest.fixture
def loaded_by(tmp_path: Path) -> LoadedBy:
    """Return a function: the frameworks that a fresh interpreter has loaded after `code`.

    An empty jax and flax stand first on its path, so that an attempt to import them shows whether
    or not they are installed, even if the importer catches the error.
    """
    for name in ("jax", "flax"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()

    def run(code: str) -> set[str]:
        code = f"""
import json, sys
sys.path.insert(0, {str(tmp_path)!r})
{code}
print(json.dumps(sorted(sys.modules)))
"""
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        return FRAMEWORKS & set(json.loads(done.stdout.splitlines()[-1]))

    return run


def test_importing_hyperloom_imports_no_framework(loaded_by: LoadedBy) -> None:
    assert loaded_by("import hyperloom") == set()


def _core_modules() -> list[str]:
    """Return the modules of the core: private ones, outside the packages that use a framework."""
    found = pkgutil.walk_packages(hyperloom.__path__, "hyperloom.")
    return [m.name for m in found if m.name.split(".")[1].startswith("_")]


def test_no_module_of_the_core_imports_a_framework(loaded_by: LoadedBy) -> None:
    modules = _core_modules()
    assert "hyperloom._core.plan.plan" in modules
    assert loaded_by(f"import {', '.join(modules)}") == set()


def test_the_torch_backend_does_not_import_jax(loaded_by: LoadedBy) -> None:
    assert loaded_by("import hyperloom.torch") == {"torch"}


@pytest.mark.parametrize("name", ["torch", "jax", "flax"])
def test_an_import_of_a_framework_is_seen(loaded_by: LoadedBy, name: str) -> None:
    assert name in loaded_by(f"import {name}")


def test_a_caught_failure_to_import_a_framework_is_seen(loaded_by: LoadedBy) -> None:
    code = "try:\n    import jax.numpy\nexcept ImportError:\n    pass"
    assert loaded_by(code) == {"jax"}


def test_the_package_says_that_it_is_typed() -> None:
    assert importlib.resources.files("hyperloom").joinpath("py.typed").is_file()


def _public_objects() -> list[ParameterSet]:
    return [
        pytest.param(getattr(module, name), id=f"{module.__name__}.{name}")
        for module in PUBLIC
        for name in module.__all__
        if not name.startswith("__")
    ]


def _own_docstring(thing: object) -> str:
    """Return the docstring of `thing` itself: not its base's, not one that dataclass made."""
    doc = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    made = inspect.isclass(thing) and (doc or "").startswith(f"{thing.__name__}(")
    return "" if made else (doc or "").strip()


@pytest.mark.parametrize("thing", _public_objects())
def test_every_public_name_has_a_docstring(thing: object) -> None:
    assert _own_docstring(thing)


@pytest.mark.parametrize("thing", [p for p in _public_objects() if inspect.isclass(p.values[0])])
def test_every_public_method_has_a_docstring(thing: type) -> None:
    public = {n: m for n, m in vars(thing).items() if not n.startswith("_")}
    methods = [n for n, m in public.items() if callable(m) or isinstance(m, property)]
    assert [n for n in methods if not inspect.getdoc(getattr(thing, n))] == []


@pytest.mark.parametrize("module", PUBLIC, ids=lambda m: m.__name__)
def test_every_name_in_all_exists_once(module: ModuleType) -> None:
    assert len(set(module.__all__)) == len(module.__all__)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def _declared_version() -> str:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]


def test_the_versions_agree() -> None:
    assert hyperloom.__version__ == _declared_version()


def test_the_changelog_speaks_of_this_version() -> None:
    version = _declared_version()
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    release = re.sub(r"\.dev\d+$", "", version)
    heading = "## [Unreleased]" if release != version else f"## [{release}] - "
    section = changes.partition(heading)[2].partition("\n## ")[0]
    assert section.strip()
    assert release in changes


def test_no_file_names_the_machine_it_was_written_on() -> None:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    # In two pieces, so that this file does not match.
    local = re.compile(rb"/work" rb"/|\.\." rb"/shared|/root" rb"/|/home" rb"/\w")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    found = {f.name: m[0] for f in files if f.is_file() and (m := local.search(f.read_bytes()))}
    assert not found


def test_every_long_test_is_there() -> None:
    lines = (ROOT / "tests" / "long.txt").read_text("utf-8").splitlines()
    tests = {line.partition("[")[0] for line in lines if not line.startswith("#")}
    assert tests
    for test in sorted(tests):
        path, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / path).read_text("utf-8"), f"tests/long.txt: no {test}"
