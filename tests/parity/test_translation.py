"""The same network in PyTorch, NNX and Linen: one checkpoint, the same outputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as fnn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

import hyperloom.jax as hj
import hyperloom.torch as ht
from hyperloom import translate
from tests._support import compare

IDS = [0, 2]


# ---- three networks, each in several frameworks -------------------------------------------------


def torch_mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 2))


def nnx_mlp() -> Any:
    rngs = nnx.Rngs(0)
    norm = nnx.LayerNorm(8, epsilon=1e-5, rngs=rngs)
    return nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), jnp.tanh, norm, nnx.Linear(8, 2, rngs=rngs))


class LinenMLP(fnn.Module):
    @fnn.compact
    def __call__(self, x: Any) -> Any:
        x = fnn.LayerNorm(epsilon=1e-5)(jnp.tanh(fnn.Dense(8)(x)))
        return fnn.Dense(2)(x)


class TorchCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, 3, groups=2, padding=1)
        self.fc = nn.Linear(6, 3)
        self.norm.running_mean = torch.linspace(-1, 1, 6)
        self.norm.running_var = torch.linspace(0.5, 2, 6)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv1(x)).relu()
        return self.fc(self.conv2(x).relu().mean((-1, -2)))


class NNXCNN(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.conv1 = nnx.Conv(2, 6, (3, 3), padding="VALID", rngs=rngs)
        self.norm = nnx.BatchNorm(6, epsilon=1e-5, use_running_average=True, rngs=rngs)
        self.conv2 = nnx.Conv(6, 6, (3, 3), feature_group_count=2, padding=1, rngs=rngs)
        self.fc = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = jax.nn.relu(self.norm(self.conv1(x)))
        return self.fc(jax.nn.relu(self.conv2(x)).mean((-2, -3)))


class TorchLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 5, 2, batch_first=True)
        self.fc = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.lstm(x)[0])


class NNXLSTM(nnx.Module):
    def __init__(self, cell: Any) -> None:
        rngs = nnx.Rngs(0)
        self.first: Any = nnx.RNN(cell(3, 5, rngs=rngs), rngs=rngs)
        self.second: Any = nnx.RNN(cell(5, 5, rngs=rngs), rngs=rngs)
        self.fc = nnx.Linear(5, 2, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.fc(self.second(self.first(x)))


class LinenLSTM(fnn.Module):
    @fnn.compact
    def __call__(self, x: Any) -> Any:
        for _ in range(2):
            x = fnn.RNN(fnn.OptimizedLSTMCell(5))(x)
        return fnn.Dense(2)(x)


def _vectors() -> np.ndarray:
    return np.random.randn(5, 4).astype(np.float32)


def _images() -> np.ndarray:
    return np.random.randn(5, 6, 6, 2).astype(np.float32)


def _sequences() -> np.ndarray:
    return np.random.randn(4, 6, 3).astype(np.float32)


PAIRS: dict[str, tuple[Callable[[], Any], Callable[[], Any], Callable[[], np.ndarray]]] = {
    "mlp-nnx": (torch_mlp, nnx_mlp, _vectors),
    "mlp-linen": (torch_mlp, lambda: hj.Linen(LinenMLP(), jnp.ones((1, 4))), _vectors),
    "cnn-nnx": (TorchCNN, NNXCNN, _images),
    "lstm-nnx": (TorchLSTM, lambda: NNXLSTM(nnx.LSTMCell), _sequences),
    "lstm-nnx-joint": (TorchLSTM, lambda: NNXLSTM(nnx.OptimizedLSTMCell), _sequences),
    "lstm-linen": (TorchLSTM, lambda: hj.Linen(LinenLSTM(), jnp.ones((1, 2, 3))), _sequences),
}
SLOW = ("lstm-nnx-joint", "lstm-linen")  # seconds each to compile
EACH = [pytest.param(p, marks=pytest.mark.slow) if p in SLOW else p for p in PAIRS]
LAYOUT = {"chunked": ht.Chunked(13, 4), "full": ht.Full()}


def of_torch(hnet: Any, x: np.ndarray) -> np.ndarray:
    """Return the outputs for each condition; images are given channels first."""
    turned = torch.tensor(x if x.ndim < 4 else np.moveaxis(x, -1, 1))
    with torch.no_grad():
        # One by one: batches of nn.LSTM are another test's matter.
        return np.stack([hnet(turned, condition=i).numpy() for i in IDS])


def of_jax(hnet: Any, x: np.ndarray) -> np.ndarray:
    return np.asarray(hnet(jnp.asarray(x), condition=IDS, in_axes=None))


close = partial(compare.close, relative=False)


@pytest.mark.parametrize("pair", EACH)
def test_a_checkpoint_of_torch_runs_in_jax(pair: str, tmp_path: Path) -> None:
    theirs, ours, inputs = PAIRS[pair]
    choices: dict[str, Any] = {
        "condition": ht.Embedding(3, 4),
        "trunk": ht.MLP(6),
        "layout": LAYOUT["chunked"],
    }
    hnet = ht.HyperNetwork(theirs(), **choices)
    hnet.train(pair != "cnn-nnx")
    ht.save(hnet, tmp_path / "torch.safetensors")
    read = hj.load(tmp_path / "torch.safetensors", ours(), translate=True)
    assert read.plan == hnet.plan
    made, again = hnet.generate(IDS), read.generate(IDS)
    assert list(made) == list(again)
    for name, value in made.items():
        close(again[name], value.detach().numpy(), 1e-6)
    x = inputs()
    y = of_jax(read, x)
    close(y, of_torch(hnet, x), 1e-5)
    close(read.instantiate(2)(jnp.asarray(x)), y[1], 1e-5)
    # And back: nothing of the file is lost.
    hj.save(read, tmp_path / "jax.safetensors", with_base=True)
    back = ht.load(tmp_path / "jax.safetensors", theirs())
    state = hnet.state_dict()
    for name, value in back.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)


@pytest.mark.parametrize("pair", EACH)
def test_a_checkpoint_of_jax_runs_in_torch(pair: str, tmp_path: Path) -> None:
    theirs, ours, inputs = PAIRS[pair]
    hnet = hj.HyperNetwork(ours(), condition=hj.Embedding(3, 4), rngs=nnx.Rngs(0))
    hj.save(hnet, tmp_path / "jax.safetensors", with_base=True)
    read = ht.load(tmp_path / "jax.safetensors", theirs(), translate=True)
    read.train(pair != "cnn-nnx")
    assert read.plan == hnet.plan
    made, again = hnet.generate(IDS), read.generate(IDS)
    for name, value in made.items():
        close(again[name].detach().numpy(), value, 1e-6)
    x = inputs()
    close(of_torch(read, x), of_jax(hnet, x), 1e-5)


def test_the_comparison_sees_gates_in_the_wrong_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hyperloom._core.target import translate

    monkeypatch.setattr(translate, "_GATES", "igfo")
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        test_a_checkpoint_of_torch_runs_in_jax("lstm-nnx", tmp_path)


# ---- pairs that are given, and what is refused ---------------------------------------------------


class Named(nnx.Module):
    """Layers that are alike, under names that have no order."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.up = nnx.Linear(4, 4, rngs=rngs)
        self.down = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.down(jnp.tanh(self.up(x)))


