"""The recipes there are: `hyperloom demo` prints this list, `hyperloom demo NAME` runs one."""

from __future__ import annotations

from typing import NamedTuple


class Recipe(NamedTuple):
    """A recipe, as the list knows it.

    Attributes:
        name: What `hyperloom demo NAME` calls it.
        what: One line, under 70 characters, that says what it shows.
        backends: What computes it: `"torch"`, `"jax"`, or both.
        folder: Under `hyperloom.recipes`, if it is not the name.
    """

    name: str
    what: str
    backends: tuple[str, ...] = ("torch",)
    folder: str = ""

    @property
    def module(self) -> str:
        """Name of the module whose `demo(run)` runs it."""
        return f"hyperloom.recipes.{self.folder or self.name}.demo"


RECIPES = (
    Recipe(
        "digits",
        "five tasks learned in sequence, none of them forgotten",
        ("torch", "jax"),
        folder="continual",
    ),
    Recipe("names", "a speller whose weights change at every letter (HyperLSTM)"),
    Recipe("ensemble", "20 members of one generator beside 20 networks: what they do not know"),
    Recipe("federated", "a network for each client, whose images stay at home (pFedHN)"),
    Recipe(
        "maml",
        "starts for gradient descent from ten points: one step fits a sine",
        ("torch", "jax"),
    ),
    Recipe("per_sample", "the gradient of every image by itself: private training, curvature"),
    Recipe("mnist", "a CNN's kernel from a third of its numbers (static hypernetwork)"),
    Recipe("multitask", "a classifier from a sentence, for tasks that nobody trained on"),
)
