"""Split digits: five binary tasks from scikit-learn's 8x8 digits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

SIDE = 8
_TRAIN, _VALIDATION = 0.5, 0.2


class Part(NamedTuple):
    """Some examples.

    Attributes:
        inputs: Images `(num, 64)`, float32 in 0..1, rows of pixels one after the other.
        targets: `(num,)`, int64: 0 for the first class of the task, 1 for the second.
    """

    inputs: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True, eq=False)
class Task:
    """Two digits to tell apart.

    Attributes:
        name: For tables and plots, e.g. `"2/3"`.
        classes: The two digits.
        train: What a learner sees, about 180 examples.
        validation: To choose settings on, about 70.
        test: To report, about 110.
    """

    name: str
    classes: tuple[int, int]
    train: Part
    validation: Part
    test: Part


def split_digits() -> tuple[Task, ...]:
    """Return scikit-learn's digits as five tasks: 0/1, 2/3, 4/5, 6/7 and 8/9.

    Of every digit 50 % of the images are to train, 20 % to choose settings, 30 % to test. The
    split is always the same, so that nothing chosen on the validation part has seen the test part.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    draw = np.random.RandomState(0)
    cuts = []
    for digit in range(10):
        found = draw.permutation(np.flatnonzero(digits == digit))
        first = round(_TRAIN * len(found))
        cuts.append(np.split(found, [first, first + round(_VALIDATION * len(found))]))

    def part(one: int, other: int, which: int) -> Part:
        index = np.concatenate([cuts[one][which], cuts[other][which]])
        return Part(images[index], (digits[index] == other).astype(np.int64))

    pairs = [(digit, digit + 1) for digit in range(0, 10, 2)]
    return tuple(Task(f"{a}/{b}", (a, b), *(part(a, b, i) for i in range(3))) for a, b in pairs)