def alike() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))


def test_pairs_that_cannot_be_told_are_asked_for(tmp_path: Path) -> None:
    hnet = ht.HyperNetwork(alike(), condition=ht.Embedding(3, 4))
    ht.save(hnet, tmp_path / "torch.safetensors")
    with pytest.raises(ValueError, match="which are all alike; wanted layers that names, sizes"):
        hj.load(tmp_path / "torch.safetensors", Named(), translate=True)
    names = {"up": "0", "down": "2"}
    read = hj.load(tmp_path / "torch.safetensors", Named(), translate=names)
    x = _vectors()
    close(of_jax(read, x), of_torch(hnet, x), 1e-5)
    swapped = hj.load(tmp_path / "torch.safetensors", Named(), translate={"up": "2", "down": "0"})
    assert np.abs(of_jax(swapped, x) - of_torch(hnet, x)).max() > 0.01


def test_single_tensors_can_be_paired() -> None:
    source, target = ht.target_spec(alike()), hj.target_spec(Named())
    by_layer = translate(source, target, {"up": "0", "down": "2"})
    tensors = ("up.kernel", "0.weight"), ("up.bias", "0.bias"), ("down.kernel", "2.weight")
    by_tensor = translate(source, target, {**dict(tensors), "down.bias": "2.bias"})
    assert by_tensor.recipes == by_layer.recipes


@pytest.mark.parametrize(
    ("make", "names", "shown"),
    [
        (lambda: nn.Linear(4, 2), {}, "translate: got 0 layers () for ('layers.0'"),
        (torch_mlp, {"layers.9": "0"}, "translate: got the name 'layers.9'; wanted a layer or"),
        (torch_mlp, {"layers.0": "1"}, "translate: got the name '1'; wanted a layer or tensor"),
        (
            torch_mlp,
            {"layers.0": "3", "layers.3": "0"},
            "translate: got '3.bias' of shape (2,) for 'layers.0.bias' of shape (8,)",
        ),
    ],
    ids=["another network", "unknown in the target", "unknown in the source", "other sizes"],
)
def test_what_does_not_match_is_refused(make: Any, names: dict[str, str], shown: str) -> None:
    with pytest.raises(ValueError, match="translate") as error:
        translate(ht.target_spec(make()), hj.target_spec(nnx_mlp()), names)
    assert str(error.value).startswith(shown)


def test_transposed_convolutions_are_refused() -> None:
    """Their kernels are also mirrored, which the order of axes does not say."""
    source = ht.target_spec(nn.ConvTranspose2d(2, 3, 3))
    target = hj.target_spec(nnx.ConvTranspose(2, 3, (3, 3), rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="a transposed convolution"):
        translate(source, target, {"": ""})


def test_a_recurrent_cell_with_other_gates_is_refused() -> None:
    target = hj.target_spec(nnx.GRUCell(3, 5, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="wanted an LSTM in one direction"):
        translate(ht.target_spec(nn.GRU(3, 5)), target)


def test_without_translation_the_names_are_refused(tmp_path: Path) -> None:
    hnet = ht.HyperNetwork(torch_mlp(), condition=ht.Embedding(3, 4))
    ht.save(hnet, tmp_path / "torch.safetensors")
    with pytest.raises(ht.CheckpointError, match="the parameters of another target"):
        hj.load(tmp_path / "torch.safetensors", nnx_mlp())


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_modes_reach_a_translated_target_in_torch(mode: str, tmp_path: Path) -> None:
    hnet = hj.HyperNetwork(NNXCNN(), condition=hj.Embedding(3, 4), rngs=nnx.Rngs(0))
    hj.save(hnet, tmp_path / "jax.safetensors", with_base=True)
    read = ht.load(tmp_path / "jax.safetensors", TorchCNN(), translate=True)
    getattr(read, mode)()
    net: Any = read.instantiate(0)
    assert net.target.norm.training is (mode == "train")
