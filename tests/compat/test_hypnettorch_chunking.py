"""Structured chunking of residual networks against that of 0.0.4."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.compat.hypnettorch_libraries import OURS, THEIRS

mnets = pytest.importorskip("hypnettorch.mnets")


def resnet(**kwargs: Any) -> Any:
    options = {"n": 1, "num_feature_maps": (4, 4, 6, 8), "verbose": False, **kwargs}
    return mnets.ResNet(in_shape=(8, 8, 3), num_classes=5, **options)


def wrn(**kwargs: Any) -> Any:
    options = {"n": 1, "k": 1, "num_feature_maps": (4, 4, 6, 12), "verbose": False, **kwargs}
    return mnets.WRN(in_shape=(8, 8, 3), num_classes=5, **options)


CHUNKINGS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "resnet": ("resnet_chunking", lambda: resnet(use_bias=True, use_batch_norm=True), {}),
    "resnet-plain": ("resnet_chunking", lambda: resnet(use_bias=False, use_batch_norm=False), {}),
    "resnet-deep": ("resnet_chunking", lambda: resnet(n=2, use_batch_norm=True), {}),
    "resnet-gcd": (
        "resnet_chunking",
        lambda: resnet(n=2, use_bias=True, use_batch_norm=True),
        {"gcd_chunking": True},
    ),
    "resnet-gcd-plain": (
        "resnet_chunking",
        lambda: resnet(use_bias=False, use_batch_norm=False),
        {"gcd_chunking": True},
    ),
    "wrn": ("wrn_chunking", lambda: wrn(use_bias=False, use_fc_bias=True), {}),
    "wrn-all": (
        "wrn_chunking",
        lambda: wrn(n=2, use_bias=True),
        {"ignore_bn_weights": False, "ignore_out_weights": False},
    ),
    "wrn-gcd": (
        "wrn_chunking",
        lambda: wrn(use_bias=True, k=2),
        {"ignore_bn_weights": False, "gcd_chunking": True},
    ),
    "wrn-gcd-plain": (
        "wrn_chunking",
        lambda: wrn(use_bias=False, use_fc_bias=True),
        {"ignore_out_weights": False, "gcd_chunking": True},
    ),
    "wrn-no-norm": (
        "wrn_chunking",
        lambda: wrn(use_bias=False, use_fc_bias=True, use_batch_norm=False),
        {"ignore_out_weights": False},
    ),
}


@pytest.mark.parametrize("name", CHUNKINGS)
def test_chunking_of_residual_networks(name: str) -> None:
    function, make, kwargs = CHUNKINGS[name]
    net = make()
    shapes, nums, assemble = getattr(THEIRS, function)(net, **kwargs)
    found = getattr(OURS, function)(net, **kwargs)
    assert found[:2] == (shapes, nums)
    chunks = [
        [torch.randn(s) for s in kind]
        for kind, num in zip(shapes, nums, strict=True)
        for _ in range(num)
    ]
    wanted = assemble(chunks)
    made = found[2](chunks)
    assert len(made) == len(wanted)
    for a, b in zip(made, wanted, strict=True):
        assert torch.equal(a, b)
