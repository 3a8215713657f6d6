"""The command line: `hyperloom demo`, `hyperloom inspect`, and what they say when they cannot."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn
from typer.testing import CliRunner, Result

import hyperloom
import hyperloom.torch as hl
from hyperloom import _cli
from hyperloom.recipes._frame import listed
from hyperloom.recipes._frame.listed import RECIPES
from hyperloom.recipes._frame.run import Run
from hyperloom.recipes.continual import Record, split_digits
from hyperloom.recipes.continual import demo as digits_demo
from hyperloom.recipes.continual.torch import digits_network

FILES = {
    "accuracy.png",
    "weights.png",
    "conditions.png",
    "hypernetwork.safetensors",
    "numbers.json",
}


def run(*arguments: object, env: Mapping[str, str] | None = None) -> Result:
    return CliRunner().invoke(_cli.build_app(), [str(a) for a in arguments], env=env)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    target = nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 2))
    hnet = hl.HyperNetwork(
        target,
        condition=hl.Embedding(5, 4),
        trunk=hl.MLP(6),
        layout=hl.Chunked(32, embedding=4),
    )
    path = tmp_path_factory.mktemp("saved") / "five.safetensors"
    hl.save(hnet, path)
    return path


# ---- inspect ---------------------------------------------------------------------------------


def test_inspect_prints_the_plan_and_the_sizes(checkpoint: Path) -> None:
    done = run("inspect", checkpoint)
    assert done.exit_code == 0
    assert done.stderr == ""
    plan = hl.load(checkpoint, nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 2))).plan
    assert str(plan) in done.stdout
    # 112 numbers in the target; 20 in the embeddings, 54 in the trunk, 32 x 7 in the head and 4 x 4
    # in its slots; the file has a scale and a shift for each of 4 tensors besides.
    assert plan.num_parameters == 314
    sizes = {line[:22].strip(): line[22:].strip() for line in done.stdout.splitlines()}
    assert sizes["tensors in the file"] == "7, 322 numbers, F32"
    assert sizes["parameters"] == "314, 1.26 kB in float32"
    assert sizes["target"] == "Sequential, 112 numbers"
    assert sizes["generated"] == "112 numbers for each condition"
    assert sizes["for 1 condition"] == "448 B"
    assert sizes["for 100 conditions"] == "44.8 kB"
    assert sizes["compression"] == "2.8 x one target, 0.561 x 5 targets, one for each id"
    assert f"by hyperloom {hyperloom.__version__}" in sizes["file"]


def test_inspect_counts_bytes_in_the_dtype_of_the_target(tmp_path: Path) -> None:
    path = tmp_path / "double.safetensors"
    hl.save(hl.HyperNetwork(nn.Linear(3, 2).double(), condition=hl.Vector(2)), path)
    out = run("inspect", path).stdout
    assert "64 B" in out
    assert "F64" in out
    assert "for each id" not in out


def test_inspect_imports_neither_torch_nor_jax(checkpoint: Path) -> None:
    code = (
        "import sys\n"
        "from hyperloom._cli import main\n"
        f"sys.argv = ['hyperloom', 'inspect', {str(checkpoint)!r}]\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code\n"
        "print('LOADED', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.partition("LOADED")[2].split())
    assert "hyperloom._core.checkpoint.file" in loaded
    assert not loaded & {"torch", "jax", "flax", "hyperloom.torch"}


@pytest.mark.parametrize("kept", [4, 100, -1])
def test_inspect_of_a_cut_file_says_so(checkpoint: Path, tmp_path: Path, kept: int) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(checkpoint.read_bytes()[:kept])
    done = run("inspect", cut)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"hyperloom: checkpoint {cut}: got a file of ")
    assert "cut" in done.stderr
    assert "Copy it again" in done.stderr


def test_inspect_of_a_missing_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "none.safetensors"
    done = run("inspect", path)
    assert done.exit_code == 1
    wanted = "got no such file or directory; wanted a file that save() wrote."
    assert done.stderr == f"hyperloom: checkpoint {path}: {wanted}\n"


def test_inspect_of_a_folder_says_so(tmp_path: Path) -> None:
    done = run("inspect", tmp_path)
    assert done.exit_code == 1
    assert "is a directory" in done.stderr


def test_inspect_of_plain_weights_says_so(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "plain.safetensors"
    save_file({"weight": torch.ones(2)}, path)
    done = run("inspect", path)
    assert done.exit_code == 1
    assert "no description of a hypernetwork" in done.stderr


def test_an_error_has_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from hyperloom._cli import main; main()", "inspect", "x.st"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


# ---- demo ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("demo") / "made" / "here"
    return out, run(
        "demo", "digits", "--out", out, "--steps", 12, "--seed", 1, env={"COLUMNS": "80"}
    )


def test_the_demo_writes_all_its_files(demo: tuple[Path, Result]) -> None:
    out, done = demo
    assert done.exit_code == 0, done.output
    assert {path.name for path in out.iterdir()} == FILES
    for path in out.glob("*.png"):
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) > 20_000


def test_the_demo_says_what_came_out_and_what_to_do_next(demo: tuple[Path, Result]) -> None:
    out, done = demo
    for name in ("hypernetwork, unprotected", "fine-tuning", "separate networks", *FILES):
        assert name in done.stdout
    assert "run again: the same predictions on every test image" in done.stdout
    assert f"hyperloom inspect {out / 'hypernetwork.safetensors'}" in done.stdout
    ours = [line for line in done.stdout.splitlines() if str(out) not in line]
    assert [line for line in ours if len(line) > 80] == []


def test_the_numbers_of_the_demo_are_complete(demo: tuple[Path, Result]) -> None:
    numbers = json.loads((demo[0] / "numbers.json").read_text("utf-8"))
    assert numbers["training"]["steps"] == 12
    assert numbers["training"]["seed"] == 1
    assert numbers["tasks"] == ["0/1", "2/3", "4/5", "6/7", "8/9"]
    assert numbers["versions"]["hyperloom"] == hyperloom.__version__
    assert numbers["versions"]["torch"] == torch.__version__
    assert numbers["checkpoint"]["same_predictions_when_loaded"] is True
    assert numbers["seconds"] > 0
    assert len(numbers["learners"]) == 4
    for learner in numbers["learners"].values():
        assert len(learner["final"]) == 5
        assert learner["over_time"]["tasks_learned"][-1] == 5
    assert str(demo[0]) not in json.dumps(numbers)


def test_the_checkpoint_of_the_demo_does_what_the_numbers_say(demo: tuple[Path, Result]) -> None:
    out, _ = demo
    hnet = hl.load(out / "hypernetwork.safetensors", digits_network())
    numbers = json.loads((out / "numbers.json").read_text("utf-8"))
    final = numbers["learners"]["hypernetwork"]["final"]
    for i, task in enumerate(split_digits()):
        network = hnet.instantiate(i)
        said = network(torch.from_numpy(task.test.inputs)).argmax(-1).numpy()
        assert 100 * (said == task.test.targets).mean() == pytest.approx(final[i], abs=1e-3)


def test_the_demo_fails_if_the_checkpoint_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digits_demo, "_proof", lambda *_: False)
    monkeypatch.setattr(digits_demo, "plots", type("NoPlots", (), {"__getattr__": _nothing})())
    done = run("demo", "digits", "--out", tmp_path, "--steps", 1)
    assert done.exit_code == 1
    assert "OTHER predictions" in done.stdout
    numbers = json.loads((tmp_path / "numbers.json").read_text("utf-8"))
    assert numbers["checkpoint"]["same_predictions_when_loaded"] is False


def _nothing(self: object, name: str) -> object:
    return lambda *_: None


def test_the_demo_says_that_it_cannot_write(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file")
    done = run("demo", "digits", "--out", taken)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"hyperloom: --out: got {taken} (")
    assert "hyperloom demo digits --out DIR" in done.stderr
    assert taken.read_text() == "a file"


@pytest.mark.parametrize(
    ("final", "verdict"),
    [(99.5, "end: within 1 point."), (98.0, "than 1 point lost")],
)
def test_the_demo_tells_whether_the_hypernetwork_forgot(final: float, verdict: str) -> None:
    names = ("hypernetwork", "fine-tuning", "separate networks")
    record = Record(("a", "b"), [1, 2], [[100.0], [2 * final - 100, 100.0]], 1.0, 10)
    console = Console(file=io.StringIO(), record=True, width=80)
    digits_demo._conclude(Run("digits", Path("out"), console), dict.fromkeys(names, record), True)
    text = console.export_text()
    assert f"- Hypernetwork: 100.0 % right after, {final:.1f} % at the end: " in text
    assert verdict in text
    assert f"{100 - final:.1f} points lost" in text


@pytest.mark.parametrize("bad", [("--steps", "0"), ("--seed", "-1"), ("--nothing",)])
def test_bad_options_are_refused(bad: tuple[str, ...], tmp_path: Path) -> None:
    done = run("demo", "digits", "--out", tmp_path / "out", *bad)
    assert done.exit_code == 2
    assert bad[0] in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_demo_without_a_name_lists_the_recipes() -> None:
    done = run("demo")
    assert done.exit_code == 0
    for recipe in RECIPES:
        assert f"  {recipe.name} " in done.stdout
        assert recipe.what in done.stdout
        assert len(recipe.what) < 70


def test_an_unknown_recipe_is_refused() -> None:
    done = run("demo", "federate")
    assert done.exit_code == 1
    said, _, others = done.stderr.partition("'federated'")
    assert said == "hyperloom: name: got 'federate'; wanted the name of a recipe. Did you mean "
    assert others.endswith("? `hyperloom demo` lists them.\n")


def test_a_backend_that_a_recipe_has_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listed, "RECIPES", (listed.Recipe("digits", "", ("torch",)),))
    done = run("demo", "digits", "--backend", "jax")
    assert done.exit_code == 1
    wanted = "got jax; wanted torch, what digits is written for."
    assert done.stderr == f"hyperloom: --backend: {wanted}\n"


def test_data_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "none.csv"
    done = run("demo", "digits", "--data", path)
    assert done.exit_code == 1
    assert f"--data: got {path}, which is no file; wanted the path of a file." in done.stderr


# ---- the rest --------------------------------------------------------------------------------


def test_version() -> None:
    done = run("--version")
    assert done.exit_code == 0
    assert done.stdout == f"hyperloom {hyperloom.__version__}\n"


def test_help_names_both_commands() -> None:
    done = run("--help")
    assert done.exit_code == 0
    assert "demo" in done.stdout
    assert "inspect" in done.stdout


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_a_command_line_without_its_packages_says_how_to_get_them(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"{package}.console", raising=False)
    with pytest.raises(SystemExit) as done:
        _cli.main()
    assert done.value.code == 1
    text = capsys.readouterr().err
    assert package in text
    assert 'pip install "hyperloom[demo]"' in text


@pytest.mark.parametrize("package", ["matplotlib", "sklearn", "torch"])
def test_a_demo_without_its_packages_says_how_to_get_them(package: str, tmp_path: Path) -> None:
    code = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
sys.argv = ["hyperloom", "demo", "digits", "--out", {str(tmp_path / "out")!r}]
from hyperloom._cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert package in done.stderr
    assert 'pip install "hyperloom[demo]"' in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


# ---- plot ------------------------------------------------------------------------------------


def test_plot_writes_its_pictures_without_a_framework(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "here"
    code = (
        "import sys\n"
        "from hyperloom._cli import main\n"
        f"sys.argv = ['hyperloom', 'plot', {str(checkpoint)!r}, '--out', {str(out)!r}]\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code\n"
        "assert not {'torch', 'jax'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    pictures = ["plan.svg", "conditions.png", "similarity.png", "weights.png", "tensor.png"]
    assert {path.name for path in out.iterdir()} == {*pictures, "path.gif"}
    assert all(name in done.stdout for name in pictures)


def test_plot_says_what_it_cannot(checkpoint: Path, tmp_path: Path) -> None:
    done = run("plot", tmp_path / "none.safetensors")
    assert done.exit_code == 1
    assert "got no such file or directory" in done.stderr
    done = run("plot", checkpoint, "--out", tmp_path, "--tensor", "0.wieght")
    assert done.exit_code == 1
    assert done.stderr.startswith("hyperloom: name: got '0.wieght'; wanted the name of a generated")
    done = run("plot", checkpoint, "--out", checkpoint)
    assert done.exit_code == 1
    assert "hyperloom plot FILE --out DIR" in done.stderr


def test_inspect_names_conditions_fingerprint_and_versions(
    checkpoint: Path, tmp_path: Path
) -> None:
    out = run("inspect", checkpoint).stdout
    assert "Embedding(5, 4), 5 ids" in out
    assert f"read by hyperloom {hyperloom.__version__}" in out
    assert "of the plan and all values" in out
    frozen = hl.HyperNetwork(nn.Linear(3, 2), condition=hl.Vector(2), form={"weight": hl.LoRA(1)})
    for with_base, said in ((False, "not in the file"), (True, "in the file")):
        path = tmp_path / f"{with_base}.safetensors"
        hl.save(frozen, path, with_base=with_base)
        assert said in run("inspect", path).stdout
