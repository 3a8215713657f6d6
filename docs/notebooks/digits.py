# %% [markdown]
# # Five tasks in a row, none forgotten
#
# A network that learns tasks one after the other forgets the earlier ones. Here one generator holds a network for each
# of five tasks, and while a new one is learned, what is generated for the old ones is held in place
# ([continual learning](../continual.md); von Oswald et al., ICLR 2020). No data of old tasks is kept.
#
# The data are scikit-learn's 8x8 digits, two classes a task.

# %%
from hyperloom import plot
from hyperloom.recipes.continual import Training, learn_in_sequence, split_digits
from hyperloom.recipes.continual.torch import digits_learners

tasks = split_digits()
learners = digits_learners(Training(steps=200))
print([task.name for task in tasks], *learners, sep="\n")

# %% [markdown]
# ## Learning in sequence
#
# Each learner sees the tasks once, in order. `right after` is the accuracy on a task when it was just learned,
# `at the end` that after all five; the difference is what was forgotten.

# %%
records = {}
for name in ("hypernetwork", "hypernetwork, unprotected", "fine-tuning"):
    records[name] = learn_in_sequence(learners[name], tasks, checks=1)
    right, final = records[name].right_after, records[name].final
    print(f"{name:26} right after {sum(right) / 5:5.1f} %   at the end {sum(final) / 5:5.1f} %")

# %% [markdown]
# ## What was learned
#
# The plan of the generator, and what it has made of the five conditions.

# %%
hnet = learners["hypernetwork"].hnet
hnet

# %%
names = [task.name for task in tasks]
plot.conditions(hnet, labels=names)

# %% [markdown]
# How alike the generated networks are, less what all have in common:

# %%
plot.similarity(hnet, labels=names)

# %% [markdown]
# Generated weights beside the target's own start (grey): few large singular values are what the tasks share.

# %%
plot.weights(hnet)

# %% [markdown]
# ## To try
#
# - `learners["separate networks"]` is the upper bound: a network for each task.
# - `Training(strength=0.0)` takes the protection away, `Training(seed=1)` draws other batches.
# - `hyperloom demo digits` runs all learners at length, and draws the accuracy over time.
