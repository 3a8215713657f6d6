"""Comparisons of what two ways give: trees of tensors, arrays and numbers of any framework.

Nothing is compared less than asked: structures, kinds, dtypes and shapes have to agree before
numbers are looked at, and an empty tree agrees with an empty one only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


def close(
    actual: Any,
    expected: Any,
    tolerance: float = 1e-9,
    *,
    relative: bool = True,
    scaled: bool = False,
    equal_nan: bool = False,
    dtypes: bool = True,
) -> None:
    """Assert that two trees are the same up to rounding.

    Args:
        actual: Tensors, arrays or numbers in dicts, lists and tuples.
        expected: The same, of the same structure.
        tolerance: Numbers may differ by this plus this times the expected number.
        relative: Whether "this times the expected number" is added at all.
        scaled: Numbers may differ by this times the largest number of their array instead (of at
            least 1): for sums in which numbers cancel.
        equal_nan: NaN is the same as NaN.
        dtypes: Whether leaves of one framework have to have the same dtype.
    """
    pairs = zip(_leaves(actual, "it"), _leaves(expected, "it"), strict=True)
    for (path, ours), (other_path, theirs) in pairs:
        assert path == other_path
        a, b = _array(ours), _array(theirs)
        if dtypes and _kind(ours) == _kind(theirs):
            assert getattr(ours, "dtype", None) == getattr(theirs, "dtype", None), path
        assert a.shape == b.shape, f"{path}: shape {a.shape}, expected {b.shape}"
        rtol = tolerance if relative and not scaled else 0.0
        largest = np.abs(b).max(initial=1.0) if scaled else 1.0
        assert not np.isposinf(largest), f"{path}: infinity as the scale allows any difference"
        atol = tolerance * (1.0 if np.isnan(largest) else largest)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, equal_nan=equal_nan, err_msg=path)


def _leaves(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield a tree's leaves with their paths, a mapping's in the order of its keys as text."""
    if isinstance(tree, Mapping):
        yield f"{path}: {sorted(map(str, tree))}", 0
        for key in sorted(tree, key=str):
            yield from _leaves(tree[key], f"{path}[{key!r}]")
    elif isinstance(tree, (list, tuple)):
        yield f"{path}: {len(tree)}", 0
        for index, value in enumerate(tree):
            yield from _leaves(value, f"{path}[{index}]")
    else:
        yield path, tree


def _kind(leaf: Any) -> str:
    """Return which framework a leaf is of."""
    return type(leaf).__module__.partition(".")[0].removesuffix("lib")


def _array(leaf: Any) -> np.ndarray:
    """Return a leaf as NumPy has it; numbers of any float as float64, which holds them exactly."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(leaf, torch.Tensor):
        leaf = leaf.detach().cpu()
        leaf = (leaf.to_dense() if leaf.is_sparse else leaf).resolve_conj().resolve_neg()
        leaf = (leaf.double() if leaf.is_floating_point() else leaf).numpy()
    found = np.asarray(leaf)
    if found.dtype.kind not in "biufc":  # bfloat16 and its like; whatever else fails here
        found = found.astype(np.float64)
    return found
