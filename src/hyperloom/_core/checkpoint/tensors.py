"""The tensors of a checkpoint: written whole or not at all, checked before they are used.

Nothing here computes with them: a tensor is what has a `dtype` and a `shape`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from hyperloom._core.arrays import DTYPES
from hyperloom._core.checkpoint.file import (
    Description,
    digest,
    fields_that_must_agree,
    metadata,
    other_target,
)
from hyperloom._core.choices.statistics import Statistics
from hyperloom._core.errors import CheckpointError, message
from hyperloom._core.plan.plan import Plan

# The target's own tensors, which may hold infinities on purpose: masks.
_OF_THE_TARGET = ("kept.", "target_buffers.", "target_statistics.")
# Modules of a user's own, whose buffers may hold infinities too. A file does not say which tensors
# are buffers. So their parameters are checked when it is written, and the checksum shows that they
# have not changed since.
_OF_THE_USER = ("condition.", "trunks.")


def _dtype(value: Any) -> str | None:
    """Return a tensor's dtype as safetensors writes it; `None` if it cannot be written."""
    return DTYPES.get(str(value.dtype).removeprefix("torch."))


def check_dtypes(tensors: Mapping[str, Any]) -> None:
    """Raise `TypeError` for a tensor of a dtype that the file cannot hold."""
    for name, value in tensors.items():
        if _dtype(value) is None:
            wanted = "one of " + ", ".join(DTYPES)
            raise TypeError(message("hnet", f"{name!r} of dtype {value.dtype}", wanted))


def write_whole(path: str | os.PathLike[str], write: Callable[[str], None]) -> None:
    """Let `write` fill a new file beside `path`, and put it there when it is complete.

    A link stays one: what it leads to is replaced.

    Raises:
        ValueError: What is there is no file: a device, a pipe, a folder.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a device or pipe"
        raise ValueError(message("path", f"{path}, {kind}", "the path of a file"))
    name = f"{path}.{secrets.token_hex(4)}.part"
    open(name, "xb").close()
    mode = os.stat(name).st_mode
    try:
        write(name)
        os.chmod(name, mode)  # safetensors makes files that only their owner may read
        os.replace(name, path)
    except BaseException:  # also where somebody interrupts: no half file stays
        Path(name).unlink(missing_ok=True)
        raise


def write(
    path: str | os.PathLike[str],
    plan: Plan,
    version: str,
    statistics: Statistics | None,
    tensors: Mapping[str, Any],
    data: Callable[[Any], Any],
    not_finite: Callable[[], str | None],
    save_file: Callable[..., None],
) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: Where to.
        plan: The plan.
        version: Of the library.
        statistics: What becomes of the target's running statistics, if it is to be said.
        tensors: By the names of the file.
        data: Returns the bytes of a tensor.
        not_finite: Says which tensor holds values that are not finite, if one does.
        save_file: safetensors' function for the backend's arrays.

    Raises:
        TypeError: A tensor of a dtype that the file cannot hold.
        ValueError: Values that are not finite.
    """
    check_dtypes(tensors)
    bad = not_finite()
    if bad is not None:
        way_out = "The training has diverged: save earlier, or look at hnet.doctor()."
        raise ValueError(message("hnet", bad, "finite values", way_out))
    said = metadata(plan, version, statistics, items(tensors, data))
    write_whole(path, lambda name: save_file(tensors, name, metadata=said))


Items = Iterable[tuple[str, str, tuple[int, ...], Any]]


def items(tensors: Mapping[str, Any], data: Callable[[Any], Any]) -> Items:
    """Return name, dtype, shape and bytes of every tensor; `data` returns the bytes of one."""
    return ((n, _dtype(v) or "", tuple(v.shape), data(v)) for n, v in tensors.items())


