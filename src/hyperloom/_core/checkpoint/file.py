"""The checkpoint file: safetensors, with the plan as JSON in its header. No framework needed.

Layout of the file: one safetensors file. Its metadata has one entry, `hyperloom`, a JSON object
with `format` (int), `version` (of the library that wrote it), `plan`, and `digest` (SHA-256 over
the plan, the statistics if there are any, and the tensors' names, dtypes, shapes and bytes); and,
if the target has buffers that can be kept in several ways, `statistics`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from hyperloom._core.checkpoint.json import from_json, to_json
from hyperloom._core.choices.conditions import Concat, Custom
from hyperloom._core.choices.statistics import Statistics
from hyperloom._core.choices.trunks import CustomTrunk
from hyperloom._core.errors import CheckpointError, a_mapping, a_path, message
from hyperloom._core.pieces import Piece
from hyperloom._core.plan.plan import Plan
from hyperloom._core.records import Start

FORMAT = 1


@dataclass(frozen=True)
class Description:
    """What a checkpoint says of itself.

    Attributes:
        plan: The plan.
        version: Version of the library that wrote it.
        digest: Checksum of tensors, plan and statistics.
        signed: The text that the digest covers besides the tensors, as the file has it.
        dtypes: Name -> dtype of its tensors, as safetensors writes them.
        shapes: Name -> shape.
        statistics: What becomes of the target's running statistics; `None` if it does not say.
    """

    plan: Plan
    version: str
    digest: str
    signed: str
    dtypes: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    statistics: Statistics | None = None


def metadata(
    plan: Plan,
    version: str,
    statistics: Statistics | None,
    tensors: Iterable[tuple[str, str, tuple[int, ...], Any]],
) -> dict[str, str]:
    """Return the safetensors metadata of a checkpoint; `tensors` as of `digest`."""
    said: dict[str, Any] = {"plan": to_json(plan)}
    if statistics is not None:
        said["statistics"] = to_json(statistics)
    content = {"format": FORMAT, "version": version, **said}
    content["digest"] = digest(signed(said), tensors)
    return {"hyperloom": json.dumps(content)}


def signed(content: Mapping[str, Any]) -> str:
    """Return the text that a digest covers, of a description's fields."""
    parts = [content[name] for name in ("plan", "statistics") if name in content]
    return "".join(json.dumps(part, sort_keys=True) for part in parts)


def digest(text: str, tensors: Iterable[tuple[str, str, tuple[int, ...], Any]]) -> str:
    """Return the checksum.

    Args:
        text: What `signed` returns.
        tensors: Name, dtype (as safetensors writes it), shape and bytes of each tensor.
    """
    total = hashlib.sha256(text.encode())
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
    with Path(a_path("path", path)).open("rb") as file:
        return _describe(path, file)


def read_file(path: str | os.PathLike[str]) -> tuple[Description, bytes]:
    """Read a checkpoint: what it says of itself, and all its bytes.

    Opened once: another process may put a new file in its place meanwhile. Raises as
    `read_description` does.
    """
    with Path(a_path("path", path)).open("rb") as file:
        described = _describe(path, file)
        file.seek(0)
        return described, file.read()


def _describe(path: Any, file: BinaryIO) -> Description:
    """Read the description in an open file."""
    header = _header(path, file)
    kept = header.pop("__metadata__", None)
    text = kept.get("hyperloom") if isinstance(kept, dict) else None
    if text is None:
        way_out = "A file of plain weights is loaded with safetensors itself."
        raise _bad(path, "no description of a hypernetwork", "one written by save()", way_out)
    try:
        content = json.loads(text)
        number, version = content["format"], content["version"]
        plan, checksum = content["plan"], content["digest"]
    except _ODD as error:
        raise _altered(path) from error
    if number != FORMAT:
        got = f"format {number}, written by hyperloom {version}"
        raise _bad(path, got, f"format {FORMAT}", "Install a newer hyperloom.")
    argument = f"checkpoint {path}"
    try:
        plan = from_json(plan, argument)
        statistics = from_json(content.get("statistics"), argument)
        if not isinstance(plan, Plan) or not isinstance(statistics, (Statistics, type(None))):
            raise _altered(path)
        _check_places(path, plan)
        dtypes = {name: str(entry["dtype"]) for name, entry in header.items()}
        shapes = {name: tuple(map(int, entry["shape"])) for name, entry in header.items()}
        text = signed(content)
        return Description(plan, str(version), checksum, text, dtypes, shapes, statistics)
    except CheckpointError:
        raise
    except _ODD as error:
        raise _altered(path) from error


# What data of a wrong kind raises where it is used; RecursionError for data nested too deep.
_ODD = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


