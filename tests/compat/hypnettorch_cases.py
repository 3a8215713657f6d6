"""The table of constructions that both libraries build."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.compat.hypnettorch_building import (
    CONV,
    SHAPES,
    Case,
    assert_close,  # noqa: F401  # pyright: ignore[reportUnusedImport] (for importers)
    chunked,
    hmlp,
    structured,
)


def container(name: str, make: Callable[[Any], Any], **kwargs: Any) -> Case:
    return Case(f"HContainer-{name}", make, **kwargs)


def perturbed(name: str, make: Callable[[Any], Any], **kwargs: Any) -> Case:
    return Case(f"HPerturbWrapper-{name}", make, **kwargs)


def _three(outputs: Any, shared: Any, own: Any) -> list[Tensor]:
    return outputs[0] + shared + own


FIRST = [[10, 5], [5]]
ALL = [[10, 5], [5], [5], [5], [5, 5]]


def _mixed(lib: Any, **kwargs: Any) -> Any:
    first = lib.HMLP(FIRST, num_cond_embs=5, layers=(6,), verbose=False)
    options: dict[str, Any] = {
        "hnets": [first],
        "uncond_param_shapes": [[5], [5]],
        "cond_param_shapes": [[5, 5]],
        "uncond_param_names": ["bn_scale", "bn_shift"],
        "cond_param_names": ["weight"],
        "num_cond_embs": 5,
    }
    return lib.HContainer(ALL, _three, **{**options, **kwargs})


def _two(lib: Any) -> Any:
    members = [
        lib.HMLP(FIRST, num_cond_embs=5, layers=(6,), verbose=False),
        lib.ChunkedHMLP(
            [[5, 5]], 4, num_cond_embs=5, layers=(), cond_chunk_embs=True, verbose=False
        ),
    ]
    return lib.HContainer(
        ALL,
        lambda outputs, shared, own: outputs[0] + shared + outputs[1],
        hnets=members,
        uncond_param_shapes=[[5], [5]],
        num_cond_embs=5,
        verbose=False,
    )


def _plain(lib: Any) -> Any:
    return lib.HContainer(
        [[2, 3], [4]],
        lambda outputs, shared, own: own + shared,
        uncond_param_shapes=[[4]],
        cond_param_shapes=[[2, 3]],
        num_cond_embs=3,
    )


def _only_own(lib: Any) -> Any:
    return lib.HContainer(
        [[2, 3]],
        lambda outputs, shared, own: own,
        cond_param_shapes=[[2, 3]],
        cond_param_names=["weight"],
        num_cond_embs=3,
        verbose=False,
    )


def _only_hnets(lib: Any) -> Any:
    return lib.HContainer(
        FIRST,
        lambda outputs, shared, own: outputs[0],
        hnets=[lib.HMLP(FIRST, num_cond_embs=2, layers=(6,), uncond_in_size=2, verbose=False)],
    )


def _half_biased(lib: Any) -> Any:
    members = [
        lib.HMLP([[4]], num_cond_embs=2, layers=(6,), use_bias=bias, verbose=False)
        for bias in (True, False)
    ]
    return lib.HContainer(
        [[4], [4]], lambda outputs, shared, own: outputs[0] + outputs[1], hnets=members
    )


def _wrapped(lib: Any, inner: str = "HMLP", uncond: int = 4, **kwargs: Any) -> Any:
    args: Any = (SHAPES,) if inner == "HMLP" else (SHAPES, 7)
    hnet = getattr(lib, inner)(
        *args, uncond_in_size=uncond, cond_in_size=3, num_cond_embs=4, layers=(6,), verbose=False
    )
    return lib.HPerturbWrapper(hnet, verbose=False, **kwargs)


def _first_four(uncond_input: Any = None, cond_input: Any = None, cond_id: Any = None) -> Any:
    return uncond_input[:, :4], cond_input, cond_id


def _add_rest(
    made: Tensor, uncond_input: Any = None, cond_input: Any = None, cond_id: Any = None
) -> Tensor:
    return made + uncond_input[:, 4:]


def _as_given(uncond_input: Any = None, cond_input: Any = None, cond_id: Any = None) -> Any:
    return uncond_input, cond_input, cond_id


def _doubled(made: Tensor, **_: Any) -> Tensor:
    return 2 * made


HMLPS = [
    hmlp("default"),
    hmlp("linear", layers=()),
    hmlp("linear-unconditional", layers=(), uncond_in_size=5),
    hmlp("deep", layers=[3, 4, 5, 6], cond_in_size=1),
    hmlp("defaults-of-0.0.4", layers=(100, 100), cond_in_size=8, num_cond_embs=1),
    hmlp("convolution", CONV),
    hmlp("convolution-unconditional", CONV, uncond_in_size=2),
    hmlp("scalar-like", [[1], [1, 1]]),
    hmlp("unconditional-only", cond_in_size=0, num_cond_embs=0, uncond_in_size=3),
    hmlp("unconditional-only-linear", cond_in_size=0, num_cond_embs=0, uncond_in_size=2, layers=()),
    hmlp("unconditional-and-warned", cond_in_size=0, num_cond_embs=2, uncond_in_size=3),
    hmlp("no-embeddings", num_cond_embs=0),
    hmlp("no-embeddings-unconditional", num_cond_embs=0, uncond_in_size=2),
    hmlp("tanh", activation_fn=nn.Tanh()),
    hmlp("sigmoid", activation_fn=nn.Sigmoid()),
    hmlp("elu", activation_fn=nn.ELU()),
    hmlp("elu-2", activation_fn=nn.ELU(2.0)),
    hmlp("leaky-relu-.3", activation_fn=nn.LeakyReLU(0.3)),
    hmlp("sine", activation_fn=torch.sin),
    hmlp("no-activation", activation_fn=None),
    hmlp("function", activation_fn=torch.tanh),
    hmlp("no-bias", use_bias=False),
    hmlp("no-bias-linear", use_bias=False, layers=()),
    hmlp("batch-norm", use_batch_norm=True),
    hmlp("batch-norm-tanh", use_batch_norm=True, activation_fn=nn.Tanh(), uncond_in_size=2),
    hmlp("batch-norm-own-activation", use_batch_norm=True, activation_fn=torch.cos),
    hmlp("dropout", dropout_rate=0.3),
    hmlp("dropout-sigmoid", dropout_rate=0.5, activation_fn=nn.Sigmoid()),
    hmlp("dropout-none", dropout_rate=-1),
    hmlp("from-outside", no_uncond_weights=True, no_cond_weights=True),
    hmlp(
        "unconditional-from-outside",
        no_uncond_weights=True,
        no_cond_weights=True,
        uncond_in_size=2,
        use_bias=False,
    ),
]
CHUNKEDS = [
    chunked("default"),
    *(chunked(f"size-{size}", size) for size in (1, 8, 31, 32, 50)),
    chunked("own-embeddings", cond_chunk_embs=True),
    chunked("own-embeddings-32", 32, cond_chunk_embs=True, chunk_emb_size=1),
    chunked("own-embeddings-only", cond_chunk_embs=True, cond_in_size=0),
    chunked("own-embeddings-only-linear", cond_chunk_embs=True, cond_in_size=0, layers=()),
    chunked("own-embeddings-unconditional", cond_chunk_embs=True, uncond_in_size=2),
    chunked(
        "own-embeddings-and-noise-only", cond_chunk_embs=True, cond_in_size=0, uncond_in_size=2
    ),
    chunked("unconditional", uncond_in_size=2),
    chunked("unconditional-only", uncond_in_size=2, cond_in_size=0, num_cond_embs=0),
    chunked("no-embeddings", num_cond_embs=0),
    chunked("linear", 9, layers=()),
    chunked("convolution", 13, CONV, layers=(10, 10, 10, 10)),
    chunked("elu", activation_fn=nn.ELU()),
    chunked("sine", activation_fn=torch.sin, uncond_in_size=1),
    chunked("no-activation", activation_fn=None),
    chunked("no-bias", use_bias=False),
    chunked("no-bias-linear", use_bias=False, layers=(), cond_chunk_embs=True),
    chunked("batch-norm", use_batch_norm=True),
    chunked("batch-norm-own-embeddings", use_batch_norm=True, cond_chunk_embs=True),
    chunked("dropout", dropout_rate=0.4),
    chunked("dropout-sine", dropout_rate=0.4, activation_fn=torch.sin),
    chunked("from-outside", no_uncond_weights=True, no_cond_weights=True),
    chunked(
        "own-embeddings-from-outside",
        cond_chunk_embs=True,
        no_uncond_weights=True,
        no_cond_weights=True,
    ),
]
STRUCTUREDS = [
    structured("default"),
    structured("by-shape", smart=False),
    structured("own-embeddings", cond_chunk_embs=True),
    structured("own-embeddings-only", cond_chunk_embs=True, cond_in_size=0),
    structured("own-embeddings-only-by-shape", False, cond_chunk_embs=True, cond_in_size=0),
    structured("unconditional", uncond_in_size=2),
    structured("own-embeddings-unconditional", cond_chunk_embs=True, uncond_in_size=2),
    structured("sizes", chunk_emb_sizes=[2, 5]),
    structured("without-embeddings", smart=False, chunk_emb_sizes=[2, 0, 0]),
    structured("own-kwargs", hmlp_kwargs=[{"layers": []}, {"layers": [4], "use_bias": False}]),
    structured("no-bias", hmlp_kwargs={"layers": [], "use_bias": False}),
    structured("no-embeddings", num_cond_embs=0),
    structured("from-outside", no_uncond_weights=True, no_cond_weights=True),
    structured(
        "unconditional-from-outside",
        smart=False,
        no_uncond_weights=True,
        no_cond_weights=True,
        uncond_in_size=2,
    ),
]
CONTAINERS = [
    container("mixed", _mixed, ids=5),
    container("mixed-unnamed", lambda lib: _mixed(lib, uncond_param_names=None), ids=5),
    container("mixed-unnamed-own", lambda lib: _mixed(lib, cond_param_names=None), ids=5),
    container(
        "mixed-shared-from-outside",
        lambda lib: _mixed(lib, no_uncond_weights=True),
        ids=5,
        outside=True,
    ),
    container(
        "mixed-own-from-outside",
        lambda lib: _mixed(lib, no_cond_weights=True),
        ids=5,
        outside=True,
    ),
    container(
        "mixed-from-outside",
        lambda lib: _mixed(lib, no_uncond_weights=True, no_cond_weights=True),
        ids=5,
        outside=True,
    ),
    container("two", _two, ids=5),
    container("plain", _plain, ids=3),
    container("only-own", _only_own, ids=3),
    container("only-hnets", _only_hnets, ids=2, uncond=2),
    container("half-biased", _half_biased, ids=2),
]
WRAPPERS = [
    perturbed("default", lambda lib: _wrapped(lib, hnet_uncond_in_size=4), uncond=32),
    perturbed(
        "sigma", lambda lib: _wrapped(lib, hnet_uncond_in_size=4, sigma_noise=0.5), uncond=32
    ),
    perturbed(
        "chunked",
        lambda lib: _wrapped(lib, "ChunkedHMLP", hnet_uncond_in_size=4, sigma_noise=0.1),
        uncond=32,
    ),
    perturbed(
        "handlers",
        lambda lib: _wrapped(lib, input_handler=_first_four, output_handler=_add_rest),
        uncond=36,
    ),
    perturbed(
        "handlers-2",
        lambda lib: _wrapped(lib, input_handler=_as_given, output_handler=_doubled),
        uncond=4,
    ),
]
CASES = [*HMLPS, *CHUNKEDS, *STRUCTUREDS, *CONTAINERS, *WRAPPERS]
