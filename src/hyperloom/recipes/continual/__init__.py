"""Continual learning: tasks one after the other, each without the data of those before it.

This package holds what needs no framework: the data, the protocol of a learner, and the loop that
measures it. `hyperloom.recipes.continual.torch` has the learners for PyTorch,
`hyperloom.recipes.continual.jax` those for JAX.

    from hyperloom.recipes.continual import learn_in_sequence, split_digits
    from hyperloom.recipes.continual.torch import digits_learners

    tasks = split_digits()
    learner = digits_learners()["hypernetwork"]
    record = learn_in_sequence(learner, tasks)
    print(record.right_after, record.final)

Method: von Oswald, Henning, Grewe and Sacramento, "Continual learning with hypernetworks",
ICLR 2020. `hyperloom demo digits` is this recipe on scikit-learn's digits.
"""

from hyperloom.recipes.continual.data import Part, Task, split_digits
from hyperloom.recipes.continual.sequence import Learner, Record, Training, learn_in_sequence

__all__ = [
    "Learner",
    "Part",
    "Record",
    "Task",
    "Training",
    "learn_in_sequence",
    "split_digits",
]
