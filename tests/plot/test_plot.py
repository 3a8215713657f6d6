"""Figures show the numbers that they are of."""

from __future__ import annotations

import io
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

import hyperloom.torch as hl
from hyperloom import plot
from hyperloom.plot._draw.saved import Live, read_saved, saved


def target() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))


def embedded(**choices: Any) -> hl.HyperNetwork:
    torch.manual_seed(0)
    chosen: dict[str, Any] = {"condition": hl.Embedding(4, 3), "trunk": hl.MLP(6), **choices}
    return hl.HyperNetwork(target(), **chosen)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plot") / "four.safetensors"
    hl.save(embedded(layout=hl.Chunked(10, embedding=3)), path)
    return path


def points(figure: Figure) -> np.ndarray:
    return np.asarray(figure.axes[0].collections[0].get_offsets())


@pytest.mark.parametrize(
    "layout",
    [
        hl.Full(),
        hl.Chunked(10, embedding=3),
        hl.Grouped(),
        {"0.*": hl.PerCondition(), "*": hl.Full()},
    ],
    ids=str,
)
def test_a_file_is_drawn_as_its_hypernetwork(layout: Any, tmp_path: Path) -> None:
    hnet = embedded(layout=layout)
    hl.save(hnet, tmp_path / "x.safetensors")
    live, read = Live(hnet), read_saved(tmp_path / "x.safetensors")
    np.testing.assert_allclose(read.encode(range(4)), live.encode(range(4)), rtol=1e-6)
    made = read.generate(range(4))
    assert made.keys() == live.generate(range(4)).keys()
    for name, value in live.generate(range(4)).items():
        np.testing.assert_allclose(made[name], value, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        points(plot.conditions(tmp_path / "x.safetensors")),
        points(plot.conditions(hnet)),
        atol=1e-5,
    )


def test_the_map_keeps_distances_of_conditions_in_a_plane() -> None:
    hnet = embedded(condition=hl.Vector(5))
    flat = np.random.RandomState(0).normal(size=(6, 2)) @ np.eye(2, 5)
    figure = plot.conditions(hnet, torch.tensor(flat, dtype=torch.float32), labels=list("abcdef"))
    places = points(figure)
    apart = np.linalg.norm(places[:, None] - places, axis=-1)
    np.testing.assert_allclose(apart, np.linalg.norm(flat[:, None] - flat, axis=-1), rtol=1e-4)
    assert [text.get_text() for text in figure.axes[0].texts] == list("abcdef")


def test_a_notebook_shows_a_figure_as_it_is_without_pyplot() -> None:
    with Image.open(io.BytesIO(plot.conditions(embedded())._repr_png_())) as shown:  # type: ignore[attr-defined]
        assert (shown.format, shown.size) == ("PNG", (480, 432))


