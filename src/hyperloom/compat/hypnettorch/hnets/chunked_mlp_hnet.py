"""The hypernetwork that generates weights chunk by chunk."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hyperloom.compat.hypnettorch._door.errors import require
from hyperloom.compat.hypnettorch._door.formats import check_format, from_batched
from hyperloom.compat.hypnettorch._door.generator import Slots
from hyperloom.compat.hypnettorch._door.init import fill_chunked_hyperfan, rule
from hyperloom.compat.hypnettorch._door.inputs import (
    check_inputs,
    check_width,
    ids_of,
    look_up,
    one_batch,
    supplied,
)
from hyperloom.compat.hypnettorch._door.ledger import Entry, Ledger, entry
from hyperloom.compat.hypnettorch.hnets.hnet_interface import HyperNetInterface
from hyperloom.compat.hypnettorch.hnets.mlp_hnet import HMLP

_RELU = nn.ReLU()


class ChunkedHMLP(nn.Module, HyperNetInterface):
    """A fully connected hypernetwork that is run once for each chunk: `Chunked(chunk_size)`.

    Args:
        target_shapes: Shapes of the tensors to generate.
        chunk_size: Numbers in a chunk.
        chunk_emb_size: Width of the chunk embeddings.
        cond_chunk_embs: Chunk embeddings of its own for each condition.
        uncond_in_size: As in `HMLP`, like all arguments after it.
        cond_in_size: May be 0 with `cond_chunk_embs`.
        layers: Widths of the hidden layers.
        verbose: Print what was made.
        activation_fn: Activation of the hidden layers.
        use_bias: Whether layers have biases.
        no_uncond_weights: The shared parameters come from outside.
        no_cond_weights: The conditional parameters come from outside.
        num_cond_embs: Number of conditions.
        dropout_rate: Probability of dropping a hidden feature; 1 or -1 for none.
        use_spectral_norm: Divide hidden weights by their largest singular value.
        use_batch_norm: Batch norm in the hidden layers.
    """

    def __init__(
        self,
        target_shapes: Sequence[Sequence[int]],
        chunk_size: int,
        chunk_emb_size: int = 8,
        cond_chunk_embs: bool = False,
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
        require(chunk_size > 0, f"chunk_size: got {chunk_size}; wanted at least 1.")
        _refuse_constant(uncond_in_size, cond_in_size, cond_chunk_embs, num_cond_embs)
        self._chunk_size, self._chunk_emb_size = chunk_size, chunk_emb_size
        self._cond_chunk_embs = cond_chunk_embs
        self._widths = (uncond_in_size, cond_in_size)
        self._hnet = HMLP(
            [[chunk_size]],
            uncond_in_size=uncond_in_size + chunk_emb_size,
            cond_in_size=cond_in_size,
            layers=layers,
            verbose=False,
            activation_fn=activation_fn,
            use_bias=use_bias,
            no_uncond_weights=no_uncond_weights,
            no_cond_weights=no_cond_weights,
            num_cond_embs=num_cond_embs if cond_in_size or not cond_chunk_embs else 0,
            dropout_rate=dropout_rate,
            use_spectral_norm=use_spectral_norm,
            use_batch_norm=use_batch_norm,
        )
        num_chunks = math.ceil(self.shapes_to_num_weights(target_shapes) / chunk_size)
        external = no_cond_weights if cond_chunk_embs else no_uncond_weights
        own = [
            _chunk_embeddings([num_chunks, chunk_emb_size], external, cond_chunk_embs)
            for _ in range(num_cond_embs if cond_chunk_embs else 1)
        ]
        ledger = Ledger((*self._hnet._ledger.entries, *own))
        self._settle(ledger, target_shapes, num_cond_embs)
        self._batchnorm_layers = self._hnet.batchnorm_layers
        self._has_bias = use_bias
        self._has_fc_out = self._has_linear_out = True
        self._mask_fc_out = False
        if verbose:
            print(f"{self}, in {num_chunks} chunks of {chunk_size}")

    @property
    def num_chunks(self) -> int:
        """Number of chunks, and of chunk embeddings."""
        return math.ceil(self.num_outputs / self._chunk_size)

    @property
    def chunk_emb_size(self) -> int:
        """Width of the chunk embeddings."""
        return self._chunk_emb_size

    @property
    def cond_chunk_embs(self) -> bool:
        """Whether each condition has chunk embeddings of its own."""
        return self._cond_chunk_embs

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
        weights, slots = self._chunk_embs_given(weights, cond_id)
        if cond_input is not None and self._cond_chunk_embs and slots is None:
            raise ValueError("cond_input: wants weights={'chunk_embs': ...} beside it.")
        uncond_weights, cond_weights = supplied(self, weights)
        check_inputs(uncond_input, cond_input, cond_id, required=sum(self._widths) > 0)
        if cond_id is not None and self._cond_chunk_embs:
            cond_input, slots = self._own_of(cond_id, cond_weights)
        elif cond_id is not None:
            cond_input = look_up(self, cond_id, cond_weights)
        uncond_input, cond_input, slots = one_batch(uncond_input, cond_input, slots)
        check_width("uncond_input", uncond_input, self._widths[0])
        check_width("cond_input", cond_input, self._widths[1])
        require(uncond_weights is not None, "weights: the shared parameters are missing.")
        shared = list(uncond_weights or ())
        if not self._cond_chunk_embs:
            slots = shared.pop()
        require(slots is not None, "cond_id: wanted, for the chunk embeddings of a condition.")
        numbers = self._hnet._numbers(shared, condition)
        numbers.slots = slots
        size = Slots(self._chunk_size, self._chunk_emb_size, self._cond_chunk_embs)
        generator = self._hnet._native(size, self.target_shapes)
        made = generator.run(uncond_input, cond_input, numbers, self.training)
        return from_batched(made, ret_format)

    def _chunk_embs_given(self, weights: Any, cond_id: Any) -> tuple[Any, Tensor | None]:
        """Take the chunk embeddings out of the weights, if they are there."""
        if not isinstance(weights, dict) or "chunk_embs" not in weights:
            return weights, None
        if not self._cond_chunk_embs:
            raise ValueError("weights: chunk_embs are only for cond_chunk_embs=True.")
        given = weights["chunk_embs"]
        size = (self.num_chunks, self._chunk_emb_size)
        text = f"weights['chunk_embs']: got {tuple(given.shape)}; wanted (B, {size[0]}, {size[1]})."
        require(given.ndim == 3 and given.shape[1:] == size, text)
        if cond_id is not None:
            raise ValueError("cond_id: cannot be given together with chunk_embs.")
        rest = {key: value for key, value in weights.items() if key != "chunk_embs"}
        return rest or None, given

    def _own_of(
        self, cond_id: Any, cond_weights: list[Tensor] | None
    ) -> tuple[Tensor | None, Tensor]:
        """Return embeddings and chunk embeddings of some conditions."""
        if cond_weights is None:
            raise ValueError("cond_id: there are no conditional parameters, inside or in weights.")
        num = self.num_known_conds
        ids = ids_of(cond_id, num)
        require(len(cond_weights) >= num, "cond_id: conditional parameters are missing.")
        chunks = cond_weights[len(cond_weights) - num :]
        vectors = torch.stack([cond_weights[i] for i in ids]) if self._widths[1] else None
        return vectors, torch.stack([chunks[i] for i in ids])

    def distillation_targets(self) -> None:
        """Return `None`: there are none."""
        return None

    def apply_chunked_hyperfan_init(
        self,
        method: str = "in",
        use_xavier: bool = False,
        uncond_var: float = 1.0,
        cond_var: float = 1.0,
        eps: float = 1e-5,
        cemb_normal_init: bool = False,
        mnet: Any = None,
        target_vars: Any = None,
    ) -> None:
        """Fill the parameters so that chunks have the variance that a rule asks for on average.

        The chunk embeddings' variance does it. A native `Chunked` layout has a scale for each
        tensor instead, which is exact.

        Args:
            method: `"in"`, `"out"` or `"harmonic"`.
            use_xavier: Xavier's gain (1) in place of Kaiming's (2).
            uncond_var: Variance of the unconditional input.
            cond_var: Variance of the conditional input.
            eps: Smallest variance of a chunk embedding.
            cemb_normal_init: Normal draws for the chunk embeddings, in place of uniform ones.
            mnet: The target, whose `param_shapes_meta` say what each tensor is for.
            target_vars: Variance wanted of each tensor, a list or a dict by tensor name.

        Raises:
            ValueError: An unknown method, or no parameters are held inside.
            RuntimeError: The hypernetwork has batch norm.
        """
        init = rule(method, not use_xavier)
        options = (eps, cemb_normal_init, mnet, target_vars)
        fill_chunked_hyperfan(self, init, not use_xavier, (uncond_var, cond_var), options)

    def get_cond_in_emb(self, cond_id: int) -> nn.Parameter:
        """Return the embedding of a condition. Raises as `HMLP.get_cond_in_emb`."""
        return self._hnet.get_cond_in_emb(cond_id)

    def get_chunk_emb(self, chunk_id: int | None = None, cond_id: int | None = None) -> Tensor:
        """Return the embedding of a chunk, or the matrix of all.

        Args:
            chunk_id: The chunk; all by default.
            cond_id: The condition, wanted if each has its own.

        Raises:
            RuntimeError: An id that there is not, or embeddings that come from outside.
        """
        held = self.conditional_params if self._cond_chunk_embs else self.unconditional_params
        if self._cond_chunk_embs:
            num = self.num_known_conds
            if not isinstance(cond_id, int) or not 0 <= cond_id < num:
                raise RuntimeError(f"cond_id: got {cond_id!r}; wanted an int below {num}.")
        else:
            require(cond_id is None, "cond_id: chunk embeddings are shared by all conditions.")
        if not held:
            raise RuntimeError("The chunk embeddings come from outside.")
        matrix = held[-1] if cond_id is None else held[cond_id - self.num_known_conds]
        if chunk_id is None:
            return matrix
        if not isinstance(chunk_id, int) or not 0 <= chunk_id < self.num_chunks:
            raise RuntimeError(f"chunk_id: got {chunk_id!r}; wanted below {self.num_chunks}.")
        return matrix[chunk_id]


def _chunk_embeddings(shape: list[int], external: bool, conditional: bool) -> Entry:
    """Return chunk embeddings, drawn from a standard normal distribution where they are held."""
    extra = {"info": "chunk embeddings"}
    found = entry(shape, "embedding", 0, external, conditional=conditional, extra=extra)
    if found.parameter is not None:
        nn.init.normal_(found.parameter)
    return found


def _refuse_constant(uncond: int, cond: int, cond_chunk_embs: bool, num: int) -> None:
    """Raise for a hypernetwork that could only generate one and the same output."""
    if cond_chunk_embs and num == 0:
        raise ValueError("cond_chunk_embs: wants num_cond_embs of at least 1.")
    if cond == 0 and uncond == 0 and not cond_chunk_embs:
        raise ValueError(
            "cond_in_size: without any input the output is fixed. "
            "If that is wanted, use cond_chunk_embs=True and num_cond_embs=1."
        )
