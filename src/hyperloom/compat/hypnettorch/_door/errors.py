"""The error that stands where hypnettorch has an `assert`."""

from __future__ import annotations


class RefusedError(ValueError, AssertionError):
    """A wrong argument. hypnettorch raises `AssertionError` here, without a message."""


def require(condition: bool, text: str) -> None:
    """Raise `RefusedError` with `text` unless `condition` holds."""
    if not condition:
        raise RefusedError(text)