@pytest.mark.skipif(find_spec("umap") is None, reason="umap-learn is not installed")
def test_the_map_of_umap_has_who_is_near_whom_beside_the_plane() -> None:
    """Three clouds far from each other: a point's neighbours are those of its cloud."""
    hnet = embedded(condition=hl.Vector(5))
    clouds = np.repeat(10 * np.eye(3, 5), 8, 0) + np.random.RandomState(0).normal(size=(24, 5))
    flat = torch.tensor(clouds, dtype=torch.float32)
    figure = plot.conditions(hnet, flat)
    assert len(figure.axes) == 2
    places = np.asarray(figure.axes[1].collections[0].get_offsets())
    apart = np.linalg.norm(places[:, None] - places, axis=-1) + np.diag([np.inf] * 24)
    assert (apart.argmin(1) // 8 == np.arange(24) // 8).all()
    again = plot.conditions(hnet, flat).axes[1].collections[0].get_offsets()
    np.testing.assert_array_equal(places, again)
    assert len(plot.conditions(hnet, flat, umap=False).axes) == 1
    assert len(plot.conditions(hnet, flat[:15]).axes) == 1
    assert len(plot.conditions(hnet, flat[:4], umap=True).axes) == 2
    assert refusal(ValueError, plot.conditions, hnet, flat[:3], umap=True) == (
        "conditions: got 3 conditions; wanted 4 or more."
    )


@pytest.mark.skipif(find_spec("umap") is not None, reason="umap-learn is installed")
def test_without_umap_the_map_is_the_plane_and_asking_for_more_is_refused() -> None:
    hnet = embedded(condition=hl.Vector(5))
    assert len(plot.conditions(hnet, torch.randn(16, 5)).axes) == 1
    assert refusal(ModuleNotFoundError, plot.conditions, hnet, torch.randn(16, 5), umap=True) == (
        'umap: got True; wanted umap-learn installed. pip install "hyperloom[umap]"; or leave it '
        "out for PCA alone."
    )


def test_similarity_is_the_cosine_of_what_differs() -> None:
    hnet = embedded()
    figure = plot.similarity(hnet)
    flat = hl.flatten(hnet.generate(range(4)), hnet.plan).detach()
    wanted = torch.cosine_similarity(
        (flat - flat.mean(0))[:, None], (flat - flat.mean(0))[None], dim=-1
    )
    shown = np.asarray(figure.axes[0].images[0].get_array())
    np.testing.assert_allclose(shown, wanted, atol=1e-5)


def test_a_tensor_is_an_image_for_each_condition() -> None:
    hnet = embedded()
    figure = plot.tensor(hnet, "0.weight", [2, 0])
    first = np.asarray(figure.axes[0].images[0].get_array())
    np.testing.assert_allclose(first, hnet.generate(2)["0.weight"].detach(), rtol=1e-6)
    assert [axes.get_title() for axes in figure.axes[:2]] == ["2", "0"]


def test_weights_stand_beside_the_target_s_own(file: Path) -> None:
    figure = plot.weights(file, native=dict(target().named_parameters()))
    assert len(figure.axes) == 8  # a histogram and a spectrum for each of four tensors
    lines = figure.axes[1].lines
    assert len(lines) == 4 + 1
    hnet = hl.load(file, target())
    wanted = torch.linalg.svdvals(hnet.generate(0)["0.weight"].detach())
    np.testing.assert_allclose(np.asarray(lines[0].get_ydata()), wanted, rtol=1e-4)


@pytest.mark.parametrize("layout", [hl.Full(), hl.PerCondition()], ids=str)
def test_a_path_begins_and_ends_at_its_conditions(layout: Any) -> None:
    hnet = embedded(layout=layout)
    between = saved(hnet).between(1, 3, 5).generate(range(5))
    for name, value in hnet.generate([1, 3]).items():
        np.testing.assert_allclose(between[name][[0, -1]], value.detach(), rtol=1e-4, atol=1e-6)


def test_a_path_is_a_gif_there_and_back(file: Path, tmp_path: Path) -> None:
    written = plot.path(file, "0.weight", 0, 2, tmp_path / "path.gif", frames=5)
    with Image.open(written) as picture:
        assert getattr(picture, "n_frames", 1) == 8
        assert picture.size == (4 * 48, 5 * 48)


def test_layers_of_a_report() -> None:
    report = embedded().doctor(torch.randn(4, 6, 4), condition=range(4))
    figure = plot.layers(report)
    heights = [bar.get_height() for bar in figure.axes[0].containers[0]]
    assert heights == [x.activation for x in report.readings.layers]


def test_curves_of_readings() -> None:
    hnet = embedded()
    history = [hl.readings(hnet, range(4)) for _ in range(3)]
    figure = plot.curves(history, steps=[0, 10, 20])
    titles = [axes.get_title("left") for axes in figure.axes]
    assert titles == ["parameters", "generated", "spread"]
    assert np.asarray(figure.axes[0].lines[0].get_xdata()).tolist() == [0, 10, 20]


def test_a_hypernetwork_of_jax_is_drawn_alike() -> None:
    nnx = pytest.importorskip("flax.nnx")
    hj = pytest.importorskip("hyperloom.jax")
    hnet = hj.HyperNetwork(
        nnx.Linear(3, 2, rngs=nnx.Rngs(0)), condition=hj.Embedding(3, 4), rngs=nnx.Rngs(1)
    )
    made = saved(hnet).generate(range(3))
    for name, value in hnet.generate([0, 1, 2]).items():
        np.testing.assert_allclose(made[name], value, rtol=1e-4, atol=1e-6)
    assert len(points(plot.conditions(hnet))) == 3


def refusal(kind: type[Exception], function: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(kind) as refused:
        function(*arguments, **options)
    return str(refused.value)


def test_what_cannot_be_drawn_is_refused(file: Path, tmp_path: Path) -> None:
    hnet = embedded()
    assert refusal(TypeError, plot.conditions, 3) == (
        "hnet: got 3; wanted a HyperNetwork, or the path of a checkpoint."
    )
    assert refusal(ValueError, plot.conditions, embedded(condition=hl.Vector(2))) == (
        "conditions: got none, and Vector(2) has no ids; wanted a batch of conditions."
    )
    assert refusal(ValueError, plot.similarity, hnet, [1]) == (
        "conditions: got 1 condition; wanted two or more."
    )
    assert refusal(ValueError, plot.conditions, hnet, labels=["a"]) == (
        "labels: got 1 labels; wanted 4, one a condition."
    )
    assert refusal(ValueError, plot.tensor, hnet, "0.wieght").startswith(
        "name: got '0.wieght'; wanted the name of a generated tensor. Did you mean '0.weight'"
    )
    assert refusal(ValueError, plot.path, file, "0.weight", 0, 1, tmp_path / "x.png") == (
        f"file: got {str(tmp_path / 'x.png')!r}; wanted a name that ends in .gif."
    )
    assert refusal(TypeError, plot.layers, 3) == (
        "report: got 3; wanted what hnet.doctor(...) returned."
    )
    assert refusal(ValueError, plot.curves, []) == (
        "history: got no readings; wanted a dict of hl.readings for each time."
    )
    lora = embedded(form={"*.weight": hl.LoRA(1)})
    hl.save(lora, tmp_path / "lora.safetensors")
    assert refusal(ValueError, plot.similarity, tmp_path / "lora.safetensors") == (
        "checkpoint: got a file without the base of '0.weight'; wanted one with it. "
        "save(hnet, path, with_base=True) writes it."
    )


def test_nothing_of_a_window_or_of_a_framework_is_imported(file: Path) -> None:
    code = (
        "import sys\nfrom hyperloom import plot\n"
        f"plot.similarity({str(file)!r})\n"
        "assert not {'matplotlib.pyplot', 'torch', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