def _altered(path: Any) -> CheckpointError:
    return _bad(path, "an altered description", "the file as save() wrote it")


def _check_places(path: Any, plan: Plan) -> None:
    """Raise if a plan that was read names heads, banks or rows that it does not have."""
    for entry in plan.entries:
        tensor = plan.spec[entry.tensor]
        places = range(len(plan.banks))
        if entry.bank is not None and entry.bank not in places:
            got = f"a plan with bank {entry.bank} for {entry.tensor!r}"
            raise _bad(path, got, f"one of {len(plan.banks)} banks")
        wanted = len(entry.form.parts(tensor, Start()))
        if len(entry.pieces) != wanted:
            got = f"a plan with {len(entry.pieces)} pieces for {entry.tensor!r}"
            raise _bad(path, got, f"{wanted}, as {entry.form} has parts")
        for piece in entry.pieces:
            sizes = (*piece.tile, *piece.grid)
            if (
                piece.head not in range(len(plan.heads))
                or min(sizes, default=1) < 1
                or not _fits(piece)
            ):
                raise _bad(path, f"a plan with {piece}", "a piece of one of its heads")
            head = plan.heads[piece.head]
            if piece.start < 0 or piece.start + piece.span > head.num_slots * head.slot_size:
                raise _bad(path, f"a plan with {piece}", f"numbers that {head.name!r} gives")
    # All that follows from it can be computed.
    plan.fill_caches()
    hash(plan)
    str(plan)


def _fits(piece: Piece) -> bool:
    """Whether a piece's cut leaves a part of each of its blocks."""
    axes = zip(piece.tile, piece.grid, piece.cut, strict=len(piece.tile) == len(piece.cut))
    return not piece.cut or (
        len(piece.cut) == len(piece.tile) and all(t * (g - 1) < n <= t * g for t, g, n in axes)
    )


def _header(path: Any, file: BinaryIO) -> dict[str, Any]:
    """Read a safetensors header; check that the file is as long as it says."""
    size = os.fstat(file.fileno()).st_size
    first = file.read(8)
    length = int.from_bytes(first, "little")
    if len(first) < 8 or length > size - 8:
        raise _bad(path, f"a file of {size} bytes, cut in its header", "a whole file", _COPY)
    try:
        header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name[:2] != "__"]
        wanted = 8 + length + max(ends, default=0)
    except _ODD as error:
        raise _bad(path, "a header that is not safetensors", "a whole file", _COPY) from error
    if size < wanted:
        raise _bad(path, f"a file of {size} bytes, cut", f"{wanted} bytes", _COPY)
    if size > wanted:
        raise _bad(path, f"a file of {size} bytes, altered", f"{wanted} bytes", _COPY)
    return header


_COPY = "Copy it again from where it was saved."


def _bad(path: str | os.PathLike[str], got: str, wanted: str, way_out: str = "") -> CheckpointError:
    return CheckpointError(message(f"checkpoint {path}", got, wanted, way_out))


def pairs_of_names(translate: object) -> Mapping[str, str] | None:
    """Return the pairs of names that `load(translate=)` gives; `None` for no translation.

    Raises:
        TypeError: Neither a bool nor a dict.
    """
    if isinstance(translate, bool):
        return {} if translate else None
    return a_mapping("translate", translate, "a bool, or a dict from names to names")


def other_target(path: Any, differences: list[str]) -> CheckpointError:
    """Return the error about a checkpoint whose target has these `differences`."""
    more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
    got = f"the parameters of another target: {'; '.join(differences[:3])}{more}"
    way_out = "Build the target as it was when the checkpoint was saved."
    if all(" has dtype " in difference for difference in differences):
        way_out = "Build the target in the dtypes that it had when the hypernetwork was made: "
        way_out += "load() gives it those in which the file was saved."
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
        wanted = f"None, as {path} has {recorded} as its {argument}"
        raise CheckpointError(message(argument, module, wanted))
    return recorded


def _is_custom(recorded: Any) -> bool:
    if isinstance(recorded, Concat):
        return any(_is_custom(part) for part in recorded.parts)
    return isinstance(recorded, (Custom, CustomTrunk))


def fields_that_must_agree(plan: Plan) -> tuple[Any, ...]:
    """Return the fields in which two plans agree if the tensors of one fit the other.

    Measured scales are not among them: a file holds its scales as tensors.
    """
    pieces = [
        (e.tensor, e.form, [(p.head, p.start, p.grid, p.cut) for p in e.pieces])
        for e in plan.entries
    ]
    heads = [
        (h.name, h.source, h.num_slots, h.slot_size, h.embedding, h.scaled, h.signs)
        for h in plan.heads
    ]
    return plan.condition, plan.trunk, heads, pieces
