"""The hypernetwork whose chunks follow the structure of the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hyperloom.compat.hypnettorch._door.errors import require
from hyperloom.compat.hypnettorch._door.formats import check_format, from_samples
from hyperloom.compat.hypnettorch._door.generator import Slots
from hyperloom.compat.hypnettorch._door.inputs import (
    check_inputs,
    check_width,
    ids_of,
    look_up,
    one_batch,
    supplied,
)
from hyperloom.compat.hypnettorch._door.ledger import Entry, Ledger, entry
from hyperloom.compat.hypnettorch._door.members import joined, take_over, train_members
from hyperloom.compat.hypnettorch.hnets.hnet_interface import HyperNetInterface
from hyperloom.compat.hypnettorch.hnets.mlp_hnet import HMLP

Chunks = list[list[Tensor]]
_OWN = ("uncond_in_size", "cond_in_size", "no_uncond_weights", "no_cond_weights", "num_cond_embs")


class StructuredHMLP(nn.Module, HyperNetInterface):
    """Several fully connected hypernetworks, each run several times, and their chunks assembled.

    Natively that is `Grouped(unit=Layers())` or `Grouped(unit=Tiles())` for any module, or
    `Assembled` for a structure of one's own.

    Args:
        target_shapes: Shapes of the tensors to generate.
        chunk_shapes: For each internal hypernetwork, the shapes of one chunk.
        num_per_chunk: How often each is run.
        chunk_emb_sizes: Width of the chunk embeddings, an int or one for each; 0 for a
            hypernetwork without, which then is run once.
        hmlp_kwargs: Further arguments of `HMLP`, a dict or one for each.
        assembly_fct: `f(chunks)` that returns the tensors of `target_shapes` for one sample; a
            chunk is a list of tensors.
        cond_chunk_embs: Chunk embeddings of its own for each condition.
        uncond_in_size: As in `HMLP`, like all arguments after it.
        cond_in_size: May be 0 with `cond_chunk_embs`.
        verbose: Print what was made.
        no_uncond_weights: The shared parameters come from outside.
        no_cond_weights: The conditional parameters come from outside.
        num_cond_embs: Number of conditions.
    """

    def __init__(
        self,
        target_shapes: Sequence[Sequence[int]],
        chunk_shapes: Sequence[Sequence[Sequence[int]]],
        num_per_chunk: Sequence[int],
        chunk_emb_sizes: int | Sequence[int],
        hmlp_kwargs: dict[str, Any] | Sequence[dict[str, Any]],
        assembly_fct: Callable[[Chunks], list[Tensor]],
        cond_chunk_embs: bool = False,
        uncond_in_size: int = 0,
        cond_in_size: int = 8,
        verbose: bool = True,
        no_uncond_weights: bool = False,
        no_cond_weights: bool = False,
        num_cond_embs: int = 1,
    ) -> None:
        super().__init__()
        num = len(chunk_shapes)
        emb_sizes = _each("chunk_emb_sizes", chunk_emb_sizes, num, int)
        kwargs = _each("hmlp_kwargs", hmlp_kwargs, num, dict)
        inputs = uncond_in_size + cond_in_size
        _check(chunk_shapes, num_per_chunk, emb_sizes, kwargs, inputs)
        if inputs == 0 and not cond_chunk_embs:
            raise ValueError("cond_in_size: without any input the output is fixed.")
        self._chunk_shapes, self._num_per_chunk = chunk_shapes, list(num_per_chunk)
        self._emb_sizes, self._assembly_fct = emb_sizes, assembly_fct
        self._cond_chunk_embs = cond_chunk_embs
        self._widths = (uncond_in_size, cond_in_size)
        # The first one holds the condition embeddings, for all.
        held = num_cond_embs if cond_in_size or not cond_chunk_embs else 0
        self._hnets: list[HMLP] = []
        for i, shapes in enumerate(chunk_shapes):
            options: Any = {"verbose": False, **kwargs[i]}
            made = HMLP(
                shapes,
                uncond_in_size=uncond_in_size + emb_sizes[i],
                cond_in_size=cond_in_size,
                no_uncond_weights=no_uncond_weights,
                no_cond_weights=no_cond_weights or i > 0,
                num_cond_embs=held if i == 0 else 0,
                **options,
            )
            self._hnets.append(made)
        external = no_cond_weights if cond_chunk_embs else no_uncond_weights
        own = [
            embeddings
            for i in (range(num_cond_embs) if cond_chunk_embs else [-1])
            for embeddings in self._embeddings_of(i, external)
        ]
        ledger = Ledger((*joined(self._hnets, "hnet_ind", {}), *own))
        self._settle(ledger, target_shapes, num_cond_embs)
        take_over(self, self._hnets)
        self._mask_fc_out = False
        if verbose:
            print(f"{self}, in {self.num_chunks} chunks of {num} kinds")

    def _embeddings_of(self, cond_id: int, external: bool) -> list[Entry]:
        """Return entries for the chunk embeddings of a condition (-1: of all)."""
        made = []
        for i, (num, size) in enumerate(zip(self._num_per_chunk, self._emb_sizes, strict=True)):
            if size:
                extra = {"info": "chunk embeddings", "hnet_ind": i, "cond_id": cond_id}
                options: dict[str, Any] = {"conditional": cond_id >= 0, "extra": extra}
                made.append(entry([num, size], "embedding", 0, external, **options))
        for each in made:
            if each.parameter is not None:
                nn.init.normal_(each.parameter)
        return made

    @property
    def num_chunks(self) -> int:
        """Number of chunks, of all kinds."""
        return sum(self._num_per_chunk)

    @property
    def chunk_emb_shapes(self) -> list[list[int]]:
        """Shapes of the chunk embeddings of one call."""
        pairs = zip(self._num_per_chunk, self._emb_sizes, strict=True)
        return [[num, size] for num, size in pairs if size]

    @property
    def cond_chunk_embs(self) -> bool:
        """Whether each condition has chunk embeddings of its own."""
        return self._cond_chunk_embs

    @property
    def internal_hnets(self) -> list[HMLP]:
        """The hypernetworks that generate the chunks."""
        return self._hnets

    def train(self, mode: bool = True) -> StructuredHMLP:
        """Set the mode, that of `internal_hnets` too."""
        train_members(self._hnets, mode)
        return super().train(mode)

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

        With `cond_chunk_embs`, a dict of `weights` may hold `chunk_embs`, a list of batches
        `(B, *shape)` of chunk embeddings, shapes as in `chunk_emb_shapes`, in place of `cond_id`.
        """
        check_format(ret_format)
        if distilled_params is not None:
            raise NotImplementedError("distilled_params are not supported.")
        weights, slots = self._chunk_embs_given(weights, cond_id)
        own = self._cond_chunk_embs and bool(self.chunk_emb_shapes)
        if cond_input is not None and own and slots is None:
            raise ValueError("cond_input: wants weights={'chunk_embs': ...} beside it.")
        uncond_weights, cond_weights = supplied(self, weights)
        check_inputs(uncond_input, cond_input, cond_id, required=sum(self._widths) > 0)
        if cond_id is not None and self._cond_chunk_embs:
            cond_input, slots = self._own_of(cond_id, cond_weights)
        elif cond_id is not None:
            cond_input = look_up(self, cond_id, cond_weights)
        require(uncond_weights is not None, "weights: the shared parameters are missing.")
        shared = list(uncond_weights or ())
        if not self._cond_chunk_embs:
            cut = len(shared) - len(self.chunk_emb_shapes)
            shared, slots = shared[:cut], shared[cut:]
        text = "cond_id: wanted, for the chunk embeddings of a condition."
        require(slots is not None or not own, text)
        batched = [*(slots or ())] if self._cond_chunk_embs else []
        uncond_input, cond_input, *batched = one_batch(uncond_input, cond_input, *batched)
        check_width("uncond_input", uncond_input, self._widths[0])
        check_width("cond_input", cond_input, self._widths[1])
        slots = batched if self._cond_chunk_embs else slots
        chunks = self._run((uncond_input, cond_input), shared, list(slots or ()), condition)
        return from_samples([self._sample(sample) for sample in chunks], ret_format)

    def _run(
        self,
        inputs: tuple[Tensor | None, Tensor | None],
        shared: list[Tensor],
        slots: list[Any],
        condition: int | None,
    ) -> list[Chunks]:
        """Run all generators; return the chunks of each sample."""
        samples: list[Chunks] = []
        for i, hnet in enumerate(self._hnets):
            num, size = self._num_per_chunk[i], self._emb_sizes[i]
            count = len(hnet.unconditional_param_shapes)
            own, shared = shared[:count], shared[count:]
            numbers = hnet._numbers(own, condition)
            runs = None
            if size:
                numbers.slots = slots.pop(0)
                runs = Slots(hnet.num_outputs, size, self._cond_chunk_embs)
            generator = hnet._native(runs, [*self._chunk_shapes[i]] * num)
            made = generator.run(*inputs, numbers, self.training)
            samples = samples or [[] for _ in range(len(made[0]))]
            tensors = [t.unbind(0) for t in made]
            width = len(self._chunk_shapes[i])
            for sample, own_tensors in zip(samples, zip(*tensors, strict=True), strict=True):
                flat = list(own_tensors)
                sample += [flat[j : j + width] for j in range(0, len(flat), width)]
        return samples

    def _sample(self, chunks: Chunks) -> list[Tensor]:
        """Put one sample together, and check what came out."""
        made = self._assembly_fct(chunks)
        shapes = [tuple(t.shape) for t in made]
        wanted = [tuple(s) for s in self.target_shapes]
        require(shapes == wanted, f"assembly_fct: returned {shapes}; wanted {wanted}.")
        return made

    def _chunk_embs_given(self, weights: Any, cond_id: Any) -> tuple[Any, list[Any] | None]:
        """Take the chunk embeddings out of the weights, if they are there."""
        if not isinstance(weights, dict) or "chunk_embs" not in weights:
            return weights, None
        if not self._cond_chunk_embs:
            raise ValueError("weights: chunk_embs are only for cond_chunk_embs=True.")
        given = list(weights["chunk_embs"])
        found = [list(t.shape[1:]) for t in given]
        text = f"weights['chunk_embs']: got {found}; wanted {self.chunk_emb_shapes}, in batches."
        require(found == self.chunk_emb_shapes, text)
        if cond_id is not None:
            raise ValueError("cond_id: cannot be given together with chunk_embs.")
        rest = {key: value for key, value in weights.items() if key != "chunk_embs"}
        return rest or None, given

    def _own_of(
        self, cond_id: Any, cond_weights: list[Tensor] | None
    ) -> tuple[Tensor | None, list[Any]]:
        """Return embeddings and chunk embeddings of some conditions."""
        if cond_weights is None:
            raise ValueError("cond_id: there are no conditional parameters, inside or in weights.")
        text = "cond_id: conditional parameters are missing."
        require(len(cond_weights) == len(self.conditional_param_shapes), text)
        num, per_cond = self.num_known_conds, len(self.chunk_emb_shapes)
        ids = ids_of(cond_id, num)
        first = len(cond_weights) - num * per_cond
        slots = [
            torch.stack([cond_weights[first + i * per_cond + j] for i in ids])
            for j in range(per_cond)
        ]
        vectors = torch.stack([cond_weights[i] for i in ids]) if self._widths[1] else None
        return vectors, slots

    def distillation_targets(self) -> None:
        """Return `None`: there are none."""
        return None

    def get_cond_in_emb(self, cond_id: int) -> nn.Parameter:
        """Return the embedding of a condition. Raises as `HMLP.get_cond_in_emb`."""
        return self._hnets[0].get_cond_in_emb(cond_id)

    def get_chunk_embs(self, cond_id: int | None = None) -> list[nn.Parameter]:
        """Return the chunk embeddings, shapes as in `chunk_emb_shapes`.

        Args:
            cond_id: The condition, wanted if each has its own.

        Raises:
            RuntimeError: An id that there is not, or embeddings that come from outside.
        """
        if self._cond_chunk_embs:
            num = self.num_known_conds
            if not isinstance(cond_id, int) or not 0 <= cond_id < num:
                raise RuntimeError(f"cond_id: got {cond_id!r}; wanted an int below {num}.")
        else:
            require(cond_id is None, "cond_id: chunk embeddings are shared by all conditions.")
        wanted = -1 if cond_id is None else cond_id
        own = [e for e in self._ledger.entries if e.extra.get("cond_id") == wanted]
        found = [e.parameter for e in own if e.parameter is not None]
        if len(found) < len(own):
            raise RuntimeError("The chunk embeddings come from outside.")
        return found


