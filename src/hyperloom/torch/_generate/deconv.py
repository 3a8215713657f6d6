"""`Deconv`, built."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperloom._core.choices.deconv import Deconv, Step, attention_keys
from hyperloom.torch._generate.activations import ACTIVATIONS


class DeconvTrunk(nn.Module):
    """Draws an image from the condition; its pixels, channel by channel, are the features.

    Axes: `R` rows of the batch, `C` channels, `H` and `W` pixels, `K` keys.
    """

    def __init__(self, choice: Deconv, in_width: int) -> None:
        super().__init__()
        self.choice = choice
        self.activation = ACTIVATIONS[choice.activation]
        self.first = nn.Linear(in_width, math.prod(choice.first))
        self.steps = nn.ModuleList(TransposedConvolution(step) for step in choice.steps)
        self.attention = nn.ModuleDict(
            {str(i): SelfAttention(choice.filters[i]) for i in choice.attention}
        )
        self.norms = nn.ModuleList(PixelNorm(n) for n in choice.filters if choice.norm)
        with torch.no_grad():
            fans = [(self.first.weight, float(in_width))]
            fans += [(s.weight, s.step.fan_in) for s in self._steps()]
            for i, (weight, fan_in) in enumerate(fans):
                gain = 1.0 if i == len(fans) - 1 else choice.gain
                bound = math.sqrt(3 * gain / fan_in)
                weight.uniform_(-bound, bound)

    def _steps(self) -> list[TransposedConvolution]:
        return [step for step in self.steps if isinstance(step, TransposedConvolution)]

    def forward(self, vector: Tensor, slots: Tensor | None) -> Tensor:
        from hyperloom.torch._generate.slots import with_slots

        x = with_slots(vector, slots)
        rows = x.reshape(-1, x.shape[-1])
        flat = F.linear(rows, self._normed(self.first.weight), self.first.bias)
        image_RCHW = self._finish(flat.view(-1, *self.choice.first), 0)
        for i, step in enumerate(self._steps()):
            image_RCHW = step(image_RCHW, self._normed(step.weight))
            if not step.step.last:
                image_RCHW = self._finish(image_RCHW, i + 1)
        return image_RCHW.reshape(*x.shape[:-1], -1)

    def _finish(self, image_RCHW: Tensor, layer: int) -> Tensor:
        """Norm, activation, attention of a hidden layer."""
        if self.choice.norm:
            image_RCHW = self.norms[layer](image_RCHW)
        image_RCHW = self.activation(image_RCHW)
        if str(layer) in self.attention:
            image_RCHW = self.attention[str(layer)](image_RCHW)
        return image_RCHW

    def _normed(self, weight: Tensor) -> Tensor:
        if not self.choice.spectral:
            return weight
        return weight / torch.linalg.matrix_norm(weight.flatten(1), 2)


class TransposedConvolution(nn.Module):
    """One step: weight `(in, out, *kernel)`; what a stride makes beyond the size is cut."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step
        self.weight = nn.Parameter(torch.empty(*step.channels, *step.kernel))
        self.bias = nn.Parameter(torch.zeros(step.channels[1]))

    def forward(self, image_RCHW: Tensor, weight: Tensor) -> Tensor:
        step = self.step
        pairs = zip(step.kernel, step.stride, strict=True)
        # With an odd kernel and stride 2 one row is missing at the end.
        more = [1 if k % 2 and s == 2 else 0 for k, s in pairs]
        image = F.conv_transpose2d(
            image_RCHW, weight, self.bias, step.stride, step.padding, (more[0], more[1])
        )
        return image[..., : step.out[0], : step.out[1]]


class SelfAttention(nn.Module):
    """Adds to every pixel a mean over all pixels, weighted by how well query and key agree."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        keys = attention_keys(channels)
        self.query = nn.Linear(channels, keys)
        self.key = nn.Linear(channels, keys)
        self.value = nn.Linear(channels, channels)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, image_RCHW: Tensor) -> Tensor:
        pixels_RNC = image_RCHW.flatten(2).mT
        share_RNN = (self.query(pixels_RNC) @ self.key(pixels_RNC).mT).softmax(-1)
        mean_RNC = share_RNN @ self.value(pixels_RNC)
        return image_RCHW + self.gamma * mean_RNC.mT.reshape(image_RCHW.shape)


class PixelNorm(nn.Module):
    """Batch norm over rows and pixels."""

    norm_mean: Tensor
    norm_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm_weight = nn.Parameter(torch.ones(channels))
        self.norm_bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("norm_mean", torch.zeros(channels))
        self.register_buffer("norm_var", torch.ones(channels))

    def forward(self, image_RCHW: Tensor) -> Tensor:
        scale, shift = self.norm_weight, self.norm_bias
        mean, var = self.norm_mean, self.norm_var
        return F.batch_norm(image_RCHW, mean, var, scale, shift, self.training)
