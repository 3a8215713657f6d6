"""The target's buffers in one call: where their values come from, and what becomes of writes."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from hyperloom._core.errors import message
from hyperloom.torch._target.skeleton import Skeleton
from hyperloom.torch._target.tensors import TensorTree, equal


class Buffers:
    """The target's buffers for the conditions of one call.

    Buffers that are kept by id have a row for each condition; the others are shared by all. The
    target writes copies; what it has written is stored by `store`.

    Args:
        skeleton: The target.
        shared: Its buffers.
        by_id: Those of them that are kept by id, `(num_ids, *shape)`.
        ids: `(*batch,)`, or `None` where the condition has none or none is known.
        batch: The batch of conditions.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        shared: TensorTree,
        by_id: TensorTree,
        ids: Tensor | None,
        batch: torch.Size,
    ) -> None:
        self.batch, self.num = batch, math.prod(batch)
        self.skeleton = skeleton
        self.tables = dict(by_id.tensors())
        self.plain = dict(shared.tensors())
        self.ids = None
        if self.tables and ids is not None:
            self.ids = ids.reshape(-1)
        elif self.tables and not self.skeleton.module.training:
            name = next(iter(self.tables))
            got = f"nothing, and the target's {name!r} is kept by id"
            way_out = "Pass it: run(params, ..., condition=ids)."
            raise ValueError(message("condition", got, "the ids that params are of", way_out))
        self.lost = bool(self.tables) and self.ids is None
        # Rows of a table are copies; whoever runs with shared buffers copies them.
        ids = self.ids
        tables = {} if ids is None else self.tables
        self.rows = {n: t.index_select(0, ids) for n, t in tables.items() if ids is not None}
        self.shared = {n: v for n, v in self.plain.items() if n not in self.rows}
        self.written: dict[str, Tensor] = {}  # shared buffers, as the loop has left them
        self.by_id: dict[tuple[str, int], Tensor] = {}
        self.returned_rows: dict[str, Tensor] = {}  # rows that vmap has returned

    def __len__(self) -> int:
        return self.num

    @property
    def empty(self) -> bool:
        """Whether nothing was written."""
        return not (self.written or self.by_id or self.returned_rows)

    def copy(self) -> Buffers:
        """Return the same buffers with nothing written yet, whatever is stored in between."""
        copied = object.__new__(Buffers)
        copied.__dict__.update(self.__dict__)
        copied.shared = {name: value.clone() for name, value in self.shared.items()}
        copied.written, copied.by_id, copied.returned_rows = {}, {}, {}
        return copied

    def forget(self) -> None:
        """Forget what was written, for a run that starts again."""
        self.written, self.by_id, self.returned_rows = {}, {}, {}

    @contextmanager
    def one(self, row: int) -> Generator[dict[str, Tensor]]:
        """Give the buffers of one condition; on leaving, note what was written into them."""
        number = row if self.num == 1 or _compiling() or not self.rows else int(self.ids[row])  # type: ignore[index]
        start = {n: self.written.get(n, v) for n, v in self.shared.items()}
        start.update((n, self.by_id.get((n, number), v[row])) for n, v in self.rows.items())
        copies = {name: value.clone() for name, value in start.items()}
        given = dict(copies)
        yield given
        for name, value in given.items():
            if value is copies[name] and not self._wrote(name, value, start[name]):
                continue
            if name in self.rows:
                self.by_id[name, number] = value
            else:
                self.written[name] = value
        if not _compiling():
            self.skeleton.compared.add(self.skeleton.module.training)

    def batched(self) -> dict[str, Tensor]:
        """Return the buffers `(*batch, *shape)` that have a value for each condition under vmap."""
        batched = {n: v.unflatten(0, self.batch) for n, v in self.rows.items()}
        for name in self.skeleton.statistics_now():
            if name not in batched:  # shared, and updated from all conditions together
                value = self.shared[name]
                batched[name] = value.expand(*self.batch, *value.shape)
        return batched

    def returned(self) -> list[str]:
        """Return which of them are to be given back after the run under vmap."""
        updated, norms = self.skeleton.statistics_now(), self.skeleton.momenta
        return [n for n in self.batched() if n in updated or n not in norms]

    def take(self, returned: Mapping[str, Tensor]) -> None:
        """Keep what vmap has returned for the buffers, `(*batch, *shape)`."""
        last = len(self.batch) - 1
        self.returned_rows = {name: value.flatten(0, last) for name, value in returned.items()}

    def store(self) -> None:
        """Write into the hypernetwork what the run has written."""
        with torch.no_grad():
            for name, value in self.written.items():
                self.plain[name].copy_(value)
            for (name, number), value in self.by_id.items():
                if self.num == 1:
                    assert self.ids is not None
                    self.tables[name].index_copy_(0, self.ids, value.unsqueeze(0))
                else:
                    self.tables[name][number] = value
            if self.returned_rows:
                self._store_rows()

    def _store_rows(self) -> None:
        """Store what vmap returned, as if the conditions had come one after the other.

        A norm's running value r becomes r + m (s - r) with the statistic s of the batch. Of
        several such steps from the same r, one after the other, each is worth (1 - m) to the power
        of the steps that follow it.
        """
        zeros = torch.zeros(
            self.num, dtype=torch.int64, device=next(iter(self.returned_rows.values())).device
        )
        for name, value in self.returned_rows.items():
            by_id = name in self.rows
            ids = self.ids if by_id else zeros
            assert ids is not None
            table = self.tables[name] if by_id else self.plain[name].unsqueeze(0)
            momentum = self.skeleton.momenta.get(name)
            if momentum is None:
                table.index_copy_(0, ids, value)
                continue
            step = value - table.index_select(0, ids)
            if momentum:
                worth = (1 - momentum) ** later(ids).to(step.dtype)
                step = step * worth.reshape(-1, *(1,) * (step.ndim - 1))
            table.index_add_(0, ids, step)

    def _wrote(self, name: str, value: Tensor, start: Tensor) -> bool:
        """Whether the target has written into a buffer.

        Tensors count their writes, but `F.batch_norm` writes past the count. Running statistics
        are known; for others the values are compared, in the first call of each mode.
        """
        skeleton = self.skeleton
        if name in skeleton.statistics_now() or name in skeleton.secretly_written:
            return True
        if _compiling():  # a graph cannot look at values: what the code may write, it has written
            return skeleton.code.may_write
        if not value.is_inference() and value._version:
            return True
        looked = skeleton.module.training in skeleton.compared and not skeleton.code.may_write
        if looked and not value.is_inference():
            return False
        if value.device.type == "meta" or equal(value, start):
            return False
        skeleton.secretly_written.add(name)
        return True


class _NoBuffers(Buffers):
    """The buffers of a target that has none: nothing is looked at."""

    def __init__(self) -> None:
        self.written, self.by_id, self.returned_rows = {}, {}, {}
        self.shared, self.rows, self.lost = {}, {}, False
        self.plain, self.tables = {}, {}

    def copy(self) -> Buffers:
        return self

    @contextmanager
    def one(self, row: int) -> Generator[dict[str, Tensor]]:
        yield {}

    def batched(self) -> dict[str, Tensor]:
        return {}

    def returned(self) -> list[str]:
        return []


NO_BUFFERS = _NoBuffers()


def later(ids: Tensor) -> Tensor:
    """Return for each entry how many equal ones come after it."""
    order = ids.argsort(stable=True)
    ordered = ids[order].contiguous()
    ends = torch.searchsorted(ordered, ordered, right=True)
    place = torch.arange(len(ids), device=ids.device)
    return torch.empty_like(place).index_copy_(0, order, ends - 1 - place)


def _compiling() -> bool:
    return torch.compiler.is_compiling()
