"""Networks as users write them: a U-Net, a ResNet, a flow, a graph network, neural fields."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# ---- diffusion U-Net ----------------------------------------------------------------------------


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """Return sines and cosines of the steps `(N,)`: `(N, width)`."""
    half = width // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device) / half)
    angles = t[:, None].to(frequencies) * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class UNetBlock(nn.Module):
    """Norm, activation, convolution, twice, with the time step added in between."""

    def __init__(self, inputs: int, outputs: int, time: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(2, inputs), nn.GroupNorm(2, outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.time = nn.Linear(time, outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.dropout = nn.Dropout(0.0)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time(F.silu(time))[:, :, None, None]
        return self.skip(x) + self.conv2(self.dropout(F.silu(self.norm2(h))))


class UNetAttention(nn.Module):
    """Self-attention over pixels, with the library's fused kernel."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.norm, self.heads = nn.GroupNorm(2, width), heads
        self.to_q, self.to_k = nn.Linear(width, width, bias=False), nn.Linear(width, width)
        self.to_v, self.to_out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        rows = self.norm(x).reshape(n, c, h * w).transpose(1, 2)
        q, k, v = (
            f(rows).view(n, h * w, self.heads, -1).transpose(1, 2)
            for f in (self.to_q, self.to_k, self.to_v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, h * w, c)
        return x + self.to_out(mixed).transpose(1, 2).reshape(n, c, h, w)


class UNet(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, 8), nn.SiLU(), nn.Linear(8, 8))
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.down = nn.ModuleList([UNetBlock(width, width, 8), UNetBlock(width, 2 * width, 8)])
        self.shrink = nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1)
        self.attention = UNetAttention(2 * width)
        self.middle = UNetBlock(2 * width, 2 * width, 8)
        self.grow = nn.ConvTranspose2d(2 * width, 2 * width, 2, stride=2)
        self.up = nn.ModuleList([UNetBlock(4 * width, width, 8), UNetBlock(2 * width, width, 8)])
        self.norm, self.last = nn.GroupNorm(2, width), nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time = self.time(timestep_embedding(t, self.width).to(x.dtype))
        h, kept = self.first(x), []
        for block in self.down:
            h = block(h, time)
            kept.append(h)
        h = self.grow(self.middle(self.attention(self.shrink(h)), time))
        for block in self.up:
            h = block(torch.cat([h, kept.pop()], dim=1), time)
        return self.last(F.silu(self.norm(h)))


# ---- ResNet -------------------------------------------------------------------------------------


class ResidualBlock(nn.Module):
    """Basic block with BatchNorm and ReLUs in place, as torchvision's."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1:
            convolution = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


def resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        ResidualBlock(4, 4, 1),
        ResidualBlock(4, 8, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


# ---- normalising flow ---------------------------------------------------------------------------


class Coupling(nn.Module):
    """An affine coupling layer (RealNVP): half of the inputs scale and shift the other half."""

    mask: Tensor

    def __init__(self, width: int, flip: bool) -> None:
        super().__init__()
        mask = (torch.arange(width) % 2 == int(flip)).float()
        self.register_buffer("mask", mask)
        self.scale = nn.Sequential(nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, width), nn.Tanh())
        self.shift = nn.Sequential(nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, width))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept = x * self.mask
        log_scale = self.scale(kept) * (1 - self.mask)
        shift = self.shift(kept) * (1 - self.mask)
        return kept + (1 - self.mask) * (x * log_scale.exp() + shift), log_scale.sum(-1)


class ActNorm(nn.Module):
    """A learned scale and shift of each input, held as bare parameters."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(0.1 * torch.randn(width))
        self.shift = nn.Parameter(torch.zeros(1, width))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = (x + self.shift) * self.log_scale.exp()
        return y, self.log_scale.sum().expand(x.shape[:-1])


class Invertible(nn.Module):
    """An invertible linear layer, by its LU factors (Glow)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lower = nn.Parameter(0.1 * torch.randn(width, width))
        self.upper = nn.Parameter(0.1 * torch.randn(width, width))
        self.log_diagonal = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        eye = torch.eye(len(self.log_diagonal), dtype=x.dtype, device=x.device)
        lower = self.lower.tril(-1) + eye
        upper = self.upper.triu(1) + torch.diag(self.log_diagonal.exp())
        return x @ (lower @ upper).T, self.log_diagonal.sum().expand(x.shape[:-1])


class Flow(nn.Module):
    """Returns the log density of its inputs."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        layers = (Coupling(width, False), ActNorm(width), Invertible(width), Coupling(width, True))
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        total = x.new_zeros(x.shape[:-1])
        for layer in self.layers:
            x, log_det = layer(x)
            total = total + log_det
        normal = torch.distributions.Normal(0.0, 1.0, validate_args=False)
        return normal.log_prob(x).sum(-1) + total


