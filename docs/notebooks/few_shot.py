# %% [markdown]
# # A network from ten points
#
# The condition is a set: ten points of a curve that nobody has seen before. A generator reads them and makes a network
# that goes through the curve, in one pass and without a gradient step ([few-shot](../howto/few_shot.md)).

# %%
import torch
from matplotlib import pyplot as plt
from torch import nn

import hyperloom.torch as hl
from hyperloom import plot

torch.manual_seed(0)


def episodes(num, shots=10, queries=40):
    """Sine curves of other heights and phases: points to read, and points to be right at."""
    height, phase = 0.5 + 1.5 * torch.rand(num, 1, 1), 6.3 * torch.rand(num, 1, 1)
    x = 10 * torch.rand(num, shots + queries, 1) - 5
    y = height * torch.sin(x + phase)
    return torch.cat([x, y], -1)[:, :shots], x[:, shots:], y[:, shots:]


# %% [markdown]
# A set is encoded point by point, and pooled: the order of the points does not matter. Any module is a condition.


# %%
class Points(nn.Module):
    """Encodes sets of points `(*batch, n, 2)`."""

    dim = 64

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, self.dim)
        )

    def forward(self, points):
        return self.net(points).mean(-2)


target = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
hnet = hl.HyperNetwork(target, condition=Points(), trunk=hl.MLP(128, 128))
print(hnet)

# %% [markdown]
# ## Training
#
# A batch of episodes is a batch of conditions: 32 networks a call.

# %%
steps = 3000
optimizer = torch.optim.Adam(hl.param_groups(hnet, lr=3e-3))
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
for step in range(steps):
    support, x, y = episodes(32)
    loss = (hnet(x, condition=support) - y).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    if step % 500 == 499:
        print(f"step {step + 1}: mean squared error {loss.item():.3f}")

# %%
support, x, y = episodes(1000)
with torch.no_grad():
    error = (hnet(x, condition=support) - y).square().mean()
print(f"1000 new curves: {error:.3f}; the mean of all curves would give {y.square().mean():.3f}")

# %% [markdown]
# ## Four curves that it has never seen
#
# Dots are the ten points that were read, lines the networks that were made of them.

# %%
support, x, y = episodes(4, queries=400)
with torch.no_grad():
    line = torch.linspace(-5, 5, 100)[:, None]
    drawn = hnet(line, condition=support, in_dims=None)
figure, panels = plt.subplots(1, 4, figsize=(9, 2.2), dpi=80, sharey=True)
for i, axes in enumerate(panels):
    order = x[i, :, 0].argsort()
    axes.plot(x[i, order, 0], y[i, order, 0], color="0.8", linewidth=4)
    axes.plot(line[:, 0], drawn[i, :, 0])
    axes.plot(*support[i].T, "o", color="C1")
plt.show()

# %% [markdown]
# Is it healthy? `doctor` measures outputs, gradients and weights, beside the target's own start:

# %%
report = hnet.doctor(x[:, :50], condition=support)
plot.layers(report)

# %% [markdown]
# ## To try
#
# - Fewer points, or points with noise: the mean over a set takes any number.
# - `hl.AttentionPool` pools by attention, `hl.Context` gives the trunk all points.
# - [An inner loop](../howto/transforms.md#an-inner-loop) goes on from the generated weights by gradient steps.
