"""Tries other versions of Python and of the frameworks: a small part of the tests in each.

    python -m tests.versions torch==2.14.1                      # this Python
    python -m tests.versions --python python3.13 jax==0.12.0    # another
    python -m tests.versions --env FOLDER torch                 # an environment that is there

makes a bare environment, installs the version that is asked for and this checkout beside it, as a
user would, runs the tests there, and puts a row into docs/reports/versions.json and its page.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reports" / "versions.md"
ROWS = PAGE.with_suffix(".json")
START, END = "<!-- rows -->\n", "<!-- /rows -->\n"
SHOWN = ("torch", "jax", "flax", "numpy")
PARTS = {
    "torch": [
        "tests/core",
        "tests/on_torch/test_batch_equals_loop.py",
        "tests/on_torch/test_checkpoint.py",
        "tests/on_torch/test_generate.py",
        "tests/on_torch/test_rows_rules.py",
        "tests/on_torch/test_strategies.py",
        "tests/on_torch/test_usual_modules.py",
    ],
    "jax": [
        "tests/core",
        "tests/on_jax/test_batch_equals_loop.py",
        "tests/on_jax/test_construction.py",
        "tests/on_jax/test_linen.py",
        "tests/on_jax/test_state.py",
        "tests/on_jax/test_transforms.py",
    ],
}
_FOUND = """
import json, platform
from importlib.metadata import PackageNotFoundError, version
found = {"python": platform.python_version()}
for name in %r:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def said(python: str | Path, *arguments: str) -> str:
    """Return what an interpreter prints; its output is shown and the program ends if it fails."""
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), *arguments], cwd=ROOT, env=bare, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout


def made(folder: Path, python: str, wanted: str) -> Path:
    """Return the interpreter of an environment with one version of a framework in it."""
    own = folder / "bin" / "python"
    if not own.exists():
        said(python, "-m", "venv", str(folder))
        # The framework comes first and alone: what follows takes it as it is.
        said(own, "-m", "pip", "install", "-q", wanted)
    return own


def tried(own: Path, backend: str) -> dict[str, str]:
    """Install the checkout with an extra, and run its part of the tests: a row of the report."""
    pip = ("-m", "pip", "install", "-q", "--disable-pip-version-check")
    said(own, *pip, f".[{backend}]", "pytest>=9", "hypothesis", "optax")
    said(own, *pip, "--no-deps", "--force-reinstall", ".")
    arguments = ("-m", "pytest", "-q", "-p", "no:cacheprovider", *PARTS[backend])
    last = said(own, *arguments).splitlines()[-1]
    found: dict[str, str] = json.loads(said(own, "-c", _FOUND % (SHOWN,)))
    return {**found, "backend": backend, "tests": last.partition(" in ")[0]}


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as Markdown."""
    columns = ("python", *SHOWN)
    lines = ["| Python | torch | JAX | Flax | numpy | tests |", "|---|---|---|---|---|---|"]
    lines += [
        "| " + " | ".join([*(row.get(name, "") for name in columns), row["tests"]]) + " |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def written(row: dict[str, str]) -> None:
    """Put a row into the report, in the place of one of the same versions."""
    rows: list[dict[str, str]] = json.loads(ROWS.read_text("utf-8")) if ROWS.exists() else []
    key = ("backend", "python", row["backend"])
    rows = [other for other in rows if any(other.get(k) != row.get(k) for k in key)] + [row]
    rows.sort(key=lambda r: (r["backend"] != "torch", *(_number(r.get(k, "")) for k in key)))
    ROWS.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    before, _, rest = PAGE.read_text("utf-8").partition(START)
    after = rest.partition(END)[2]
    PAGE.write_text(before + START + table(rows) + END + after, "utf-8")


def _number(version: str) -> list[int]:
    return [int(part) for part in version.partition("+")[0].split(".") if part.isdigit()]


def main() -> None:
    """Read the command line, try, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.versions", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("wanted", help="torch or jax, with a version: torch==2.14.1")
    parser.add_argument("--python", default=sys.executable, help="the interpreter")
    parser.add_argument("--env", type=Path, help="an environment to use, or to make and keep")
    asked = parser.parse_args()
    backend = asked.wanted.partition("=")[0]
    with tempfile.TemporaryDirectory() as bare:
        row = tried(made(asked.env or Path(bare), asked.python, asked.wanted), backend)
    written(row)
    print(row)


if __name__ == "__main__":
    main()