def parsed(
    path: Any,
    data: bytes,
    parse: Callable[[bytes], Iterable[tuple[str, Mapping[str, Any]]]],
    make: Callable[[Any, str, tuple[int, ...]], Any],
) -> dict[str, Any]:
    """Return the tensors in the bytes of a file.

    Args:
        path: Of the file.
        data: Its bytes.
        parse: `safetensors.deserialize`.
        make: Makes a tensor of bytes, the name of a dtype and a shape.

    Raises:
        CheckpointError: safetensors refuses the file, or a dtype is unknown.
    """
    names = {short: name for name, short in DTYPES.items()}
    try:
        header = dict(parse(data))
        return {
            name: make(entry["data"], names[entry["dtype"]], tuple(entry["shape"]))
            for name, entry in header.items()
        }
    except Exception as error:  # safetensors' own, or of `make`
        got = f"a file that safetensors refuses ({error})"
        raise CheckpointError(message(f"checkpoint {path}", got, "a whole file")) from error


def check_values(
    path: Any, described: Description, tensors: Items, not_finite: Callable[[], str | None]
) -> None:
    """Raise for tensors that are not those that were saved, or hold values that are not finite.

    Args:
        path: Of the file.
        described: What it says of itself.
        tensors: The tensors that were read, as of `items`.
        not_finite: Says which tensor holds such values, if one does.
    """
    if digest(described.signed, tensors) != described.digest:
        wanted = "the file as save() wrote it"
        way_out = "Copy it again from where it was saved."
        got = "altered numbers or an altered plan (the checksum differs)"
        raise CheckpointError(message(f"checkpoint {path}", got, wanted, way_out))
    bad = not_finite()
    if bad is not None:
        way_out = "The hypernetwork had diverged when it was saved."
        raise CheckpointError(message(f"checkpoint {path}", bad, "finite values", way_out))


def first_not_finite(
    names: Iterable[str],
    count: Callable[[str, bool], int],
    buffers: Container[str] | None = None,
) -> str | None:
    """Say which tensor holds values that are not finite, if one does.

    Args:
        names: Of the tensors.
        count: Counts the values of a tensor that are NaN, and if told so those that are infinite.
        buffers: Those of them that are not learned, where that is known.
    """
    for name in names:
        masks = name.startswith(_OF_THE_USER) if buffers is None else name in buffers
        num = count(name, not masks and not name.startswith(_OF_THE_TARGET))
        if num:
            return f"{num} NaN or infinite values in {name!r}"
    return None


def check_plan(path: Any, plan: Plan, described: Description, backend: str) -> None:
    """Raise for a file whose tensors are not those of a plan."""
    differences = plan.spec.differences(described.plan.spec)
    if differences:
        raise other_target(path, differences)
    if fields_that_must_agree(described.plan) != fields_that_must_agree(plan):
        wanted = "the plan of this hypernetwork"
        way_out = f"Use hyperloom.{backend}.load(path, target), which builds the plan in the file."
        raise CheckpointError(message(f"checkpoint {path}", "another plan", wanted, way_out))


def check_fit(
    path: Any, expected: Mapping[str, Any], read: Mapping[str, Any], way_out: Callable[[Any], str]
) -> None:
    """Raise for tensors that differ from a hypernetwork's own in name, shape or dtype.

    Args:
        path: Of the file.
        expected: The hypernetwork's tensors.
        read: The file's.
        way_out: What to do about a tensor of the file whose dtype is not the hypernetwork's.
    """
    wrong = sorted(set(expected) ^ set(read))
    wrong += [n for n in expected if n in read and tuple(expected[n].shape) != tuple(read[n].shape)]
    if wrong:
        got = f"tensors that differ in name or shape: {', '.join(wrong[:5])}"
        raise CheckpointError(message(f"checkpoint {path}", got, "those of the plan"))
    for name, value in expected.items():
        other = read[name].dtype
        if value.dtype != other:
            got = f"{name!r} of dtype {other}"
            wanted = str(value.dtype)
            raise CheckpointError(message(f"checkpoint {path}", got, wanted, way_out(other)))


def buffers(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the target's buffers among the tensors of a file, by the target's names."""
    prefix = "target_buffers."
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}
