"""hypnettorch's initialisations, by the rules of the core."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from hyperloom import Init, Role, TensorSpec

if TYPE_CHECKING:
    from hyperloom.compat.hypnettorch.hnets.chunked_mlp_hnet import ChunkedHMLP
    from hyperloom.compat.hypnettorch.hnets.mlp_hnet import HMLP

_METHODS = {"in": hl.HyperfanIn, "out": hl.HyperfanOut, "harmonic": hl.Harmonic}
_ROLES = {
    "weight": Role.WEIGHT,
    "bias": Role.BIAS,
    "bn_scale": Role.NORM_SCALE,
    "cm_scale": Role.NORM_SCALE,
    "bn_shift": Role.NORM_SHIFT,
    "cm_shift": Role.NORM_SHIFT,
    "embedding": Role.EMBEDDING,
}


def rule(method: str, relu: bool) -> Init:
    """Return the native rule."""
    if method not in _METHODS:
        raise ValueError(f"method: got {method!r}; wanted in, out or harmonic.")
    return _METHODS[method](relu)


def tensor_specs(target_shapes: Sequence[Sequence[int]], mnet: Any) -> list[tuple[str, TensorSpec]]:
    """Say of each generated tensor what it is for: hypnettorch's name and a native spec.

    Told by the target's `param_shapes_meta` where they fit. Otherwise a shape of at least two
    axes is a weight, another a bias, that of the weight right before it.
    """
    meta = _meta(target_shapes, mnet)
    layers = {
        m["layer"]: tuple(s)
        for m, s in zip(meta, target_shapes, strict=True)
        if m["name"] == "weight" and m["layer"] != -1
    }
    made = []
    for i, (m, shape) in enumerate(zip(meta, target_shapes, strict=True)):
        weight = tuple(shape) if m["name"] == "weight" else layers.get(m["layer"])
        kernel = math.prod(weight[2:]) if weight else 1
        fans = (weight[1] * kernel, weight[0] * kernel) if weight else (shape[0], shape[0])
        # A bias whose weight is not known is alone in its layer.
        layer = str(m["layer"]) if m["layer"] != -1 else f"alone {i}"
        made.append(
            (m["name"], TensorSpec(str(i), tuple(shape), _ROLES[m["name"]], *fans, layer=layer))
        )
    return made


def _meta(target_shapes: Sequence[Sequence[int]], mnet: Any) -> list[dict[str, Any]]:
    found = None if mnet is None else _meta_of(mnet, len(target_shapes))
    if found is not None:
        return found
    made: list[dict[str, Any]] = []
    for i, shape in enumerate(target_shapes):
        if len(shape) > 1:
            made.append({"name": "weight", "layer": i})
        else:
            beside = made[-1]["layer"] if made and made[-1]["name"] == "weight" else -1
            made.append({"name": "bias", "layer": beside})
    return made


def _meta_of(mnet: Any, num: int) -> list[dict[str, Any]] | None:
    try:
        meta = mnet.param_shapes_meta
    except NotImplementedError:
        return None
    if len(meta) == num:
        return meta
    refs = mnet.hyper_shapes_learned_ref or ()
    if len(refs) == num:
        return [meta[i] for i in refs]
    warnings.warn("mnet: its tensors are not those of target_shapes.", stacklevel=4)
    return None


def fill_hyperfan(
    hnet: HMLP,
    method: str,
    relu: bool,
    input_vars: tuple[float, float],
    mnet: Any,
    given: tuple[Any, Any, Any, Any],
) -> None:
    """`HMLP.apply_hyperfan_init`."""
    init = rule(method, relu)
    if hnet.unconditional_params is None:
        raise ValueError("A hypernetwork that holds no shared parameters cannot be initialised.")
    specs = tensor_specs(hnet.target_shapes, mnet)
    biased = {spec.layer for name, spec in specs if name == "bias"}
    variance = _mean_variance(hnet._widths, input_vars)
    for layer in hnet.batchnorm_layers or ():
        nn.init.ones_(layer.scale)  # type: ignore[arg-type]
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        variance = 1.0
    weights, biases = hnet.layer_weight_tensors, list(hnet.layer_bias_vectors)
    for weight in weights[:-1]:
        uniform(weight, 0.0, (2.0 if relu else 1.0) / weight.shape[1])
    for bias in biases:
        nn.init.zeros_(bias)
    head, row = weights[-1], 0
    for i, (name, spec) in enumerate(specs):
        rows = slice(row, row + spec.numel)
        row = rows.stop
        start = init.start(spec, spec.layer in biased)
        asked = [_value(each, i, name) for each in given]
        if name in ("weight", "bias"):
            # The rule, unless all four are given.
            asked = [None] * 4 if None in asked else asked
            default = (0.0, start.std**2 / (head.shape[1] * variance), 0.0, 0.0)
        else:
            default = (0.0, 0.0, start.mean, start.std**2)
        values = [d if a is None else a for a, d in zip(asked, default, strict=True)]
        uniform(head[rows], values[0], values[1])
        if biases:
            uniform(biases[-1][rows], values[2], values[3])


def _value(given: Any, index: int, name: str) -> float | None:
    return given.get(name) if isinstance(given, dict) else None if given is None else given[index]


def _mean_variance(widths: tuple[int, int], variances: tuple[float, float]) -> float:
    """Mean variance of inputs of two kinds, by their widths."""
    pairs = zip(widths, variances, strict=True)
    return sum(w * v for w, v in pairs) / max(sum(widths), 1)


def uniform(values: Tensor, mean: float, variance: float) -> None:
    """Fill in place with uniform draws of a mean and a variance."""
    bound = math.sqrt(3 * variance)
    with torch.no_grad():
        values.uniform_(mean - bound, mean + bound) if bound else values.fill_(mean)


def fill_chunked_hyperfan(
    hnet: ChunkedHMLP,
    init: Init,
    relu: bool,
    input_vars: tuple[float, float],
    options: tuple[float, bool, Any, Any],
) -> None:
    """`ChunkedHMLP.apply_chunked_hyperfan_init`; `options` are eps, normal, mnet, target_vars."""
    eps, normal, mnet, target_vars = options
    if hnet.unconditional_params is None:
        raise ValueError("A hypernetwork that holds no shared parameters cannot be initialised.")
    if hnet.batchnorm_layers:
        raise RuntimeError("Not for hypernetworks with batch norm.")
    for weight in hnet.layer_weight_tensors:
        uniform(weight, 0.0, (2.0 if relu else 1.0) / weight.shape[1])
    for bias in hnet.layer_bias_vectors:
        nn.init.zeros_(bias)
    wanted = _chunk_variances(hnet, _target_variances(hnet, init, mnet, target_vars))
    own, width = hnet.chunk_emb_size, sum(hnet._widths)
    inputs = _mean_variance(hnet._widths, input_vars)
    largest = (width + own) / width * min(wanted) if width else math.inf
    if inputs >= largest:
        warnings.warn(f"The inputs' variance should be below {largest:g}.", stacklevel=3)
    found = [((width + own) * v - width * inputs) / own for v in wanted]
    clipped = sum(v < eps for v in found)
    if clipped:
        text = f"The variance of {clipped}/{len(found)} chunk embeddings was clipped."
        warnings.warn(text, stacklevel=3)
    conditions = range(hnet.num_known_conds) if hnet.cond_chunk_embs else [None]
    for i, variance in enumerate(max(eps, v) for v in found):
        for cond_id in conditions:
            embedding = hnet.get_chunk_emb(chunk_id=i, cond_id=cond_id)
            if normal:
                nn.init.normal_(embedding, std=math.sqrt(variance))
            else:
                uniform(embedding, 0.0, variance)


def _target_variances(hnet: ChunkedHMLP, init: Init, mnet: Any, given: Any) -> list[float]:
    """Return the variance that each generated tensor should have."""
    made = []
    for i, (name, spec) in enumerate(tensor_specs(hnet.target_shapes, mnet)):
        value = _value(given, i, name)
        if value is None and name == "bias":
            value = 1 / (3 * spec.fan_in)
        elif value is None:
            # Biases get variance of their own, not a share of the weights'.
            value = init.start(spec, False).std ** 2 if name == "weight" else 1.0
        made.append(value)
    return made


def _chunk_variances(hnet: ChunkedHMLP, variances: list[float]) -> list[float]:
    """Return the mean variance of each chunk; what is cut off counts as the last tensor's."""
    sizes = [math.prod(shape) for shape in hnet.target_shapes]
    sizes[-1] += hnet.num_chunks * hnet._chunk_size - sum(sizes)
    each = torch.repeat_interleave(torch.tensor(variances).double(), torch.tensor(sizes))
    return each.view(hnet.num_chunks, -1).mean(1).tolist()
