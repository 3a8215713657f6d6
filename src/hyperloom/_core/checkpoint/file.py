"""The checkpoint file: safetensors, with the plan as JSON in its header. No framework needed.

Layout of the file: one safetensors file. Its metadata has one entry, `hyperloom`, a JSON object
with `format` (int), `version` (of the library that wrote it), `plan`, and `digest` (SHA-256 over
the tensors' names, dtypes, shapes and bytes, and the plan); and, if the target has buffers that
can be kept in several ways, `statistics`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperloom._core.checkpoint.json import from_json, to_json
from hyperloom._core.choices.conditions import Concat, Custom
from hyperloom._core.choices.statistics import Statistics
from hyperloom._core.choices.trunks import CustomTrunk
from hyperloom._core.errors import CheckpointError, message
from hyperloom._core.plan.plan import Plan

FORMAT = 1


@dataclass(frozen=True)
class Description:
    """What a checkpoint says of itself.

    Attributes:
        plan: The plan.
        version: Version of the library that wrote it.
        digest: Checksum of tensors and plan.
        dtypes: Name -> dtype of its tensors, as safetensors writes them.
        shapes: Name -> shape.
        statistics: What becomes of the target's running statistics; `None` if it does not say.
    """

    plan: Plan
    version: str
    digest: str
    dtypes: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    statistics: Statistics | None = None


def metadata(
    plan: Plan, version: str, digest: str, statistics: Statistics | None = None
) -> dict[str, str]:
    """Return the safetensors metadata of a checkpoint."""
    content = {"format": FORMAT, "version": version, "plan": to_json(plan), "digest": digest}
    if statistics is not None:
        content["statistics"] = to_json(statistics)
    return {"hyperloom": json.dumps(content)}


def digest(plan: Plan, tensors: Iterable[tuple[str, str, tuple[int, ...], Any]]) -> str:
    """Return the checksum.

    Args:
        plan: The plan.
        tensors: Name, dtype (as safetensors writes it), shape and bytes of each tensor.
    """
    total = hashlib.sha256(json.dumps(to_json(plan), sort_keys=True).encode())
    for name, dtype, shape, data in sorted(tensors, key=lambda item: item[0]):
        total.update(f"{name} {dtype} {list(shape)}".encode())
        total.update(data)
    return total.hexdigest()


def read_description(path: str | os.PathLike[str]) -> Description:
    """Read what a checkpoint says of itself, without its tensors.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: Cut, not a checkpoint of this library, or of a newer format.
    """
    header = _header(Path(path))
    kept = header.pop("__metadata__", None)
    text = kept.get("hyperloom") if isinstance(kept, dict) else None
    if text is None:
        way_out = "A file of plain weights is loaded with safetensors itself."
        raise _bad(path, "no description of a hypernetwork", "one written by save()", way_out)
    try:
        content = json.loads(text)
        number = content["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise _bad(path, "an altered description", "the file as save() wrote it") from error
    if number != FORMAT:
        got = f"format {number}, written by hyperloom {content.get('version')}"
        raise _bad(path, got, f"format {FORMAT}", "Install a newer hyperloom.")
    try:
        plan = from_json(content["plan"])
        if not isinstance(plan, Plan):
            raise TypeError(f"a {type(plan).__name__} where the plan should be")
        dtypes = {name: entry["dtype"] for name, entry in header.items()}
        shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
        statistics = from_json(content.get("statistics"))
        if not isinstance(statistics, (Statistics, type(None))):
            raise TypeError(f"a {type(statistics).__name__} where the statistics should be")
        version, checksum = content["version"], content["digest"]
        return Description(plan, version, checksum, dtypes, shapes, statistics)
    # ValueError: a CheckpointError of from_json, or a value that an enum does not have.
    except (ValueError, KeyError, TypeError) as error:
        raise _bad(path, "an altered description", "the file as save() wrote it") from error


def _header(path: Path) -> dict[str, Any]:
    """Read a safetensors header; check that the file is as long as it says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        length = int.from_bytes(first, "little")
        if len(first) < 8 or length > size - 8:
            raise _bad(path, f"a file of {size} bytes, cut in its header", "a whole file", _COPY)
        raw = file.read(length)
    try:
        header = json.loads(raw)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name[:2] != "__"]
        wanted = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise _bad(path, "a header that is not safetensors", "a whole file", _COPY) from error
    if size < wanted:
        raise _bad(path, f"a file of {size} bytes, cut", f"{wanted} bytes", _COPY)
    if size > wanted:
        raise _bad(path, f"a file of {size} bytes, altered", f"{wanted} bytes", _COPY)
    return header


_COPY = "Copy it again from where it was saved."


def _bad(path: str | os.PathLike[str], got: str, wanted: str, way_out: str = "") -> CheckpointError:
    return CheckpointError(message(f"checkpoint {path}", got, wanted, way_out))


def other_target(path: Any, found: list[str]) -> CheckpointError:
    """Return the error about a checkpoint whose target differs as `found` says."""
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    got = f"the parameters of another target: {'; '.join(found[:3])}{more}"
    way_out = "Build the target as it was when the checkpoint was saved."
    return CheckpointError(message(f"checkpoint {path}", got, "the target's own", way_out))


def given_part(path: Any, argument: str, recorded: Any, module: Any) -> Any:
    """Return what to build a part from: the record, or the module that stands for it."""
    if _is_custom(recorded):
        if module is None:
            got = f"a hypernetwork with a {argument} module of its own, {recorded}"
            way_out = f"Pass one built the same way: load(path, target, {argument}=module)."
            raise CheckpointError(message(f"checkpoint {path}", got, "that module", way_out))
        return module
    if module is not None:
        got = f"{recorded} as its {argument}"
        raise CheckpointError(message(f"checkpoint {path}", got, f"a {argument} module"))
    return recorded


def _is_custom(recorded: Any) -> bool:
    if isinstance(recorded, Concat):
        return any(_is_custom(part) for part in recorded.parts)
    return isinstance(recorded, (Custom, CustomTrunk))


def essence(plan: Plan) -> tuple[Any, ...]:
    """Return what must agree for one plan's tensors to fit another: all but measured scales."""
    pieces = [
        (e.tensor, e.form, [(p.head, p.start, p.grid) for p in e.pieces]) for e in plan.entries
    ]
    heads = [
        (h.name, h.source, h.num_slots, h.slot_size, h.embedding, h.scaled, h.signs)
        for h in plan.heads
    ]
    return plan.condition, plan.trunk, heads, pieces
