"""Names as rows of letters: 949 names of colours that matplotlib ships, or a file of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hyperloom._core.errors import message

LONGEST, TEST = 20, 0.2


@dataclass(frozen=True, eq=False)
class Names:
    r"""Names, split into some to train on and some to test on.

    Attributes:
        letters: All that occur, the end of a name first, as `"\n"`.
        train: Numbers of letters `(num, length)`, int64; every row begins and ends with 0.
        test: Likewise.
    """

    letters: str
    train: np.ndarray
    test: np.ndarray

    def spell(self, row: np.ndarray) -> str:
        """Return the name in a row, up to its end."""
        text = "".join(self.letters[i] for i in row[1:])
        return text.partition("\n")[0]


def read_names(path: Path | None = None) -> Names:
    """Return names in a split that is always the same: 80 % to train, 20 % to test.

    Args:
        path: A text file with a name in each line, in its last column if there are tabs. Default:
            the names of colours of the xkcd colour survey, as matplotlib has them.

    Raises:
        ValueError: A file with fewer than 10 names.
    """
    if path is None:
        from matplotlib.colors import XKCD_COLORS

        found = [name.removeprefix("xkcd:") for name in XKCD_COLORS]
    else:
        lines = path.read_text("utf-8").splitlines()
        found = [line.rpartition("\t")[2].strip().lower() for line in lines]
    names = sorted({name for name in found if 0 < len(name) < LONGEST})
    if len(names) < 10:
        wanted = f"10 or more, a line each, of up to {LONGEST - 1} letters"
        raise ValueError(message("data", f"{len(names)} names", wanted))
    letters = "\n" + "".join(sorted(set("".join(names))))
    rows = np.zeros((len(names), max(map(len, names)) + 2), np.int64)
    for row, name in zip(rows, names, strict=True):
        row[1 : len(name) + 1] = [letters.index(letter) for letter in name]
    rows = rows[np.random.RandomState(0).permutation(len(rows))]
    cut = round(TEST * len(rows))
    return Names(letters, rows[cut:], rows[:cut])
