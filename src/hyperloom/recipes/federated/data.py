"""Clients with two digits each, and a few images of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

CLIENTS, NEW = 40, 10
TRAIN, LEFT_OUT = 12, 6  # those left out may choose rates


class Clients(NamedTuple):
    """Images of all clients, equally many for each.

    Attributes:
        x: Images that a client may train on `(clients, TRAIN, 64)`, in 0..1.
        y: Their digits `(clients, TRAIN)`.
        test_x: Images it is judged by, of the same two digits.
        test_y: Their digits.
    """

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor

    def some(self, which: slice | Tensor) -> Clients:
        """Return some of the clients."""
        return Clients(*(part[which] for part in self))


def read_clients(seed: int) -> Clients:
    """Return 50 clients; those after the first 40 come later.

    Every digit is in the hands of ten clients, no image in those of two.

    Args:
        seed: Of who has what.
    """
    images, labels = load_digits(return_X_y=True)
    draws = np.random.default_rng(seed)
    num = CLIENTS + NEW
    hands = np.stack([draws.permutation(10) for _ in range(num // 5)]).reshape(num, 2)
    pools = [draws.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]
    each = min(map(len, pools)) // (num // 5)
    taken = [0] * 10
    index = np.empty((num, each, 2), int)
    for client, digits in enumerate(hands):
        for i, digit in enumerate(digits):
            index[client, :, i] = pools[digit][taken[digit] : taken[digit] + each]
            taken[digit] += each
    index = index.reshape(num, -1)
    x = torch.from_numpy((images[index] / 16).astype("float32"))
    y = torch.from_numpy(labels[index])
    rest = slice(TRAIN + LEFT_OUT, None)
    return Clients(x[:, :TRAIN], y[:, :TRAIN], x[:, rest], y[:, rest])
