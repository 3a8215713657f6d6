"""The fully connected hypernetwork."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from hyperloom.compat.hypnettorch._door.errors import require
from hyperloom.compat.hypnettorch._door.formats import check_format, from_batched
from hyperloom.compat.hypnettorch._door.generator import (
    Generator,
    Numbers,
    Options,
    Slots,
    probability,
)
from hyperloom.compat.hypnettorch._door.init import fill_hyperfan
from hyperloom.compat.hypnettorch._door.inputs import (
    check_inputs,
    check_width,
    look_up,
    one_batch,
    supplied,
)
from hyperloom.compat.hypnettorch._door.ledger import Entry, Ledger, entry
from hyperloom.compat.hypnettorch.hnets.hnet_interface import HyperNetInterface
from hyperloom.compat.hypnettorch.utils.batchnorm_layer import BatchNormLayer

_RELU = nn.ReLU()


class HMLP(nn.Module, HyperNetInterface):
    """A fully connected hypernetwork: `Full()` with an `MLP` trunk.

    Args:
        target_shapes: Shapes of the tensors to generate.
        uncond_in_size: Width of the unconditional input. Default 0: none.
        cond_in_size: Width of the conditional input.
        layers: Widths of the hidden layers; empty for a linear hypernetwork.
        verbose: Print what was made.
        activation_fn: Activation of the hidden layers, `None` for none.
        use_bias: Whether layers have biases.
        no_uncond_weights: The shared parameters come from outside, at every call.
        no_cond_weights: The condition embeddings come from outside, at every call.
        num_cond_embs: Number of condition embeddings.
        dropout_rate: Probability of dropping a hidden feature; 1 (default) or -1 for none.
        use_spectral_norm: Divide hidden weights by their largest singular value.
        use_batch_norm: Batch norm in the hidden layers.
    """

    def __init__(
        self,
        target_shapes: Sequence[Sequence[int]],
        uncond_in_size: int = 0,
        cond_in_size: int = 8,
        layers: Sequence[int] = (100, 100),
        verbose: bool = True,
        activation_fn: Callable[[Tensor], Tensor] | None = _RELU,
        use_bias: bool = True,
        no_uncond_weights: bool = False,
        no_cond_weights: bool = False,
        num_cond_embs: int = 1,
        dropout_rate: float = 1,
        use_spectral_norm: bool = False,
        use_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        require(len(target_shapes) > 0, "target_shapes: got none; wanted at least one.")
        rate = probability(dropout_rate)
        num_cond_embs = _embeddings(cond_in_size, num_cond_embs, no_cond_weights)
        self._act_fn = activation_fn
        self._dropout = nn.Dropout(rate) if rate else None
        self._widths = (uncond_in_size, cond_in_size)
        self._layers = tuple(layers)
        self._options = Options(
            self._layers, activation_fn, use_bias, rate, use_batch_norm, use_spectral_norm
        )
        norms = [BatchNormLayer(n, not no_uncond_weights) for n in layers if use_batch_norm]
        entries = [
            entry([cond_in_size], "embedding", 0, no_cond_weights, conditional=True)
            for _ in range(num_cond_embs)
        ]
        for each in entries:
            if each.parameter is not None:
                nn.init.normal_(each.parameter)
        entries += _norm_entries(norms)
        fans = [sum(self._widths), *layers, self.shapes_to_num_weights(target_shapes)]
        entries += _linear_entries(fans, use_bias, no_uncond_weights)
        self._settle(Ledger(tuple(entries)), target_shapes, num_cond_embs)
        self._batchnorm_layers = nn.ModuleList(norms) if norms else None
        self._has_bias = use_bias
        self._has_fc_out = self._mask_fc_out = self._has_linear_out = True
        self._generators: dict[Slots | None, Generator] = {}
        if verbose:
            print(self)

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
        """Generate weights; see `HyperNetInterface.forward`."""
        check_format(ret_format)
        uncond_weights, cond_weights = supplied(self, weights)
        check_inputs(uncond_input, cond_input, cond_id, required=True)
        if cond_id is not None:
            cond_input = look_up(self, cond_id, cond_weights)
        uncond_input, cond_input = one_batch(uncond_input, cond_input)
        check_width("uncond_input", uncond_input, self._widths[0])
        check_width("cond_input", cond_input, self._widths[1])
        numbers = self._numbers(uncond_weights, condition)
        generator = self._native(None)
        return from_batched(
            generator.run(uncond_input, cond_input, numbers, self.training), ret_format
        )

    def _native(self, slots: Slots | None, shapes: Any = None) -> Generator:
        """Return the native hypernetwork, made at the first call.

        Args:
            slots: For a hypernetwork that runs this one several times.
            shapes: Shapes of what all runs generate together.
        """
        widths = self._widths
        if slots is not None:  # the embeddings are part of the unconditional input
            widths = (widths[0] - slots.width, widths[1])
        made = self._generators
        if slots not in made:
            shapes = self.target_shapes if shapes is None else shapes
            made[slots] = Generator(shapes, widths, self._options, self._dropout, slots)
        return made[slots]

    def _numbers(self, uncond_weights: list[Tensor] | None, condition: int | None) -> Numbers:
        """Sort the shared parameters by what they are for."""
        require(uncond_weights is not None, "weights: the shared parameters are missing.")
        names = [e.name for e in self._ledger.entries if not e.conditional]
        pairs = list(zip(names, uncond_weights or (), strict=True))
        by = {n: [t for name, t in pairs if name == n] for n in (*names, "bias")}
        norms = []
        for i, layer in enumerate(self._batchnorm_layers or ()):
            assert isinstance(layer, BatchNormLayer)
            stats = layer.chosen_stats(condition)
            norms.append((by["bn_scale"][i], by["bn_shift"][i], *stats))
        return Numbers(by["weight"], by["bias"], norms)

    def distillation_targets(self) -> None:
        """Return `None`: there are none."""
        return None

    def apply_hyperfan_init(
        self,
        method: str = "in",
        use_xavier: bool = False,
        uncond_var: float = 1.0,
        cond_var: float = 1.0,
        mnet: Any = None,
        w_val: Any = None,
        w_var: Any = None,
        b_val: Any = None,
        b_var: Any = None,
    ) -> None:
        """Fill all shared parameters by a hyperfan rule.

        Args:
            method: `"in"`, `"out"` or `"harmonic"`, as `HyperfanIn`, `HyperfanOut`, `Harmonic`.
            use_xavier: Xavier's gain (1) in place of Kaiming's (2).
            uncond_var: Variance of the unconditional input.
            cond_var: Variance of the conditional input.
            mnet: The target, whose `param_shapes_meta` say what each tensor is for.
            w_val: Mean of the head's weights, a list or a dict by tensor name.
            w_var: Their variance.
            b_val: Mean of the head's biases.
            b_var: Their variance. A weight or bias of the target follows the rule unless all
                four are given for it.

        Raises:
            ValueError: An unknown method, or no parameters are held inside.
        """
        fill_hyperfan(
            self, method, not use_xavier, (uncond_var, cond_var), mnet, (w_val, w_var, b_val, b_var)
        )

    def get_cond_in_emb(self, cond_id: int) -> nn.Parameter:
        """Return the embedding of a condition.

        Raises:
            RuntimeError: There is none of that id inside.
        """
        found = self.conditional_params or []
        if not isinstance(cond_id, int) or not 0 <= cond_id < len(found):
            raise RuntimeError(f"cond_id: got {cond_id!r}; wanted an int below {len(found)}.")
        return found[cond_id]


def _embeddings(cond_in_size: int, num: int, external: bool) -> int:
    """Return the number of embeddings, with a warning where it does not fit their width."""
    if cond_in_size == 0 and num > 0:
        text = "num_cond_embs: embeddings of width 0 (cond_in_size) are none; set to 0."
        warnings.warn(text, stacklevel=3)
        return 0
    if not external and num == 0 and cond_in_size > 0:
        warnings.warn("num_cond_embs: got 0, so no embeddings are held inside.", stacklevel=3)
    return num


def _norm_entries(norms: Sequence[BatchNormLayer]) -> list[Entry]:
    made = []
    for i, norm in enumerate(norms):
        tensors = list(norm.weights or (None, None))
        for name, shape, own in zip(
            ("bn_scale", "bn_shift"), norm.param_shapes, tensors, strict=True
        ):
            made.append(Entry(shape, name, 2 * i + 2, parameter=own))
    return made


def _linear_entries(fans: list[int], use_bias: bool, external: bool) -> list[Entry]:
    """Return weights and biases of the layers, filled as `nn.Linear` would be."""
    made = []
    for i, (fan_in, fan_out) in enumerate(pairwise(fans)):
        pair = [entry([fan_out, fan_in], "weight", 2 * i + 1, external, linear=True)]
        if use_bias:
            pair.append(entry([fan_out], "bias", 2 * i + 1, external, linear=True))
        for each in pair:
            if each.parameter is not None and fan_in:
                bound = 1 / math.sqrt(fan_in)
                nn.init.uniform_(each.parameter, -bound, bound)
        made += pair
    return made