def _each(argument: str, value: Any, num: int, kind: type) -> list[Any]:
    """Return an option for each internal hypernetwork."""
    if isinstance(value, kind):
        return [value] * num
    text = f"{argument}: wanted a {kind.__name__}, or a list of {num}."
    require(isinstance(value, (list, tuple)) and len(value) == num, text)
    return list(value)


def _check(
    chunk_shapes: Any, num_per_chunk: Any, emb_sizes: list[int], kwargs: list[Any], inputs: int
) -> None:
    """Raise for arguments that do not fit each other."""
    whole = isinstance(chunk_shapes, (list, tuple)) and len(chunk_shapes) > 0
    require(whole and all(len(shapes) for shapes in chunk_shapes), "chunk_shapes: wanted lists.")
    require(len(num_per_chunk) == len(chunk_shapes), "num_per_chunk: wanted one for each chunk.")
    if 0 in num_per_chunk:
        raise ValueError("num_per_chunk: got a 0; wanted at least one chunk of each kind.")
    for num, size in zip(num_per_chunk, emb_sizes, strict=True):
        if size == 0 and (num != 1 or inputs == 0):
            raise ValueError("chunk_emb_sizes: 0 is for chunks made once, from other inputs.")
    for each in kwargs:
        require(isinstance(each, dict), "hmlp_kwargs: wanted dicts.")
        for key in _OWN:
            if key in each:
                raise ValueError(f"hmlp_kwargs: {key} is an argument of StructuredHMLP itself.")
