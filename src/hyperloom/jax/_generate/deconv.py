"""`Deconv`, built."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from hyperloom._core.choices.deconv import Deconv, Step, attention_keys
from hyperloom.jax._generate.activations import ACTIVATIONS
from hyperloom.jax._generate.draws import Start
from hyperloom.jax._generate.norms import BatchNorm
from hyperloom.jax._generate.slots import with_slots

_LAYOUT = ("NCHW", "IOHW", "NCHW")


class DeconvTrunk(nnx.Module):
    """Draws an image from the condition; its pixels, channel by channel, are the features.

    Axes: `R` rows of the batch, `C` channels, `H` and `W` pixels, `N` pixels in a row.
    """

    def __init__(self, choice: Deconv, in_width: int, start: Start) -> None:
        self.choice = choice
        self.first = Dense(in_width, math.prod(choice.first), choice.gain, start)
        num = len(choice.steps)
        self.steps = nnx.List(
            [
                TransposedConvolution(step, 1.0 if i == num - 1 else choice.gain, start)
                for i, step in enumerate(choice.steps)
            ]
        )
        self.attention = nnx.Dict(
            {str(i): SelfAttention(choice.filters[i], start) for i in choice.attention}
        )
        self.norms = nnx.List([BatchNorm(n, start) for n in choice.filters if choice.norm])

    def __call__(
        self, vector: Array, slots: Array | None, key: Array | None = None, ids: Array | None = None
    ) -> Array:
        rows = with_slots(vector, slots)
        num = math.prod(rows.shape[:-1])
        flat = rows.reshape(num, rows.shape[-1])
        flat = flat @ self._normed(self.first.weight[...]).T + self.first.bias[...]
        image_RCHW = self._finish(flat.reshape(num, *self.choice.first), 0)
        for i, step in enumerate(self.steps):
            image_RCHW = step(image_RCHW, self._normed(step.weight[...]))
            if not step.step.last:
                image_RCHW = self._finish(image_RCHW, i + 1)
        return image_RCHW.reshape(*rows.shape[:-1], math.prod(image_RCHW.shape[1:]))

    def _finish(self, image_RCHW: Array, layer: int) -> Array:
        """Norm, activation, attention of a hidden layer."""
        if self.choice.norm:
            image_RCHW = self.norms[layer](image_RCHW, axis=1)
        image_RCHW = ACTIVATIONS[self.choice.activation](image_RCHW)
        if layer in self.choice.attention:
            image_RCHW = self.attention[str(layer)](image_RCHW)
        return image_RCHW

    def _normed(self, weight: Array) -> Array:
        if not self.choice.spectral:
            return weight
        return weight / jnp.linalg.norm(weight.reshape(len(weight), -1), 2)


class Dense(nnx.Module):
    """A fully connected layer, weight `(out, in)`."""

    def __init__(self, fan_in: int, fan_out: int, gain: float, start: Start) -> None:
        weight = start.uniform((fan_out, fan_in), math.sqrt(gain / fan_in))
        self.weight = nnx.Param(start.array(weight))
        self.bias = nnx.Param(start.array(start.uniform((fan_out,), 1 / math.sqrt(3 * fan_in))))

    def __call__(self, x: Array) -> Array:
        return x @ self.weight[...].T + self.bias[...]


class TransposedConvolution(nnx.Module):
    """One step: weight `(in, out, *kernel)`; what a stride makes beyond the size is cut."""

    def __init__(self, step: Step, gain: float, start: Start) -> None:
        self.step = step
        weight = start.uniform((*step.channels, *step.kernel), math.sqrt(gain / step.fan_in))
        self.weight = nnx.Param(start.array(weight))
        self.bias = nnx.Param(start.zeros((step.channels[1],)))

    def __call__(self, image_RCHW: Array, weight: Array) -> Array:
        step, padding = self.step, []
        for axis in range(2):
            # A convolution with the kernel turned round, on pixels that stand a stride apart.
            apart = (step.size[axis] - 1) * step.stride[axis] + 1
            before = step.kernel[axis] - 1 - step.padding[axis]
            padding.append((before, step.out[axis] + step.kernel[axis] - 1 - apart - before))
        image = lax.conv_general_dilated(
            image_RCHW,
            jnp.flip(weight, (2, 3)),
            (1, 1),
            padding,
            lhs_dilation=step.stride,
            dimension_numbers=_LAYOUT,
        )
        return image + self.bias[...][:, None, None]


class SelfAttention(nnx.Module):
    """Adds to every pixel a mean over all pixels, weighted by how well query and key agree."""

    def __init__(self, channels: int, start: Start) -> None:
        keys = attention_keys(channels)
        self.query = Dense(channels, keys, 1 / 3, start)
        self.key = Dense(channels, keys, 1 / 3, start)
        self.value = Dense(channels, channels, 1 / 3, start)
        self.gamma = nnx.Param(start.zeros(()))

    def __call__(self, image_RCHW: Array) -> Array:
        num = math.prod(image_RCHW.shape[2:])
        pixels_RNC = _turned(image_RCHW.reshape(*image_RCHW.shape[:2], num))
        agreement_RNN = self.query(pixels_RNC) @ _turned(self.key(pixels_RNC))
        mean_RNC = jax.nn.softmax(agreement_RNN) @ self.value(pixels_RNC)
        return image_RCHW + self.gamma[...] * _turned(mean_RNC).reshape(image_RCHW.shape)


def _turned(x: Array) -> Array:
    return jnp.swapaxes(x, -2, -1)
