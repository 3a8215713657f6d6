"""The package as it is shipped: built, installed in a bare environment. Slow: `make package`."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]


def command(*arguments: object, cwd: Path = ROOT, **extra: str) -> str:
    environment = {**os.environ, **extra}
    if "PYTHONPATH" not in extra:
        environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [str(a) for a in arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel and an sdist."""
    out = tmp_path_factory.mktemp("dist")
    command(sys.executable, "-m", "hatchling", "build", "-d", out)
    return out


@pytest.fixture(scope="module")
def bare(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment with the wheel and numpy, and nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    command(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    pip = (python, "-m", "pip", "install", "-q", "--disable-pip-version-check")
    command(*pip, next(built.glob("*.whl")))
    return python


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_package(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        inside = {name for name in wheel.namelist() if name.startswith("hyperloom/")}
        others = {name.split("/")[1] for name in wheel.namelist() if ".dist-info/" in name}
    source = ROOT / "src"
    there = {p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file()}
    assert inside == {name for name in there if "__pycache__" not in name}
    assert "hyperloom/py.typed" in inside
    assert {"METADATA", "entry_points.txt", "licenses"} <= others


@pytest.mark.slow
def test_the_sdist_has_what_its_tests_need(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for needed in ("benchmarks/__main__.py", "reproductions/__main__.py", "tests/conftest.py"):
        assert needed in names
    for name in ("README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "mkdocs.yml", "Makefile"):
        assert name in names


@pytest.mark.slow
def test_it_works_with_numpy_alone(bare: Path, tmp_path: Path) -> None:
    code = (
        "import hyperloom as hl, sys\n"
        "from hyperloom import Role, TargetSpec, TensorSpec\n"
        "spec = TargetSpec('Net', (TensorSpec('w', (4, 3), Role.WEIGHT, 3, 4, 'l', std=0.3),))\n"
        "plan = hl.compile_plan(spec, hl.Embedding(5, 8), hl.MLP(6), hl.Chunked(5))\n"
        "assert '<svg' in hl.draw(plan)\n"
        "assert not {'torch', 'jax'} & set(sys.modules)\n"
        "print(hl.__version__)"
    )
    assert command(bare, "-c", code, cwd=tmp_path).strip() == VERSION
    assert "No broken requirements" in command(bare, "-m", "pip", "check")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "needs"),
    [("torch", "torch"), ("jax", "jax"), ("plot", "matplotlib"), ("hub", "huggingface_hub")],
)
def test_without_an_extra_the_import_names_what_is_missing(
    bare: Path, tmp_path: Path, module: str, needs: str
) -> None:
    code = (
        f"try:\n    import hyperloom.{module}\n"
        "except ModuleNotFoundError as error:\n    print(error.name)"
    )
    found = command(bare, "-c", code, cwd=tmp_path).strip()
    assert found.partition(".")[0] in {needs, "flax"}


@pytest.mark.slow
def test_the_command_says_what_it_needs(bare: Path) -> None:
    done = subprocess.run([bare.parent / "hyperloom"], capture_output=True, text=True)
    assert done.returncode == 1
    assert 'pip install "hyperloom[demo]"' in done.stderr


@pytest.mark.slow
def test_the_first_block_of_the_readme_runs_on_the_wheel(bare: Path, tmp_path: Path) -> None:
    """With the frameworks of the environment that the tests run in."""
    readme = (ROOT / "README.md").read_text("utf-8")
    block = readme.partition("```python\n")[2].partition("```")[0]
    block += "\nassert y.shape == (5, 16, 10)\nprint(hl.__file__)"
    import torch

    beside = Path(torch.__file__).parents[1]
    found = command(bare, "-c", block, cwd=tmp_path, PYTHONPATH=str(beside))
    assert Path(found.strip()).is_relative_to(bare.parents[1])


@pytest.mark.slow
def test_the_sdist_installs(built: Path, bare: Path, tmp_path: Path) -> None:
    archive = next(built.glob("*.tar.gz"))
    pip = (bare, "-m", "pip", "install", "-q", "--disable-pip-version-check")
    command(*pip, "--no-deps", "--force-reinstall", archive)
    code = "import hyperloom; print(hyperloom.__version__)"
    assert command(bare, "-c", code, cwd=tmp_path).strip() == VERSION


def test_the_citation_is_of_this_version() -> None:
    assert f"\nversion: {VERSION}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
