"""Tasks: all sets of three digits, said in words, on scikit-learn's 8x8 digits."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from sklearn.datasets import load_digits
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import train_test_split

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
UNSEEN = 30  # of 120 tasks


@dataclass(frozen=True, eq=False)
class Tasks:
    """Images, and what is asked about them.

    Attributes:
        images: `(num, 64)` in 0..1: to learn from, and to test on.
        digits: `(num,)`: what they show.
        sets: `(120, 10)`: whether a digit belongs to a task.
        texts: The 120 descriptions.
        vectors: `(120, words)`: the descriptions as TF-IDF of their words, float32.
        seen: Which tasks are learned; the vectoriser has read these only.
        unseen: Which are not.
    """

    images: tuple[np.ndarray, np.ndarray]
    digits: tuple[np.ndarray, np.ndarray]
    sets: np.ndarray
    texts: list[str]
    vectors: np.ndarray
    seen: np.ndarray
    unseen: np.ndarray


def load(seed: int) -> Tasks:
    """Return images of digits and sets of three; the seed says which sets are never trained on."""
    pixels, labels = load_digits(return_X_y=True)
    # The same split whatever the seed: test images are test images.
    images = (pixels / 16).astype(np.float32)
    rows = train_test_split(np.arange(len(labels)), test_size=0.4, random_state=0, stratify=labels)
    learn, test = (np.asarray(part) for part in rows)
    chosen = list(combinations(range(10), 3))
    sets = np.zeros((len(chosen), 10), np.float32)
    for row, three in zip(sets, chosen, strict=True):
        row[list(three)] = 1
    texts = [" or ".join(WORDS[d] for d in three) for three in chosen]
    order = np.random.default_rng(seed).permutation(len(chosen))
    unseen, seen = np.sort(order[:UNSEEN]), np.sort(order[UNSEEN:])
    read = TfidfVectorizer().fit([texts[i] for i in seen])
    vectors = np.asarray(read.transform(texts).todense(), np.float32)
    digits = labels[learn], labels[test]
    return Tasks((images[learn], images[test]), digits, sets, texts, vectors, seen, unseen)
