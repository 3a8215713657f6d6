"""HDeconv and ChunkedHDeconv, which 0.0.4 names and documents but does not have."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn

from hyperloom.compat.hypnettorch import hnets
from tests.compat.hypnettorch_building import SHAPES  # 32 numbers

theirs = pytest.importorskip("hypnettorch.hnets")
SMALL: dict[str, Any] = {
    "num_layers": 3,
    "num_filters": [8, 4],
    "kernel_size": 3,
    "sa_units": (1,),
    "cond_in_size": 3,
    "num_cond_embs": 4,
    "verbose": False,
}
WHOLE: dict[str, dict[str, Any]] = {
    "default": {},
    "unconditional": {"uncond_in_size": 2},
    "unconditional only": {"uncond_in_size": 2, "cond_in_size": 0},
    "channels": {"hyper_img_shape": (3, 4, 3)},
    "kernels": {"kernel_size": [3, (5, 1)]},
    "kernel": {"kernel_size": (3, 1)},
    "no attention": {"sa_units": []},
    "tanh": {"activation_fn": nn.Tanh()},
    "linear": {"activation_fn": None},
    "no bias": {"use_bias": False},
    "spectral": {"use_spectral_norm": True},
    "batch norm": {"use_batch_norm": True},
    "batch norm, no bias": {"use_batch_norm": True, "use_bias": False},
    "spectral, deeper": {"use_spectral_norm": True, "num_layers": 4, "num_filters": [8, 4, 2]},
}
CHUNKED: dict[str, dict[str, Any]] = {
    **{name: {**kwargs} for name, kwargs in WHOLE.items() if name != "channels"},
    "own": {"cond_chunk_embs": True},
    "own only": {"cond_chunk_embs": True, "cond_in_size": 0},
    "width": {"chunk_emb_size": 2},
    "large": {"chunk_emb_size": 20, "hyper_img_shape": (4, 4)},
}
CASES = [("HDeconv", name) for name in WHOLE] + [("ChunkedHDeconv", name) for name in CHUNKED]


def deconv_net(kind: str, name: str, lib: Any = hnets, **more: Any) -> Any:
    options = {**SMALL, **(WHOLE if kind == "HDeconv" else CHUNKED)[name], **more}
    size = options.pop("hyper_img_shape", (7, 5) if kind == "HDeconv" else (3, 4))
    torch.manual_seed(0)
    return getattr(lib, kind)(SHAPES, size, **options)


def inputs(hnet: Any, num: int = 2) -> dict[str, Any]:
    torch.manual_seed(1)
    made: dict[str, Any] = {}
    if hnet._widths[0]:
        made["uncond_input"] = torch.randn(num, hnet._widths[0])
    if hnet.num_known_conds:
        made["cond_id"] = list(range(num))
    return made


def test_the_same_arguments() -> None:
    for kind in ("HDeconv", "ChunkedHDeconv"):
        mine = inspect.signature(getattr(hnets, kind)).parameters
        other = inspect.signature(getattr(theirs, kind)).parameters
        assert list(mine) == list(other)
        for name, parameter in mine.items():
            default = other[name].default
            assert parameter.default == default or isinstance(default, nn.ReLU), name
        with pytest.raises((NotImplementedError, TypeError)):
            getattr(theirs, kind)(SHAPES, (7, 5))


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_generates_and_learns(kind: str, name: str) -> None:
    hnet = deconv_net(kind, name)
    flat = hnet.forward(ret_format="flattened", **inputs(hnet))
    assert flat.shape == (2, 32)
    assert not torch.allclose(flat[0], flat[1])
    samples = hnet.eval().forward(**inputs(hnet))
    assert [list(t.shape) for t in samples[1]] == SHAPES
    flat.square().sum().backward()
    used = [p for p in hnet.unconditional_params if p.grad is not None]
    assert len(used) == len(hnet.unconditional_params)
    shapes = [list(p.shape) for p in hnet.internal_params]
    assert shapes == hnet.param_shapes
    assert {id(p) for p in hnet.internal_params} == {id(p) for p in hnet.parameters()}


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_everything_from_outside(kind: str, name: str) -> None:
    full = deconv_net(kind, name).eval()
    empty = deconv_net(kind, name, no_uncond_weights=True, no_cond_weights=True).eval()
    assert not list(empty.parameters())
    given = [p.detach() for p in full.internal_params]
    assert empty.hyper_shapes_learned == [list(p.shape) for p in given]
    made = empty.forward(weights=given, ret_format="flattened", **inputs(full))
    wanted = full.forward(ret_format="flattened", **inputs(full))
    torch.testing.assert_close(made, wanted)


def test_chunks_are_images() -> None:
    """Chunk i is the image that the embedding of chunk i gives, cut at the end."""
    hnet = deconv_net("ChunkedHDeconv", "own").eval()
    assert hnet.num_chunks == 3
    assert hnet.chunk_emb_size == 8
    embs = torch.stack([hnet.get_chunk_emb(cond_id=2), hnet.get_chunk_emb(cond_id=0)])
    x = torch.stack([hnet.get_cond_in_emb(2), hnet.get_cond_in_emb(0)])
    wanted = hnet.forward(cond_id=[2, 0], ret_format="flattened")
    made = hnet.forward(cond_input=x, weights={"chunk_embs": embs}, ret_format="flattened")
    torch.testing.assert_close(made, wanted)
    with torch.no_grad():
        hnet.get_chunk_emb(1, 2).add_(1.0)
    changed = hnet.forward(cond_id=[2, 0], ret_format="flattened") != wanted
    assert not bool(changed[1].any())
    assert changed[0].nonzero().flatten().tolist() == list(range(12, 24))


def test_statistics_per_condition() -> None:
    hnet = deconv_net("HDeconv", "batch norm")
    hnet.batchnorm_layers[0].checkpoint_stats()
    hnet.batchnorm_layers[1].checkpoint_stats()
    hnet.forward(cond_id=[0, 1, 2], condition=1)
    means = [layer.get_stats(1)[0] for layer in hnet.batchnorm_layers]
    assert all(bool(m.any()) for m in means)
    assert not any(bool(layer.get_stats(0)[0].any()) for layer in hnet.batchnorm_layers)


@pytest.mark.parametrize(
    "call",
    [
        lambda: deconv_net("HDeconv", "default", hyper_img_shape=(3, 3)),
        lambda: deconv_net("HDeconv", "default", num_layers=1),
        lambda: deconv_net("HDeconv", "default", num_filters=[3]),
        lambda: deconv_net("HDeconv", "default", activation_fn=torch.sin),
        lambda: deconv_net("HDeconv", "unconditional only", uncond_in_size=0),
        lambda: deconv_net("ChunkedHDeconv", "own", num_cond_embs=0),
        lambda: deconv_net("ChunkedHDeconv", "default").forward(
            cond_id=0, weights={"chunk_embs": torch.zeros(1, 3, 8)}
        ),
        lambda: deconv_net("HDeconv", "default").forward(cond_id=9),
    ],
    ids=["image", "layers", "filters", "activation", "fixed", "conditions", "chunk_embs", "id"],
)
def test_refused(call: Any) -> None:
    with pytest.raises(ValueError, match=r"wanted|fixed|wants|are for"):
        call()


def test_defaults_are_those_documented() -> None:
    from hyperloom.compat.hypnettorch.hnets.deconv_hnet import deconv

    trunk = deconv((64, 32), 5, None, 5, (1, 3), (nn.ReLU(), False, False))
    assert trunk.filters == (1024, 512, 256, 128)
    assert trunk.image == (32, 64, 1)
    assert trunk.attention == (1, 3)
