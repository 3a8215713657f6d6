"""The table of constructions that both libraries build."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hyperloom.compat.hypnettorch import hnets as ours

SHAPES = [[5, 3], [5], [2, 5], [2]]
CONV = [[4, 2, 3, 3], [4], [2, 16], [2], [3, 1]]


@dataclass(frozen=True)
class Case:
    """One construction.

    Attributes:
        name: What is printed.
        make: Builds it from a namespace of classes (hypnettorch's `hnets`, or ours).
        uncond: Width of the unconditional input that a call needs.
        cond: Width of the conditional input, for calls without ids.
        ids: How many ids it knows.
        stats: Whether batch norm is in it.
    """

    name: str
    make: Callable[[Any], Any]
    uncond: int = 0
    cond: int = 0
    ids: int = 4
    stats: bool = False

    def __str__(self) -> str:
        return self.name

    def build(self, namespace: Any) -> Any:
        """Build it, without its prints and warnings."""
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return self.make(namespace)

    def inputs(self, num: int) -> dict[str, Any]:
        """Return inputs for a batch of `num`, the same for both."""
        generator = torch.Generator().manual_seed(num)
        made: dict[str, Any] = {}
        if self.uncond:
            made["uncond_input"] = torch.randn(num, self.uncond, generator=generator)
        if self.ids:
            made["cond_id"] = [(3 * i + 2) % self.ids for i in range(num)]
        elif self.cond:
            made["cond_input"] = torch.randn(num, self.cond, generator=generator)
        if self.stats:
            made["condition"] = 0
        return made


def hmlp(name: str, shapes: Any = SHAPES, **kwargs: Any) -> Case:
    options: dict[str, Any] = {"cond_in_size": 3, "num_cond_embs": 4, "layers": (7, 6)}
    options |= kwargs
    return Case(
        f"HMLP-{name}",
        lambda lib: lib.HMLP(shapes, verbose=False, **options),
        options.get("uncond_in_size", 0),
        options["cond_in_size"],
        options["num_cond_embs"] if options["cond_in_size"] else 0,
        options.get("use_batch_norm", False),
    )


def chunked(name: str, chunk: int = 7, shapes: Any = SHAPES, **kwargs: Any) -> Case:
    options: dict[str, Any] = {"cond_in_size": 3, "num_cond_embs": 4, "layers": (7, 6)}
    options["chunk_emb_size"] = 5
    options |= kwargs
    own = options.get("cond_chunk_embs", False)
    ids = options["num_cond_embs"] if options["cond_in_size"] or own else 0
    return Case(
        f"ChunkedHMLP-{name}",
        lambda lib: lib.ChunkedHMLP(shapes, chunk, verbose=False, **options),
        options.get("uncond_in_size", 0),
        options["cond_in_size"],
        ids,
        options.get("use_batch_norm", False),
    )


def in_order(chunks: list[list[Tensor]]) -> list[Tensor]:
    return [tensor for chunk in chunks for tensor in chunk]


def joined(chunks: list[list[Tensor]]) -> list[Tensor]:
    """`[3], [3], [10, 5], [10], [20, 5], [20]` from chunks `[3]`, `[10, 5], [10]`."""
    made = [*chunks[0], *chunks[1], *chunks[2]]
    pairs = zip(chunks[3], chunks[4], strict=True)
    return made + [torch.cat(pair, dim=0) for pair in pairs]


TARGET = [[3], [3], [10, 5], [10], [20, 5], [20]]


def structured(name: str, smart: bool = True, **kwargs: Any) -> Case:
    options: dict[str, Any] = {"cond_in_size": 3, "num_cond_embs": 4}
    hmlp_kwargs = kwargs.pop("hmlp_kwargs", {"layers": [6, 5]})
    sizes = kwargs.pop("chunk_emb_sizes", 4)
    options |= kwargs
    chunks = [[[3]], [[10, 5], [10]]] if smart else [[[3]], [[10, 5], [10]], [[20, 5], [20]]]
    nums = [2, 3] if smart else [2, 1, 1]
    own = options.get("cond_chunk_embs", False)
    return Case(
        f"StructuredHMLP-{name}",
        lambda lib: lib.StructuredHMLP(
            TARGET,
            chunks,
            nums,
            sizes,
            hmlp_kwargs,
            joined if smart else in_order,
            verbose=False,
            **options,
        ),
        options.get("uncond_in_size", 0),
        options["cond_in_size"],
        options["num_cond_embs"] if options["cond_in_size"] or own else 0,
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
]
CONTAINERS = [
    container("mixed", _mixed, ids=5),
    container("mixed-unnamed", lambda lib: _mixed(lib, uncond_param_names=None), ids=5),
    container("mixed-unnamed-own", lambda lib: _mixed(lib, cond_param_names=None), ids=5),
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

PROPERTIES = (
    "param_shapes",
    "param_shapes_meta",
    "target_shapes",
    "num_outputs",
    "num_known_conds",
    "num_params",
    "num_internal_params",
    "hyper_shapes_learned",
    "hyper_shapes_learned_ref",
    "hyper_shapes_distilled",
    "internal_params_ref",
    "unconditional_param_shapes",
    "unconditional_param_shapes_ref",
    "unconditional_params_ref",
    "conditional_param_shapes",
    "conditional_param_shapes_ref",
    "has_bias",
    "has_fc_out",
    "mask_fc_out",
    "has_linear_out",
    "context_mod_layers",
    "num_chunks",
    "chunk_emb_size",
    "chunk_emb_shapes",
    "cond_chunk_embs",
)
LISTS = (
    "internal_params",
    "unconditional_params",
    "conditional_params",
    "layer_weight_tensors",
    "layer_bias_vectors",
    "batchnorm_layers",
    "internal_hnets",
)


def pair(case: Case, theirs: Any) -> tuple[Any, Any]:
    """Build both, with the same random numbers in them."""
    other, mine = case.build(theirs), case.build(ours)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.normal_()
    # Their parameters stand in their state dict under several names; so do ours.
    mine.load_state_dict(other.state_dict())
    return other, mine


def assert_close(mine: Tensor, other: Tensor, tolerance: float = 1e-5) -> None:
    scale = max(1.0, float(other.detach().abs().max())) if other.numel() else 1.0
    torch.testing.assert_close(mine, other, rtol=0, atol=tolerance * scale)
