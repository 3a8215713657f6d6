"""Trunks over slots: all slots of a condition at once, and its context, without a framework."""

from __future__ import annotations

from dataclasses import dataclass

from hyperloom._core.choices.trunks import ACTIVATIONS, Trunk
from hyperloom._core.errors import message, one_of, positive_int

_OTHER = "Give a module with `over_slots = True` as trunk for any other."


@dataclass(frozen=True, repr=False)
class Transformer(Trunk):
    """Slots are tokens that attend to each other, and to the condition's context if it has one.

    Every slot's token is a linear map of the condition's vector and the slot's embedding. A layer
    is self-attention over the slots, cross-attention to the context, and two linear maps with an
    activation between; each is added to the token. All slots with embeddings of one width are
    tokens of one sequence, whichever head they belong to. A context without elements (all masked)
    adds a bias alone.

    With `norm="pre"` (default) each part of a layer sees its input under layer norm (Xiong et al.,
    "On Layer Normalization in the Transformer Architecture", ICML 2020), and the last features are
    divided by their root mean square, without parameters, as in `MLP`: every slot of every
    condition starts with weights of exactly the scale that the plan asks for. With `norm="post"`
    the sums are normalised, as in Vaswani et al., "Attention Is All You Need", 2017, and in
    Zhmoginov et al., "HyperTransformer", ICML 2022; features then end in a layer norm.

    Weights start uniform with variance `1 / fan_in`, those before the activation with twice that;
    biases start at 0.

    Args:
        width: Width of the tokens, and of the features.
        depth: Number of layers. Default 2.
        heads: Attention heads; they divide `width`. Default 4.
        feedforward: Width between the two linear maps. Default `4 * width`.
        activation: Between them, as in `MLP`. Default `"gelu"`.
        norm: `"pre"` or `"post"`.

    Raises:
        ValueError: A size below 1, heads that do not divide the width, or an unknown word.
    """

    width: int
    depth: int = 2
    heads: int = 4
    feedforward: int | None = None
    activation: str = "gelu"
    norm: str = "pre"

    def __post_init__(self) -> None:
        name = type(self).__name__
        for field in ("width", "depth", "heads"):
            positive_int(f"{name}({field}=)", getattr(self, field))
        divides(name, self.heads, self.width)
        if self.feedforward is not None:
            positive_int(f"{name}(feedforward=)", self.feedforward)
        one_of(f"{name}(activation=)", self.activation, ACTIVATIONS, _OTHER)
        one_of(f"{name}(norm=)", self.norm, ("pre", "post"), _OTHER)

    @property
    def over_slots(self) -> bool:
        return True

    @property
    def between(self) -> int:
        """Width between the two linear maps of a layer."""
        return self.feedforward or 4 * self.width

    def out_width(self, in_width: int) -> int:
        return self.width

    def inner_fans(self) -> dict[str, int]:
        widths = dict.fromkeys(("among.query", "among.pairs", "among.out", "up"), self.width)
        widths |= {"across.query": self.width, "across.out": self.width, "down": self.between}
        layers = range(self.depth)
        return {f"stages.{i}.{n}.weight": width for i in layers for n, width in widths.items()}

    def num_parameters(self, in_width: int, context: int = 0) -> int:
        width = self.width
        layer = attention_numel(width, width) + 2 * width + self.feedforward_numel
        if context:
            layer += attention_numel(width, context) + 2 * width
        return width * (in_width + 1) + self.depth * layer

    @property
    def feedforward_numel(self) -> int:
        """Numbers in the two linear maps of a layer and their norm."""
        return 2 * self.width * self.between + self.between + self.width + 2 * self.width


def attention_numel(width: int, source: int) -> int:
    """Numbers in an attention of tokens of `width` to elements of width `source`."""
    return 2 * width * (width + 1) + 2 * width * (source + 1)


def divides(name: str, heads: int, width: int) -> None:
    """Raise unless a number of heads divides the width."""
    if width % heads:
        wanted = f"a divisor of width={width}"
        raise ValueError(message(f"{name}(heads=)", heads, wanted))
