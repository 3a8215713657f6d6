"""The trunk of transposed convolutions, which draws the generated numbers as an image."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hyperloom._core.choices.trunks import ACTIVATION_WANTED, ACTIVATIONS, Trunk, a_word
from hyperloom._core.errors import a_bool, message, shown, some_ints

_SMALLEST = 4  # an image smaller than that is not doubled


@dataclass(frozen=True, slots=True)
class Step:
    """One transposed convolution, as sizes.

    Attributes:
        channels: Channels in and out.
        size: Height and width that come in.
        out: Height and width that go out; what a stride makes beyond it is cut.
        kernel: Height and width of the kernel.
        attention: Whether self-attention follows.
        last: Whether it is the output layer: no norm, no activation.
    """

    channels: tuple[int, int]
    size: tuple[int, int]
    out: tuple[int, int]
    kernel: tuple[int, int]
    attention: bool
    last: bool

    @property
    def stride(self) -> tuple[int, int]:
        """2 along an axis that is doubled, 1 along another."""
        return (self._stride(0), self._stride(1))

    def _stride(self, axis: int) -> int:
        return 1 if self.size[axis] == self.out[axis] else 2

    @property
    def padding(self) -> tuple[int, int]:
        """Rows that are cut at the start along each axis."""
        return ((self.kernel[0] - 1) // 2, (self.kernel[1] - 1) // 2)

    @property
    def fan_in(self) -> float:
        """Numbers that one number of the output is a sum of, away from the borders."""
        taps = math.prod(k / s for k, s in zip(self.kernel, self.stride, strict=True))
        return self.channels[0] * max(taps, 1.0)


@dataclass(frozen=True, init=False, repr=False)
class Deconv(Trunk):
    """A fully connected layer and transposed convolutions that draw an image: its pixels.

    With the layout `Direct(pixels)` the pixels are the generated numbers, cut to as many as
    there are. Each layer doubles the image; where it is smaller than 4 its size stays.
    Self-attention after some layers relates distant pixels. The "hyper-image" of hypnettorch's
    `HDeconv`; self-attention as in Zhang et al., "Self-Attention Generative Adversarial
    Networks", 2019, whose factor gamma starts at 0.

    Args:
        image: `(height, width)` or `(height, width, channels)` of the image.
        filters: Channels after each layer but the last; the first is the fully connected one.
            As many as there are layers besides the last.
        kernel: Size of all kernels, an int or `(height, width)`; or a tuple of such, one for
            each transposed convolution.
        attention: Layers after which self-attention stands; 0 is the fully connected one. Not
            the last.
        activation: Activation of all layers but the last, as in `MLP`.
        norm: `"batch"` for batch norm before the activations, or `None`.
        spectral: Divide every weight by its largest singular value (kernels as matrices of
            their input channels), as in `MLP`.

    Raises:
        ValueError: Sizes below 1, no filters, a number of kernels that is not that of the layers,
            or attention after a layer that does not exist.
    """

    image: tuple[int, int, int]
    filters: tuple[int, ...]
    kernel: tuple[tuple[int, int], ...]
    attention: tuple[int, ...] = ()
    activation: str = "relu"
    norm: str | None = None
    spectral: bool = False

    def __init__(
        self,
        image: tuple[int, ...],
        filters: tuple[int, ...] = (64, 32),
        kernel: int | tuple[int, int] | tuple[int | tuple[int, int], ...] = 5,
        attention: tuple[int, ...] = (),
        activation: str = "relu",
        norm: str | None = None,
        spectral: bool = False,
    ) -> None:
        sizes = some_ints("Deconv(image=)", image, "(height, width[, channels])")
        if len(sizes) not in (2, 3):
            raise ValueError(message("Deconv(image=)", image, "(height, width[, channels])"))
        widths = some_ints("Deconv(filters=)", filters, "a tuple of ints, one a hidden layer")
        if not widths:
            raise ValueError(message("Deconv(filters=)", "none", "one for each hidden layer"))
        wanted = f"layers in 0 .. {len(widths) - 1}; the last has none after it"
        attention = some_ints("Deconv(attention=)", attention, f"a tuple of {wanted}", least=0)
        for layer in attention:
            if layer >= len(widths):
                raise ValueError(message("Deconv(attention=)", layer, wanted))
        a_word("Deconv(activation=)", activation, ACTIVATIONS, ACTIVATION_WANTED)
        if norm is not None:
            a_word("Deconv(norm=)", norm, ("batch",), '"batch" or None')
        a_bool("Deconv(spectral=)", spectral)
        object.__setattr__(self, "image", sizes if len(sizes) == 3 else (*sizes, 1))
        object.__setattr__(self, "filters", widths)
        object.__setattr__(self, "kernel", _kernels(kernel, len(widths)))
        object.__setattr__(self, "attention", tuple(sorted(set(attention))))
        object.__setattr__(self, "activation", activation)
        object.__setattr__(self, "norm", norm)
        object.__setattr__(self, "spectral", spectral)

    def __repr__(self) -> str:
        shown = [f"image={self.image}", f"filters={self.filters}", f"kernel={self.kernel}"]
        shown += [f"attention={self.attention}"] if self.attention else []
        shown += [f"activation={self.activation!r}"] if self.activation != "relu" else []
        shown += [f"norm={self.norm!r}"] if self.norm else []
        shown += ["spectral=True"] if self.spectral else []
        return f"Deconv({', '.join(shown)})"

    @property
    def gain(self) -> float:
        """Factor on `1 / fan_in` that the weights' variance starts with, as in `MLP`."""
        return {"tanh": 1.0, "identity": 1.0, "sigmoid": 16.0}.get(self.activation, 2.0)

    @property
    def first(self) -> tuple[int, int, int]:
        """Channels, height and width of what the fully connected layer gives."""
        return (self.filters[0], *self.sizes[0])

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width after each layer, the fully connected one first."""
        image_sizes = [self.image[:2]]
        for _ in self.filters:
            height, width = (_before(n) for n in image_sizes[0])
            image_sizes.insert(0, (height, width))
        return tuple(image_sizes)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The transposed convolutions, in order."""
        channels = (*self.filters, self.image[2])
        num = len(self.filters)
        return tuple(
            Step(
                (channels[i], channels[i + 1]),
                self.sizes[i],
                self.sizes[i + 1],
                self.kernel[i],
                i + 1 in self.attention,
                i == num - 1,
            )
            for i in range(num)
        )

    def out_width(self, in_width: int) -> int:
        return math.prod(self.image)

    def num_parameters(self, in_width: int, context: int = 0) -> int:
        first = math.prod(self.first)
        total = (in_width + 1) * first
        total += sum(attention_numel(self.filters[i]) for i in self.attention)
        for step in self.steps:
            inner, outer = step.channels
            total += inner * outer * math.prod(step.kernel) + outer
        return total + (2 * sum(self.filters) if self.norm else 0)


