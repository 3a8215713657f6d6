"""What the tests of the door share: how a construction is described, built twice, compared."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperloom.compat.hypnettorch import hnets as ours
from tests._support import compare

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
        outside: Whether calls hand in the parameters that it does not hold.
    """

    name: str
    make: Callable[[Any], Any]
    uncond: int = 0
    cond: int = 0
    ids: int = 4
    stats: bool = False
    outside: bool = False

    def __str__(self) -> str:
        return self.name

    def build(self, namespace: Any) -> Any:
        """Build it, without its prints and warnings."""
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return self.make(namespace)

    def inputs(self, num: int, hnet: Any = None) -> dict[str, Any]:
        """Return arguments for a batch of `num`, the same for both."""
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
        if self.outside and hnet is not None:
            shapes = hnet.hyper_shapes_learned
            made["weights"] = [torch.randn(s, generator=generator).requires_grad_() for s in shapes]
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
        "no_uncond_weights" in options,
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
        "no_uncond_weights" in options,
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
        outside="no_uncond_weights" in options,
    )


QUIET: dict[str, Any] = {"verbose": False}


def small(lib: Any, **kwargs: Any) -> Any:
    options = {"cond_in_size": 3, "num_cond_embs": 4, "layers": (6,), **QUIET, **kwargs}
    return lib.HMLP(SHAPES, **options)


def small_chunked(lib: Any, **kwargs: Any) -> Any:
    options = {"cond_in_size": 3, "num_cond_embs": 4, "layers": (6,), **QUIET, **kwargs}
    return lib.ChunkedHMLP(SHAPES, 7, **options)


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


def pair_of(make: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Build both with the same random numbers: hypnettorch's, then ours."""
    return pair(Case("", make), pytest.importorskip("hypnettorch.hnets"))


assert_close = partial(compare.close, tolerance=1e-5, scaled=True)
