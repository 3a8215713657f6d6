"""hyper-nn's README, read as text: every Python block is run, with only its imports changed.

HYPERLOOM_HYPERNN_README names a file with the README of hyper-nn's repository. Without it the text
is the one that the release brings along: its two excerpts are the same, but its scripts are those
of another version, so these are run as they are written out in TRANSCRIBED.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import textwrap
import typing
from collections import Counter
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from hyperloom.compat.hypernn import jax as jax_door
from hyperloom.compat.hypernn import torch as torch_door
from hyperloom.compat.hypernn.jax.hypernet import create_param_tree
from tests.compat import test_hypernn_jax, test_hypernn_torch_readme

pytest.importorskip("hypernn")

# The two excerpts show what the library's own class looks like, without its head.
EXCERPTS = ("torch class", "flax class")
SCRIPTS = ("torch usage", "flax usage", "custom torch class", "torch vmap")
NAMES = (*EXCERPTS, *SCRIPTS)  # in the README's order
TRANSCRIBED = {
    "torch usage": test_hypernn_torch_readme.test_usage,
    "flax usage": test_hypernn_jax.test_usage,
    "custom torch class": test_hypernn_torch_readme.test_customizing,
    "torch vmap": test_hypernn_torch_readme.test_vmap_for_batches,
}
PATH = os.environ.get("HYPERLOOM_HYPERNN_README")


def blocks() -> dict[str, str]:
    release: Any = metadata("hyper-nn")
    text = Path(PATH).read_text() if PATH else release.get_payload()
    found = re.findall(r"```python\n(.*?)```", str(text), re.DOTALL)
    assert len(found) == len(NAMES)  # none is left out
    return dict(zip(NAMES, found, strict=True))


BLOCKS = blocks()


def moved(code: str) -> str:
    """Change the imports, and nothing else."""
    lines = []
    for line in code.splitlines():
        if line.startswith(("import ", "from ")):
            line = line.replace("from hypernn.", "from hyperloom.compat.hypernn.")
            line = line.replace("from functorch import", "from torch.func import")
        lines.append(line)
    return "\n".join(lines)


def run(code: str, **names: Any) -> dict[str, Any]:
    space: dict[str, Any] = {"__name__": "readme", **names}
    exec(compile(code, "README", "exec"), space)
    return space


def calls(code: str) -> Counter[str]:
    """Count the statements' calls by name: layout, annotations and imports left out."""
    made = Counter()
    for node in ast.walk(ast.parse(textwrap.dedent(code))):
        if isinstance(node, ast.Call):
            options = sorted(str(keyword.arg) for keyword in node.keywords)
            made[f"{ast.unparse(node.func)}({len(node.args)}, {options})"] += 1
    return made


def test_every_script_is_run_as_transcribed_too() -> None:
    """By default the four scripts are tests of their own; their names are those of tests."""
    assert set(TRANSCRIBED) == set(SCRIPTS)
    for name, function in TRANSCRIBED.items():
        assert function.__name__.startswith("test_")
        if PATH:
            lacking = calls(BLOCKS[name]) - calls(inspect.getsource(function))
            assert not lacking, f"{name}: {lacking}"


@pytest.mark.skipif(PATH is None, reason="HYPERLOOM_HYPERNN_README does not name the README")
@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts(name: str) -> None:
    # One block uses torch and does not import it.
    space = run(moved(BLOCKS[name]), torch=torch)
    last = space[next(key for key in ("outputs", "output", "out") if key in space)]
    assert last.shape == ((10, 1, 32) if "vmap" in name else (1, 32))
    assert bool(np.isfinite(np.asarray(last.detach() if "torch" in name else last)).all())


def excerpt(name: str, base: type, **names: Any) -> Any:
    """Return a subclass whose body is the excerpt."""
    lines = [line for line in BLOCKS[name].splitlines() if line.strip() != "..."]
    body = textwrap.indent(textwrap.dedent("\n".join(lines)), "    ")
    space = run(f"class Readme(Base):\n{body}", Base=base, **vars(typing), **names)
    return space["Readme"]


def test_the_torch_class_as_the_readme_has_it() -> None:
    made = excerpt("torch class", torch_door.TorchHyperNetwork, torch=torch, nn=torch.nn)
    target = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 4))
    options: dict[str, Any] = {"embedding_dim": 3, "num_embeddings": 4}
    theirs = made.from_target(target, **options)
    ours = torch_door.TorchHyperNetwork.from_target(target, **options)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(7, 6)
    output, flat, aux = theirs(x, has_aux=True)
    torch.testing.assert_close(output, ours(x))
    torch.testing.assert_close(theirs(x, generated_params=flat), output)
    assert list(aux) == ["embedding"]
    defined = set(vars(made)) - {"__module__", "__doc__", "__qualname__"}
    assert len(defined) == 5


def test_the_flax_class_as_the_readme_has_it() -> None:
    made = excerpt(
        "flax class",
        jax_door.JaxHyperNetwork,
        jax=jax,
        jnp=jnp,
        nn=flax.linen,
        create_param_tree=create_param_tree,
    )
    target = flax.linen.Sequential([flax.linen.Dense(5), flax.linen.tanh, flax.linen.Dense(4)])
    options: dict[str, Any] = {"num_embeddings": 4, "inputs": jnp.zeros((1, 6))}
    theirs = made.from_target(target, **options)
    ours: Any = jax_door.JaxHyperNetwork.from_target(target, **options)
    x = jax.random.normal(jax.random.key(1), (7, 6))
    params = theirs.init(jax.random.key(0), x)
    output, flat, aux = theirs.apply(params, x, has_aux=True)
    np.testing.assert_allclose(output, ours.apply(params, x), atol=1e-6)
    again = theirs.apply(params, x, generated_params=flat)
    np.testing.assert_allclose(again, output, atol=1e-6)
    assert list(aux) == ["embedding"]


def defined(code: str) -> set[str]:
    tree = ast.parse(textwrap.dedent("\n".join(x for x in code.splitlines() if x.strip() != "...")))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_class_and_method_has_a_counterpart() -> None:
    for name, door in zip(
        EXCERPTS, (torch_door.TorchHyperNetwork, jax_door.JaxHyperNetwork), strict=True
    ):
        methods = defined(BLOCKS[name])
        assert len(methods) == 5
        assert {method for method in methods if method not in vars(door)} == set()
    for door, backend in ((torch_door, "torch"), (jax_door, "jax")):
        theirs = pytest.importorskip(f"hypernn.{backend}")
        classes: list[tuple[str, Any]] = inspect.getmembers(theirs, inspect.isclass)
        for name, kind in classes:
            if not kind.__module__.startswith("hypernn."):
                continue
            ours = getattr(door, name)
            lacking = {
                member
                for member, value in vars(kind).items()
                if not member.startswith("_") and callable(getattr(kind, member, value))
            } - {member for parent in ours.__mro__ for member in vars(parent)}
            # Where release and README differ, the README: modules are made in the constructor.
            assert lacking - {"setup"} == set(), name
            if "HyperNetwork" in name:
                assert arguments(kind) - arguments(ours) == set(), name


def arguments(kind: Any) -> set[str]:
    """Return the arguments that `from_target` takes, those of the class and its bases included."""
    made = set(inspect.signature(kind.from_target).parameters)
    for parent in kind.__mro__:
        if parent.__module__.startswith(("hypernn.", "hyperloom.")):
            made |= set(inspect.signature(parent).parameters)
    return made