def attention_keys(channels: int) -> int:
    """Width of the queries and keys of self-attention over `channels`."""
    return max(1, channels // 8)


def attention_numel(channels: int) -> int:
    """Numbers in the weights of one self-attention."""
    keys = attention_keys(channels)
    return 2 * (keys * channels + keys) + channels * channels + channels + 1


def _before(size: int) -> int:
    """Size along an axis before a layer, for that after it."""
    half = math.ceil(size / 2)
    return half if half >= _SMALLEST else size


def _kernels(kernel: object, num: int) -> tuple[tuple[int, int], ...]:
    """Return `(height, width)` for each layer."""
    pair = isinstance(kernel, (tuple, list)) and len(kernel) == 2
    flat = pair and all(isinstance(k, int) for k in kernel)  # type: ignore[attr-defined]
    if isinstance(kernel, int) or flat:
        given: list[object] = [kernel] * num
    else:
        given = list(kernel) if isinstance(kernel, (tuple, list)) else []
    wanted = f"an int, (height, width), or one of these for each of {num} layers"
    if not isinstance(kernel, (int, tuple, list)):
        raise TypeError(message("Deconv(kernel=)", shown(kernel), wanted))
    if len(given) != num:
        raise ValueError(message("Deconv(kernel=)", repr(kernel), wanted))
    kernel_sizes = []
    for entry in given:
        sizes = some_ints(
            "Deconv(kernel=)", (entry, entry) if isinstance(entry, int) else entry, wanted
        )
        if len(sizes) != 2:
            raise ValueError(message("Deconv(kernel=)", shown(kernel), wanted))
        kernel_sizes.append(sizes)
    return tuple(kernel_sizes)
