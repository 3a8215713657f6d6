"""What a file says of a base that it does not hold: the fingerprint of its frozen tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from typing import Any

from hyperloom._core.errors import CheckpointError, message

# The name of the fingerprint in state dicts and files.
FINGERPRINT = "base_fingerprint"
# What was wanted of a base, and the way out: the end of an error's text.
SAME_BASE = (
    "the base that the hypernetwork was trained on",
    "Give the target the weights that it had then; or save(hnet, path, with_base=True), which "
    "writes the base into the file.",
)
# The trees of frozen tensors, by the names they have in a file that holds them.
TREES = ("bases", "kept")

_NUMBERS = 1024


def holds_base(path: Any, names: Collection[str], read: Collection[str], same: bool) -> bool:
    """Whether a file holds the frozen tensors of a hypernetwork; else they have to be the same.

    Args:
        path: The file.
        names: Names of the frozen tensors in a file that holds them.
        read: Names of the tensors of the file.
        same: Whether the file's fingerprint is that of the hypernetwork's base.

    Raises:
        CheckpointError: The file holds no base, and was saved beside another one.
    """
    if not names or any(name in read for name in names):
        return bool(names)
    if not same:
        got = "a target with another base" if FINGERPRINT in read else "no fingerprint of a base"
        raise CheckpointError(message(f"checkpoint {path}", got, *SAME_BASE))
    return False


def sample_step(numel: int) -> int:
    """Return the distance between the numbers of a tensor that its fingerprint looks at."""
    return max(1, numel // _NUMBERS)


def fingerprint_of(tensors: Iterable[tuple[str, str, tuple[int, ...], bytes]]) -> bytes:
    """Return 32 bytes that tell one base from another.

    A look at about a thousand numbers of every tensor: a base that was trained further, or comes
    from another seed or checkpoint, differs in them; it takes milliseconds for a model of
    gigabytes. A base in which a few single numbers were edited may pass for the same.

    Args:
        tensors: Name, dtype, shape, and the bytes of every `sample_step(numel)`-th number.
    """
    total = hashlib.sha256()
    for name, dtype, shape, data in sorted(tensors, key=lambda item: item[0]):
        total.update(f"{name} {dtype.removeprefix('torch.')} {list(shape)} ".encode())
        total.update(data)
    return total.digest()
