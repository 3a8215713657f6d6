"""What can be looked at: a checkpoint in NumPy, with no framework installed, or a hypernetwork."""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hyperloom._core.checkpoint.file import read_file
from hyperloom._core.choices.conditions import Embedding
from hyperloom._core.errors import message, shown
from hyperloom._core.plan.plan import Plan
from hyperloom._core.reference.executor import generate, vector_of

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1"}


class Source(Protocol):
    """What figures are drawn of."""

    @property
    def plan(self) -> Plan:
        """The plan."""
        ...

    def encode(self, condition: Any) -> np.ndarray:
        """Return the vectors `(B, E)` of a batch of conditions."""
        ...

    def generate(self, condition: Any) -> dict[str, np.ndarray]:
        """Return `{name: (B, *shape)}` for a batch of conditions."""
        ...


@dataclass(frozen=True)
class Saved:
    """A plan with the tensors that execute it, as arrays.

    Attributes:
        plan: The plan.
        tensors: By the names of a checkpoint.
    """

    plan: Plan
    tensors: Mapping[str, np.ndarray]

    def encode(self, condition: Any) -> np.ndarray:
        """Return the vectors `(B, E)` of a batch of conditions."""
        each = [vector_of(self.plan.condition, self.tensors, c) for c in condition]
        return np.stack(each)

    def generate(self, condition: Any) -> dict[str, np.ndarray]:
        """Return `{name: (B, *shape)}` for a batch of conditions.

        Raises:
            TypeError: The plan holds what NumPy cannot compute.
            ValueError: The file does not hold the base that a form changes.
        """
        for entry in self.plan.entries:
            if entry.form.has_base and f"bases.{entry.tensor}" not in self.tensors:
                got = f"a file without the base of {entry.tensor!r}"
                way_out = "save(hnet, path, with_base=True) writes it."
                raise ValueError(message("checkpoint", got, "one with it", way_out))
        each = [generate(self.plan, self.tensors, c) for c in condition]
        return {name: np.stack([one[name] for one in each]) for name in each[0]}

    def between(self, start: Any, stop: Any, num: int) -> Saved:
        """Return a hypernetwork whose ids `0 .. num - 1` go from one condition to another.

        All that differs between the two conditions is interpolated on a line: their vectors, and
        for two ids the rows of every table.
        """
        ends = self.encode([start, stop])
        along = np.linspace(0, 1, num, dtype=ends.dtype)

        def line(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            shape = (num,) + (1,) * a.ndim
            return (1 - along.reshape(shape)) * a + along.reshape(shape) * b

        by_id = {f"heads.{head.name}.table" for head in self.plan.heads if head.table}
        by_id |= {f"heads.{h.name}.slots" for h in self.plan.heads if h.per_condition}
        tensors = {
            name: line(value[start], value[stop]) if name in by_id else value
            for name, value in self.tensors.items()
        }
        tensors["condition.table"] = line(*ends)
        return Saved(replace(self.plan, condition=Embedding(num, ends.shape[1])), tensors)


def read_saved(path: str | os.PathLike[str]) -> Saved:
    """Read a checkpoint.

    Raises:
        OSError: It cannot be read.
        CheckpointError: It is no checkpoint of this library, or cut.
    """
    described, data = read_file(path)
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    return Saved(described.plan, {n: _array(data[8 + size :], e) for n, e in header.items()})


def _array(data: bytes, entry: Mapping[str, Any]) -> np.ndarray:
    start, stop = entry["data_offsets"]
    numbers = data[start:stop]
    if entry["dtype"] == "BF16":  # the upper half of a float32
        wide = np.frombuffer(numbers, "<u2").astype(np.uint32) << 16
        return wide.view(np.float32).reshape(entry["shape"])
    return np.frombuffer(numbers, DTYPES.get(entry["dtype"], "u1")).reshape(entry["shape"])


@dataclass(frozen=True)
class Live:
    """A hypernetwork of any backend, whose arrays are read as NumPy's."""

    hnet: Any

    @property
    def plan(self) -> Plan:
        """The plan."""
        return self.hnet.plan

    def encode(self, condition: Any) -> np.ndarray:
        """Return the vectors `(B, E)` of a batch of conditions."""
        return _numbers(self.hnet.encode(condition).vector)

    def generate(self, condition: Any) -> dict[str, np.ndarray]:
        """Return `{name: (B, *shape)}` for a batch of conditions."""
        return {name: _numbers(value) for name, value in self.hnet.generate(condition).items()}


def source(hnet: Any) -> Source:
    """Return what figures can be drawn of: a hypernetwork, or the path of a checkpoint."""
    if isinstance(hnet, Saved):
        return hnet
    if isinstance(hnet, (str, os.PathLike)):
        return read_saved(hnet)
    if not isinstance(getattr(hnet, "plan", None), Plan):
        wanted = "a HyperNetwork, or the path of a checkpoint"
        raise TypeError(message("hnet", shown(hnet), wanted))
    return Live(hnet)


def saved(hnet: Any) -> Saved:
    """Return a hypernetwork, or a checkpoint, as arrays."""
    found = source(hnet)
    if not isinstance(found, Live):
        assert isinstance(found, Saved)
        return found
    backend = import_module(".".join(type(hnet).__module__.split(".")[:2]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hnet.safetensors"
        backend.save(hnet, path, with_base=True)
        return read_saved(path)


def _numbers(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # torch's, which NumPy cannot read in all dtypes
        value = value.detach().cpu().double()
    return np.asarray(value, np.float64)
