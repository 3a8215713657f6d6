# %% [markdown]
# # A classifier from a sentence
#
# A task is a set of three digits, said in words: "one or four or eight". The generator reads the sentence and makes the
# network that tells whether an image is one of these. Of 120 tasks 90 are learned; the others are for the test, and no
# example of them is ever seen.

# %%
import numpy as np
import torch
from matplotlib import pyplot as plt

import hyperloom.torch as hl
from hyperloom import plot
from hyperloom.recipes.multitask.data import load
from hyperloom.recipes.multitask.torch import (
    HYPER_RATE,
    accuracy,
    batches,
    hypernetwork,
    of,
    step_of,
)

tasks = load(0)
hnet = hypernetwork(tasks.vectors.shape[1], seed=0)
print(hnet)
print(tasks.texts[tasks.unseen[0]], tasks.vectors[tasks.unseen[0]].round(2))

# %% [markdown]
# ## Training
#
# Thirty-two sentences are one call, each with images of its own.

# %%
step = step_of(of(hnet), hl.param_groups(hnet, HYPER_RATE), HYPER_RATE)
for i, (vectors, images, asked) in zip(range(1200), batches(tasks, 0)):
    loss = step(vectors, images, asked)
    if i % 300 == 299:
        print(f"step {i + 1}: loss {loss:.3f}")

# %%
for name, which in (("seen", tasks.seen), ("unseen", tasks.unseen)):
    right = 100 * accuracy(of(hnet), tasks, which)
    print(f"{name:6} sentences: {right.mean():.1f} % right, the worst {right.min():.1f}")

# %% [markdown]
# ## What the networks of unseen sentences say
#
# How often each digit (across) is said to belong to each sentence (down).

# %%
some = tasks.unseen[:10]
with torch.no_grad():
    images = torch.from_numpy(tasks.images[1]).expand(len(some), -1, -1)
    said = of(hnet)(torch.from_numpy(tasks.vectors[some]), images).sigmoid().numpy()
shares = np.stack([[row[tasks.digits[1] == d].mean() for d in range(10)] for row in said])
figure, axes = plt.subplots(figsize=(6, 3.4), dpi=80)
axes.imshow(shares, vmin=0, vmax=1, aspect="auto")
axes.set_xticks(range(10))
axes.set_yticks(range(len(some)), [tasks.texts[i] for i in some])
plt.show()

# %% [markdown]
# Sentences are conditions like any other: which of them lead to alike networks? Those that share digits.

# %%
plot.similarity(hnet, torch.from_numpy(tasks.vectors[some]), labels=[tasks.texts[i] for i in some])

# %% [markdown]
# ## To try
#
# - Two digits, or four: `tasks.sets` and the sentences are plain arrays.
# - A sentence encoder in the place of TF-IDF: the condition is a vector, whatever made it.
# - `hyperloom demo multitask` puts it beside one network that reads the sentence as an input, which is better here.
