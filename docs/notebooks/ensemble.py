# %% [markdown]
# # Twenty classifiers from one generator
#
# An ensemble knows when it does not know: its members disagree. Here twenty digit classifiers come from one small
# generator, a member being an embedding of eight numbers ([ensembles](../howto/ensembles.md)).

# %%
import torch
from matplotlib import pyplot as plt

from hyperloom import plot
from hyperloom.recipes.ensemble.demo import read_digits
from hyperloom.recipes.ensemble.torch import (
    MEMBERS,
    FromOneGenerator,
    chances,
    disagreement,
    measures,
    step_of,
)

torch.manual_seed(0)
digits = read_digits()
members = FromOneGenerator()
print(members.hnet)

# %% [markdown]
# All members are one call: a batch of 20 conditions, each with a batch of images of its own.

# %%
step = step_of(members, 3e-3)
for i in range(400):
    batch = torch.randint(len(digits.x), (MEMBERS, 32))
    loss = step(digits.x[batch], digits.y[batch])
    if i % 100 == 99:
        print(f"step {i + 1}: {float(loss):.3f} nats")

# %%
said = chances(members, digits.test_x)  # (members, images, classes)
print({name: round(value, 3) for name, value in measures(said, digits.test_y).items()})

# %% [markdown]
# ## What the members do not know
#
# The same images with their pixels shuffled are no digits any more. Members that are sure of themselves disagree there.

# %%
on, off = disagreement(said), disagreement(chances(members, digits.off))
figure, axes = plt.subplots(figsize=(6, 3), dpi=80)
axes.hist(on, 30, alpha=0.7, label="digits")
axes.hist(off, 30, alpha=0.7, label="their pixels shuffled")
axes.set(xlabel="disagreement of members, nats", ylabel="images", yscale="log")
axes.legend()
plt.show()

# %% [markdown]
# The members, on a map of their embeddings, and how alike their weights are:

# %%
plot.conditions(members.hnet)

# %%
plot.similarity(members.hnet)

# %% [markdown]
# ## To try
#
# - `hyperloom.recipes.ensemble.torch.Batched()` is BatchEnsemble: members that share their matrices.
# - `hl.Noise(8)` in the place of `hl.Embedding(20, 8)` gives as many members as one likes.
# - `hyperloom demo ensemble` holds both beside twenty separate networks. They win where they are trained long enough.