# ---- graph network ------------------------------------------------------------------------------


class GraphAttention(nn.Module):
    """Attention over the edges of a graph, by scatter operations (GAT)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.source, self.target = (
            nn.Parameter(torch.randn(outputs)),
            nn.Parameter(torch.randn(outputs)),
        )
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = self.linear(x)
        source, target = edges
        scores = F.leaky_relu((h @ self.source)[source] + (h @ self.target)[target], 0.2)
        weights = (scores - scores.max().detach()).exp()
        total = weights.new_zeros(len(x)).index_add(0, target, weights)
        messages = h[source] * (weights / (total[target] + 1e-9))[:, None]
        return h.new_zeros(h.shape).index_add(0, target, messages) + self.bias


class GraphConvolution(nn.Module):
    """Sums neighbours with `scatter_add_` into a fresh tensor."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.own, self.other = nn.Linear(inputs, outputs), nn.Linear(inputs, outputs, bias=False)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, target = edges
        messages = self.other(x)[source]
        total = torch.zeros_like(self.own(x))
        total.scatter_add_(0, target[:, None].expand_as(messages), messages)
        return self.own(x) + total


class Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([GraphAttention(4, 6), GraphConvolution(6, 6)])
        self.last = nn.Linear(6, 2)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.elu(layer(x, edges))
        return self.last(x.mean(0))


# ---- neural fields ------------------------------------------------------------------------------


class Sine(nn.Module):
    """A layer of SIREN, with its own initialisation."""

    def __init__(self, inputs: int, outputs: int, omega: float = 30.0, first: bool = False) -> None:
        super().__init__()
        self.linear, self.omega = nn.Linear(inputs, outputs), omega
        bound = 1 / inputs if first else math.sqrt(6 / inputs) / omega
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.omega * self.linear(x))


def siren() -> nn.Module:
    return nn.Sequential(Sine(2, 16, first=True), Sine(16, 16), nn.Linear(16, 3))


class FourierField(nn.Module):
    """Random Fourier features, held as a buffer, and a ReLU network with a skip connection."""

    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", 4 * torch.randn(2, 8))
        self.first, self.second = nn.Linear(16, 12), nn.Linear(28, 12)
        self.colour, self.density = nn.Linear(12, 3), nn.Linear(12, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        angles = 2 * torch.pi * x @ self.frequencies
        features = torch.cat([angles.sin(), angles.cos()], -1)
        h = F.relu(self.second(torch.cat([F.relu(self.first(features)), features], -1)))
        return {"colour": self.colour(h).sigmoid(), "density": F.softplus(self.density(h))}


class Field(nn.Module):
    """A field with its gradient in space, as physics-informed losses need it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        slope = torch.func.vmap(torch.func.grad(lambda point: self.layers(point).squeeze(-1)))
        return self.layers(x), slope(x)


# ---- the table ----------------------------------------------------------------------------------

Inputs = Callable[..., tuple[Any, ...]]


def _images(*lead: int, dtype: torch.dtype) -> tuple[Any, ...]:
    return (torch.randn(*lead, 3, 3, 8, 8, dtype=dtype),)


def _noisy(*lead: int, dtype: torch.dtype) -> tuple[Any, ...]:
    return torch.randn(*lead, 2, 1, 4, 4, dtype=dtype), torch.randint(0, 1000, (*lead, 2))


def _graph(*lead: int, dtype: torch.dtype) -> tuple[Any, ...]:
    return torch.randn(*lead, 5, 4, dtype=dtype), torch.randint(0, 5, (*lead, 2, 9))


def _rows(width: int) -> Inputs:
    return lambda *lead, dtype: (torch.rand(*lead, 6, width, dtype=dtype),)


BLOCKS: dict[str, tuple[Callable[[], nn.Module], Inputs, str]] = {
    "U-Net (diffusion)": (UNet, _noisy, "*.to_?.*"),
    "ResNet": (resnet, _images, "*.bn?.*"),
    "normalising flow": (Flow, _rows(4), "*.log_*"),
    "graph network": (Graph, _graph, "layers.0.*"),
    "SIREN": (siren, _rows(2), "*.bias"),
    "Fourier-feature field": (FourierField, _rows(2), "second.*"),
    "field with its gradient": (Field, _rows(2), "layers.2.*"),
}
