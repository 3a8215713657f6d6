"""The hypernetwork that draws its weights as an image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from hyperloom.compat.hypnettorch._door.errors import require
from hyperloom.compat.hypnettorch._door.formats import check_format, from_batched
from hyperloom.compat.hypnettorch._door.generator import activation_name
from hyperloom.compat.hypnettorch._door.inputs import (
    check_inputs,
    check_width,
    ids_of,
    one_batch,
    supplied,
)
from hyperloom.compat.hypnettorch._door.ledger import Entry, Ledger, entry
from hyperloom.compat.hypnettorch.hnets.hnet_interface import HyperNetInterface
from hyperloom.compat.hypnettorch.utils.batchnorm_layer import BatchNormLayer

_RELU = nn.ReLU()
_NAMES = {"norm_weight": "bn_scale", "norm_bias": "bn_shift", "bias": "bias"}


class _Drawing(nn.Module, HyperNetInterface):
    """What `HDeconv` and `ChunkedHDeconv` share: native parameters under hypnettorch's views."""

    _native: hl.HyperNetwork

    def _build(
        self,
        target_shapes: Sequence[Sequence[int]],
        trunk: hl.Deconv,
        widths: tuple[int, int],
        layout: hl.Direct,
        options: tuple[bool, bool, bool, int],
    ) -> None:
        """Make the native hypernetwork, and take over its parameters.

        Args:
            target_shapes: Shapes of the tensors to generate.
            trunk: The native trunk.
            widths: Widths of unconditional and conditional input.
            layout: The native layout.
            options: `use_bias`, `no_uncond_weights`, `no_cond_weights`, `num_cond_embs`.
        """
        use_bias, no_uncond, no_cond, num = options
        self._widths, self._layout = widths, layout
        parts: list[Any] = [hl.Vector(width) for width in widths if width]
        parts += [hl.Ids(1)] if layout.per_condition else []
        require(bool(parts), "cond_in_size: without any input the output is fixed.")
        self._prefixes = [f"condition.parts.{i}." for i in range(len(parts))]
        self._prefixes = self._prefixes if len(parts) > 1 else ["condition."]
        condition = hl.Concat(*parts) if len(parts) > 1 else parts[0]
        native = hl.HyperNetwork(
            hl.Shapes(target_shapes),
            condition=condition,
            trunk=trunk,
            layout=layout,
            init=hl.Unscaled(),
        )
        entries = self._entries(native, (use_bias, no_uncond, no_cond, num))
        for each in entries:
            if each.name == "embedding" and each.parameter is not None:
                nn.init.normal_(each.parameter)
        self._settle(Ledger(tuple(entries)), target_shapes, num)
        norms = [BatchNormLayer(n, affine=False) for n in trunk.filters if trunk.norm]
        self._batchnorm_layers = nn.ModuleList(norms) if norms else None
        self._has_bias = use_bias
        self._has_fc_out = self._mask_fc_out = self._has_linear_out = False
        # Past nn.Module, which would hold its parameters a second time.
        object.__setattr__(self, "_native", native.to("meta"))

    def _entries(
        self, native: hl.HyperNetwork, options: tuple[bool, bool, bool, int]
    ) -> list[Entry]:
        """Return the parameters in hypnettorch's order: embeddings, trunk, chunk embeddings."""
        use_bias, no_uncond, no_cond, num = options
        width, layout = self._widths[1], self._layout
        entries = [
            entry([width], "embedding", 0, no_cond, conditional=True)
            for _ in range(num if width else 0)
        ]
        own = native.named_parameters()
        self._own = [name for name, _ in own if name.startswith("trunks.")]
        # No bias is a bias of zeros.
        self._zeros = [n for n in self._own if n.endswith(".bias") and not use_bias]
        self._own = [name for name in self._own if name not in self._zeros]
        for name in self._own:
            values = native.get_parameter(name).detach()
            made = None if no_uncond else nn.Parameter(values)
            word = _NAMES.get(name.rpartition(".")[2], "weight")
            entries.append(Entry(list(values.shape), word, -1, parameter=made))
        if layout.embedding:
            external = no_cond if layout.per_condition else no_uncond
            head = native.plan.heads[0]
            options_: dict[str, Any] = {
                "conditional": layout.per_condition,
                "extra": {"info": "chunk embeddings"},
            }
            for _ in range(num if layout.per_condition else 1):
                size = [head.num_slots, head.embedding]
                entries.append(entry(size, "embedding", 0, external, **options_))
        return entries

    def forward(
        self,
        uncond_input: Tensor | None = None,
        cond_input: Tensor | None = None,
        cond_id: int | list[int] | None = None,
        weights: Any = None,
        distilled_params: Any = None,
        condition: int | None = None,
        ret_format: str = "squeezed",
    ) -> Any:
        """Generate weights; see `HyperNetInterface.forward`.

        With `cond_chunk_embs`, a dict of `weights` may hold `chunk_embs`, a batch of chunk
        embeddings `(B, num_chunks, chunk_emb_size)` in place of `cond_id`.
        """
        check_format(ret_format)
        slots = weights.get("chunk_embs") if isinstance(weights, dict) else None
        if slots is not None:
            if not self._layout.per_condition or cond_id is not None:
                raise ValueError("weights: chunk_embs are for cond_chunk_embs=True, without ids.")
            weights = {k: v for k, v in weights.items() if k != "chunk_embs"} or None
        uncond, cond = supplied(self, weights)
        check_inputs(uncond_input, cond_input, cond_id, required=sum(self._widths) > 0)
        if cond_id is not None:
            require(bool(cond), "cond_id: there are no conditional parameters.")
            cond_input, slots = self._look_up(cond_id, cond or [], cond_input)
        uncond_input, cond_input, slots = one_batch(uncond_input, cond_input, slots)
        check_width("uncond_input", uncond_input, self._widths[0])
        check_width("cond_input", cond_input, self._widths[1])
        require(uncond is not None, "weights: the shared parameters are missing.")
        shared = list(uncond or ())
        if self._layout.embedding and not self._layout.per_condition:
            slots = shared.pop()
        missing = slots is None and self._layout.embedding > 0
        require(not missing, "cond_id: wanted, for the chunk embeddings of a condition.")
        made = self._run([uncond_input, cond_input], shared, slots, condition)
        return from_batched(made, ret_format)

    def _look_up(
        self, cond_id: Any, cond: list[Tensor], cond_input: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return embeddings and, where conditions have their own, chunk embeddings."""
        num = self.num_known_conds
        ids = ids_of(cond_id, num)
        require(len(cond) == len(self.conditional_param_shapes), "cond_id: parameters are missing.")
        vectors = torch.stack([cond[i] for i in ids]) if self._widths[1] else cond_input
        own = cond[len(cond) - num :] if self._layout.per_condition else []
        return vectors, torch.stack([own[i] for i in ids]) if own else None

    def _run(
        self,
        inputs: list[Tensor | None],
        shared: list[Tensor],
        slots: Tensor | None,
        condition: int | None,
    ) -> list[Tensor]:
        """Run the native hypernetwork with the parameters of this call."""
        native = self._native
        like = shared[0]
        if next(iter(native.parameters())).dtype != like.dtype:
            native.to(like.dtype)
        native.train(self.training)
        given = dict(zip(self._own, shared, strict=True))
        for name in self._zeros:
            given[name] = like.new_zeros(native.get_parameter(name).shape)
        for i, layer in enumerate(self._batchnorm_layers or ()):
            assert isinstance(layer, BatchNormLayer)
            mean, var = layer.chosen_stats(condition)
            given[f"trunks.0.norms.{i}.norm_mean"] = mean
            given[f"trunks.0.norms.{i}.norm_var"] = var
        values: list[Tensor] = [x for x in inputs if x is not None]
        if slots is not None:
            own = ".0" if self._layout.per_condition else ""
            given[f"heads.direct.slots{own}"] = slots
        if self._layout.per_condition and slots is not None:
            given[f"{self._prefixes[-1]}table.0"] = like.new_empty(len(slots), 0)
            values.append(torch.arange(len(slots), device=like.device))
        for prefix, value in zip(self._prefixes, values, strict=True):
            if value.is_floating_point():
                given[f"{prefix}like"] = like.new_zeros(())
        raw: Any = tuple(values) if len(values) > 1 else values[0]
        return list(native.generate(raw, parameters=given).values())

    def distillation_targets(self) -> None:
        """Return `None`: there are none."""
        return None

    def get_cond_in_emb(self, cond_id: int) -> nn.Parameter:
        """Return the embedding of a condition.

        Raises:
            RuntimeError: There is none of that id inside.
        """
        own = [e for e in self._ledger.held if e.conditional and "info" not in e.extra]
        if not isinstance(cond_id, int) or not 0 <= cond_id < len(own):
            raise RuntimeError(f"cond_id: got {cond_id!r}; wanted an int below {len(own)}.")
        found = own[cond_id].parameter
        assert found is not None
        return found


def deconv(
    hyper_img_shape: Sequence[int],
    num_layers: int,
    num_filters: Sequence[int] | None,
    kernel_size: Any,
    sa_units: Sequence[int],
    options: tuple[Any, bool, bool],
) -> hl.Deconv:
    """Return the native trunk; `options` are activation, spectral norm and batch norm."""
    activation, spectral, batch = options
    name = activation_name(activation)
    require(name is not None, "activation_fn: wanted one that has a name natively.")
    require(num_layers >= 2, f"num_layers: got {num_layers}; wanted at least 2.")
    filters = num_filters or [128 * 2**i for i in reversed(range(num_layers - 1))]
    text = f"num_filters: got {len(filters)}; wanted {num_layers - 1}."
    require(len(filters) == num_layers - 1, text)
    width, height, *channels = hyper_img_shape
    kernel = kernel_size
    if not isinstance(kernel, int):  # hypnettorch's order is (x, y)
        turned = [k if isinstance(k, int) else tuple(reversed(k)) for k in kernel]
        pair = isinstance(kernel, tuple) and len(kernel) == 2
        kernel = tuple(reversed(turned)) if pair else tuple(turned)
    image = (height, width, *channels)
    norm = "batch" if batch else None
    return hl.Deconv(image, tuple(filters), kernel, tuple(sa_units), name or "relu", norm, spectral)


class HDeconv(_Drawing):
    """A hypernetwork of transposed convolutions: `Deconv` with `Direct`.

    hypnettorch 0.0.4 has this class without contents; what it says of it works here.

    Args:
        target_shapes: Shapes of the tensors to generate.
        hyper_img_shape: `(width, height)` or `(width, height, channels)` of the image, with at
            least as many pixels as numbers are generated.
        uncond_in_size: Width of the unconditional input.
        cond_in_size: Width of the conditional input.
        num_layers: Layers, the fully connected one among them.
        num_filters: Channels of all layers but the last; by default 128 in the last hidden one
            and twice as many in each before it.
        kernel_size: Size of the kernels, one or one for each transposed convolution.
        sa_units: Layers after which self-attention stands.
        verbose: Print what was made.
        activation_fn: Activation of the hidden layers, one that `Deconv` has.
        use_bias: Whether layers have biases.
        no_uncond_weights: The shared parameters come from outside.
        no_cond_weights: The condition embeddings come from outside.
        num_cond_embs: Number of condition embeddings.
        use_spectral_norm: Divide weights by their largest singular value.
        use_batch_norm: Batch norm in the hidden layers.
    """

    def __init__(
        self,
        target_shapes: Sequence[Sequence[int]],
        hyper_img_shape: Sequence[int],
        uncond_in_size: int = 0,
        cond_in_size: int = 8,
        num_layers: int = 5,
        num_filters: Sequence[int] | None = None,
        kernel_size: Any = 5,
        sa_units: Sequence[int] = (1, 3),
        verbose: bool = True,
        activation_fn: Callable[[Tensor], Tensor] | None = _RELU,
        use_bias: bool = True,
        no_uncond_weights: bool = False,
        no_cond_weights: bool = False,
        num_cond_embs: int = 1,
        use_spectral_norm: bool = False,
        use_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        options = (activation_fn, use_spectral_norm, use_batch_norm)
        trunk = deconv(hyper_img_shape, num_layers, num_filters, kernel_size, sa_units, options)
        self._build(
            target_shapes,
            trunk,
            (uncond_in_size, cond_in_size),
            hl.Direct(math.prod(hyper_img_shape)),
            (use_bias, no_uncond_weights, no_cond_weights, num_cond_embs if cond_in_size else 0),
        )
        if verbose:
            print(self)
