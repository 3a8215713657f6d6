# %% [markdown]
# # A speller whose weights change at every letter
#
# A small LSTM reads along with a larger one and scales the rows of its matrices at every letter: a HyperLSTM (Ha, Dai
# and Le, ICLR 2017). It learns to spell the names of colours that matplotlib ships
# ([dynamic hypernetworks](../dynamic.md)).

# %%
import torch
from matplotlib import pyplot as plt

from hyperloom.recipes.names.data import read_names
from hyperloom.recipes.names.torch import Speller, bits, invent, step_of

torch.manual_seed(0)
names = read_names()
print(
    len(names.train),
    "names to learn,",
    len(names.test),
    "to test, such as",
    names.spell(names.train[0]),
)
speller = Speller(len(names.letters))
print(speller.cell)

# %% [markdown]
# ## Training
#
# A minute's worth, where the recipe takes five: what it says of names that it has not seen, in bits a letter.

# %%
train, test = torch.from_numpy(names.train), torch.from_numpy(names.test)
step = step_of(speller, 1e-2)
for i in range(60):
    step(train[torch.randint(len(train), (64,))])
    if i % 20 == 19:
        with torch.no_grad():
            print(f"step {i + 1}: {float(bits(speller(test[:, :-1]), test)):.2f} bits a letter")

# %%
draws = torch.Generator().manual_seed(0)
print(*(names.spell(row.numpy()) for row in invent(speller, 8, train.shape[1], draws)), sep="\n")

# %% [markdown]
# ## The weights while a name is spelled
#
# The recurrent matrix at each letter of one name, less its mean over the name: rows are scaled as the small LSTM says.

# %%
row = max(names.test, key=lambda r: len(names.spell(r)))
text = names.spell(row)
weights = speller.weights(torch.from_numpy(row[: len(text) + 1]))
change = (weights - weights.mean(0))[:, 128:192]  # the rows that make new values
figure, panels = plt.subplots(1, len(text) + 1, figsize=(9, 2), dpi=80)
for axes, letter, image in zip(panels, " " + text, change):
    axes.imshow(image, "RdBu_r", vmin=-0.04, vmax=0.04, aspect="auto")
    axes.set(xticks=[], yticks=[], title=letter)
plt.show()

# %% [markdown]
# ## To try
#
# - A file of names of your own, one a line: `read_names("file.txt")`.
# - `hyperloom demo names` trains longer, beside a plain LSTM of equal size and the same by hand.
