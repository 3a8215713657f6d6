"""The hypernetwork that draws its weights as several images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

import hyperloom.torch as hl
from hyperloom.compat.hypnettorch._door.errors import require
from hyperloom.compat.hypnettorch.hnets.deconv_hnet import _Drawing, deconv

_RELU = nn.ReLU()


class ChunkedHDeconv(_Drawing):
    """A hypernetwork of transposed convolutions that is run once for each chunk.

    hypnettorch 0.0.4 has this class without contents; what it says of it works here.

    Args:
        target_shapes: Shapes of the tensors to generate.
        hyper_img_shape: Size of an image, the numbers of a chunk; as in `HDeconv`, like all
            arguments that are not named here.
        chunk_emb_size: Width of the chunk embeddings.
        cond_chunk_embs: Chunk embeddings of its own for each condition.
    """

    def __init__(
        self,
        target_shapes: Sequence[Sequence[int]],
        hyper_img_shape: Sequence[int],
        chunk_emb_size: int = 8,
        cond_chunk_embs: bool = False,
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
        if cond_chunk_embs and num_cond_embs == 0:
            raise ValueError("cond_chunk_embs: wants num_cond_embs of at least 1.")
        options = (activation_fn, use_spectral_norm, use_batch_norm)
        trunk = deconv(hyper_img_shape, num_layers, num_filters, kernel_size, sa_units, options)
        num = num_cond_embs if cond_in_size or cond_chunk_embs else 0
        self._build(
            target_shapes,
            trunk,
            (uncond_in_size, cond_in_size),
            hl.Direct(math.prod(hyper_img_shape), chunk_emb_size, cond_chunk_embs),
            (use_bias, no_uncond_weights, no_cond_weights, num),
        )
        if verbose:
            print(f"{self}, in {self.num_chunks} chunks")

    @property
    def num_chunks(self) -> int:
        """Number of images, and of chunk embeddings."""
        return math.ceil(self.num_outputs / self._layout.size)

    @property
    def chunk_emb_size(self) -> int:
        """Width of the chunk embeddings."""
        return self._layout.embedding

    @property
    def cond_chunk_embs(self) -> bool:
        """Whether each condition has chunk embeddings of its own."""
        return self._layout.per_condition

    def get_chunk_emb(self, chunk_id: int | None = None, cond_id: int | None = None) -> Tensor:
        """Return the embedding of a chunk, or the matrix of all. See `ChunkedHMLP`."""
        own = [e.parameter for e in self._ledger.held if "info" in e.extra]
        if self.cond_chunk_embs:
            num = self.num_known_conds
            if not isinstance(cond_id, int) or not 0 <= cond_id < num:
                raise RuntimeError(f"cond_id: got {cond_id!r}; wanted an int below {num}.")
        else:
            require(cond_id is None, "cond_id: chunk embeddings are shared by all conditions.")
        matrix = own[cond_id or 0] if own else None
        if matrix is None:
            raise RuntimeError("The chunk embeddings come from outside.")
        if chunk_id is None:
            return matrix
        if not isinstance(chunk_id, int) or not 0 <= chunk_id < self.num_chunks:
            raise RuntimeError(f"chunk_id: got {chunk_id!r}; wanted below {self.num_chunks}.")
        return matrix[chunk_id]
