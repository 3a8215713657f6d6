"""The same calls are refused, with errors of the same type."""

from __future__ import annotations

import warnings

import pytest

from tests.compat.hypnettorch_libraries import OURS, THEIRS
from tests.compat.hypnettorch_refused import REFUSED


@pytest.mark.parametrize("name", REFUSED)
def test_the_same_is_refused(name: str) -> None:
    call = REFUSED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Exception) as wanted:  # noqa: PT011
            call(THEIRS)
        # Where 0.0.4 asserts, ours is an AssertionError too, and says what was wanted.
        with pytest.raises(wanted.type) as found:
            call(OURS)
    assert str(found.value)
