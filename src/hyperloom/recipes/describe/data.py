"""Letter tasks and their descriptions: an order of five letters, and a shift in the alphabet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LENGTH = 5
# Which letter of the word stands at each place of the answer.
ORDERS = {
    "as it is": (0, 1, 2, 3, 4),
    "reversed": (4, 3, 2, 1, 0),
    "first to the end": (1, 2, 3, 4, 0),
    "last to the front": (4, 0, 1, 2, 3),
    "ends swapped": (4, 1, 2, 3, 0),
    "neighbours swapped": (1, 0, 3, 2, 4),
    "odd places first": (0, 2, 4, 1, 3),
    "middle first": (2, 1, 3, 0, 4),
}
SHIFTS = (0, 1, 2, 3, 5, -1, -2, -3)

# The last three ways to say each are kept for the test.
_ORDER_WORDS = {
    "as it is": [
        "keep the letters in their order",
        "leave the word in the order it has",
        "do not move any letter to another place",
        "the letters stay where they are",
        "keep every letter at its position",
        "do not change the order of the letters",
        "the order of the letters stays the same",
        "leave all letters in place",
        "write the letters in the given order",
        "preserve the letter order",
        "without reordering the letters",
        "each letter remains in its original position",
    ],
    "reversed": [
        "reverse the word",
        "write the word backwards",
        "spell it from the end to the start",
        "turn the word around, last letter first",
        "read the letters from right to left",
        "flip the order of all letters",
        "put the letters in reverse order",
        "mirror the word",
        "start with the last letter and go back to the first",
        "spell the word in reverse",
        "give the letters back to front",
        "invert the order of the word, right to left",
    ],
    "first to the end": [
        "move the first letter to the end",
        "take the first letter and put it last",
        "rotate the word one place to the left",
        "the first letter goes to the end of the word",
        "bring the first letter behind the last",
        "cut off the first letter and append it at the end",
        "the starting letter becomes the final letter",
        "rotate left by one",
        "the word begins with its second letter and ends with its first",
        "place the first letter after all the others",
        "send the initial letter to the back of the word",
        "cycle the letters left, the first one goes last",
    ],
    "last to the front": [
        "move the last letter to the front",
        "take the last letter and put it first",
        "rotate the word one place to the right",
        "the last letter goes to the beginning of the word",
        "bring the last letter before the first",
        "cut off the last letter and put it at the start",
        "the final letter becomes the starting letter",
        "rotate right by one",
        "the word begins with its last letter, the others follow",
        "place the last letter before all the others",
        "bring the final letter to the start of the word",
        "cycle the letters right, the last one goes first",
    ],
    "ends swapped": [
        "swap the first and the last letter",
        "exchange the two letters at the ends",
        "the first and last letters trade places",
        "switch the outer letters and keep the inner ones",
        "swap both ends of the word",
        "interchange the first letter with the last letter",
        "the outermost letters change places",
        "put the first letter last and the last letter first, the inner letters stay",
        "exchange the first and final letter",
        "switch the first letter with the last one",
        "the two end letters are swapped",
        "interchange the letters at both ends",
    ],
    "neighbours swapped": [
        "swap neighbouring letters in pairs",
        "exchange each pair of adjacent letters",
        "swap letters one and two, then letters three and four",
        "letters change places with their neighbours",
        "switch every two neighbouring letters",
        "in each pair of letters, put the second before the first",
        "swap adjacent pairs",
        "exchange the letters of every pair",
        "neighbours in the word trade places",
        "pairwise swap the adjacent letters",
        "switch adjacent letters two by two",
        "each letter is exchanged with the one next to it",
    ],
    "odd places first": [
        "write the letters at odd places first, then those at even places",
        "take every second letter, then the ones left out",
        "first letters one, three and five, then two and four",
        "every other letter first, the remaining letters after",
        "group odd positions before even positions",
        "put the letters from odd positions first and the even ones behind",
        "pick every other letter, then append those skipped",
        "odd letters, then even letters",
        "separate the odd positions from the even ones, odd first",
        "list the odd positions first and then the even positions",
        "take alternate letters first, then the skipped letters",
        "the letters at odd positions come before the ones at even positions",
    ],
    "middle first": [
        "begin in the middle and go outwards",
        "start with the middle letter and work towards the ends",
        "write the word from its centre to its ends",
        "the middle letter comes first, the outer letters last",
        "from the inside out",
        "spell from the middle outwards",
        "centre letter first, then its neighbours, then the ends",
        "take the central letter, then those around it, then the outer ones",
        "order the letters by their distance from the middle",
        "go from the middle letter out to both ends",
        "begin with the central letter and move outward",
        "from the centre of the word to the outside",
    ],
}
_NUMBERS = {1: "one", 2: "two", 3: "three", 5: "five"}
_SHIFT_WORDS = {
    "none": [
        "leave each letter as it is",
        "do not shift the letters in the alphabet",
        "keep the letters themselves unchanged",
        "no letter is replaced by another",
        "with a shift of zero",
        "use the same letters",
        "the alphabet is not shifted",
        "no change of letters",
        "the letters are not replaced",
        "without shifting the alphabet",
        "every letter stays the same letter",
        "and use no alphabet shift",
    ],
    "forward": [
        "replace each letter by the one {n} later in the alphabet",
        "shift each letter {n} forward in the alphabet",
        "move every letter {n} ahead in the alphabet",
        "add {n} to each letter",
        "use the letter that comes {n} after",
        "shift by plus {n}",
        "count {n} up in the alphabet from each letter",
        "advance each letter by {n}",
        "every letter becomes the letter {n} further on",
        "go {n} forward in the alphabet for every letter",
        "increase every letter by {n}",
        "each letter moves up the alphabet by {n}",
    ],
    "back": [
        "replace each letter by the one {n} earlier in the alphabet",
        "shift each letter {n} backward in the alphabet",
        "move every letter {n} back in the alphabet",
        "subtract {n} from each letter",
        "use the letter that comes {n} before",
        "shift by minus {n}",
        "count {n} down in the alphabet from each letter",
        "set each letter back by {n}",
        "every letter becomes the letter {n} before it",
        "go {n} backward in the alphabet for every letter",
        "decrease every letter by {n}",
        "each letter moves down the alphabet by {n}",
    ],
}
_FRAMES = ("{o}, and {s}.", "{s}; {o}.", "{o}. Then {s}.", "First {s}, then {o}.")
HELD_OUT = 3


@dataclass(frozen=True)
class Task:
    """An order and a shift.

    Attributes:
        order: A key of `ORDERS`.
        shift: How far each letter moves in the alphabet, one of `SHIFTS`.
    """

    order: str
    shift: int

    def __str__(self) -> str:
        return f"{self.order}, {self.shift:+d}"

    @property
    def number(self) -> int:
        """Its place in `TASKS`."""
        return list(ORDERS).index(self.order) * len(SHIFTS) + SHIFTS.index(self.shift)

    @property
    def unseen(self) -> bool:
        """Whether no adapter is trained for it; its order and its shift are seen in others."""
        return (SHIFTS.index(self.shift) - list(ORDERS).index(self.order)) % 8 in (3, 6)

    def answer(self, words: np.ndarray) -> np.ndarray:
        """Return the answers to words `(..., 5)` of letters 0 to 25, of the same shape."""
        return (words[..., ORDERS[self.order]] + self.shift) % len(LETTERS)

    def descriptions(self, num: int, rng: np.random.Generator, *, held_out: bool) -> list[str]:
        """Return different descriptions, at most as many as there are.

        Args:
            num: How many.
            rng: What draws them.
            held_out: Of ways to say it that are kept for the test, or of the others.
        """
        kind = "none" if self.shift == 0 else "forward" if self.shift > 0 else "back"
        number = _NUMBERS.get(abs(self.shift), "")
        kept = slice(-HELD_OUT, None) if held_out else slice(None, -HELD_OUT)
        ways = product(_ORDER_WORDS[self.order][kept], _SHIFT_WORDS[kind][kept], _FRAMES)
        texts = [frame.format(o=o, s=s.format(n=number)) for o, s, frame in ways]
        drawn = rng.permutation(len(texts))[:num]
        return [_capitals(texts[i]) for i in drawn]


TASKS = tuple(Task(order, shift) for order in ORDERS for shift in SHIFTS)
ARROW, BLANK = len(LETTERS), len(LETTERS) + 1
VOCABULARY = BLANK + 1 + len(ORDERS) + len(SHIFTS)
# The two codes, the word, the arrow and the answer.
TEXT = 2 + LENGTH + 1 + LENGTH


def texts(
    tasks: Sequence[Task], num: int, rng: np.random.Generator, *, told: bool = False
) -> np.ndarray:
    """Return `num` texts of each task as tokens, `(len(tasks), num, 13)`: codes, word > answer.

    Args:
        tasks: The tasks.
        num: How many of each.
        rng: What draws the words.
        told: Whether the codes tell the task; otherwise they are blank.
    """
    made = np.full((len(tasks), num, TEXT), BLANK)
    words = rng.integers(len(LETTERS), size=(len(tasks), num, LENGTH))
    made[..., 2 : 2 + LENGTH], made[..., 2 + LENGTH] = words, ARROW
    for i, task in enumerate(tasks):
        made[i, :, -LENGTH:] = task.answer(words[i])
        if told:
            made[i, :, 0] = BLANK + 1 + list(ORDERS).index(task.order)
            made[i, :, 1] = BLANK + 1 + len(ORDERS) + SHIFTS.index(task.shift)
    return made


def spelled(tokens: np.ndarray) -> str:
    """Return tokens `(n,)` of letters as text."""
    return "".join(LETTERS[token] for token in tokens)


def _capitals(text: str) -> str:
    """Write the first letter of each sentence large."""
    return ". ".join(part[:1].upper() + part[1:] for part in text.split(". "))
