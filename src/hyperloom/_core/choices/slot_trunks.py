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
        _check(self)
        one_of("Transformer(norm=)", self.norm, ("pre", "post"), _OTHER)

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


@dataclass(frozen=True, repr=False)
class Perceiver(Trunk):
    """A given number of learned tokens reads the context, and the slots read the tokens.

    For many slots or long contexts: with `T` tokens, `C` slots and `L` elements it takes
    `T² + T·L + T·C` products, where a `Transformer` takes `C² + C·L`. Jaegle et al., "Perceiver
    IO", ICLR 2022, whose queries are the slots.

    Each of `depth` layers is self-attention among the tokens, cross-attention to the context's
    elements (without a context, to the slots), and two linear maps with an activation between. Then
    each slot's token attends to them once, and has two linear maps of its own. All parts see their
    inputs under layer norm, and the last features are divided by their root mean square, as in
    `Transformer(norm="pre")`. Weights start as there, the tokens with root mean square 1.

    Args:
        width: Width of the tokens, and of the features.
        tokens: Number of learned tokens. Default 16.
        depth: Number of layers. Default 2.
        heads: Attention heads; they divide `width`. Default 4.
        feedforward: Width between the two linear maps. Default `4 * width`.
        activation: Between them, as in `MLP`. Default `"gelu"`.

    Raises:
        ValueError: A size below 1, heads that do not divide the width, or an unknown word.
    """

    width: int
    tokens: int = 16
    depth: int = 2
    heads: int = 4
    feedforward: int | None = None
    activation: str = "gelu"

    def __post_init__(self) -> None:
        positive_int("Perceiver(tokens=)", self.tokens)
        _check(self)

    @property
    def over_slots(self) -> bool:
        return True

    @property
    def norm(self) -> str:
        """Where norms stand, as in `Transformer`."""
        return "pre"

    @property
    def between(self) -> int:
        """Width between the two linear maps of a layer."""
        return self.feedforward or 4 * self.width

    def out_width(self, in_width: int) -> int:
        return self.width

    def inner_fans(self) -> dict[str, int]:
        read = dict.fromkeys(("across.query", "across.out", "up"), self.width)
        read |= {"down": self.between}
        layer = read | dict.fromkeys(("among.query", "among.pairs", "among.out"), self.width)
        fans = {f"read.{n}.weight": fan for n, fan in (read | {"across.pairs": self.width}).items()}
        for i in range(self.depth):
            fans |= {f"stages.{i}.{n}.weight": fan for n, fan in layer.items()}
        return fans

    def num_parameters(self, in_width: int, context: int = 0) -> int:
        width = self.width
        between = 2 * width * self.between + self.between + width + 2 * width
        read = attention_numel(width, width) + 2 * width + between
        layer = attention_numel(width, width) + attention_numel(width, context or width)
        layer += 2 * 2 * width + between
        return width * (in_width + 1 + self.tokens) + self.depth * layer + read


def _check(choice: Transformer | Perceiver) -> None:
    """Raise unless sizes and the activation can be."""
    name = type(choice).__name__
    for field in ("width", "depth", "heads"):
        positive_int(f"{name}({field}=)", getattr(choice, field))
    divides(name, choice.heads, choice.width)
    if choice.feedforward is not None:
        positive_int(f"{name}(feedforward=)", choice.feedforward)
    one_of(f"{name}(activation=)", choice.activation, ACTIVATIONS, _OTHER)


def attention_numel(width: int, source: int) -> int:
    """Numbers in an attention of tokens of `width` to elements of width `source`."""
    return 2 * width * (width + 1) + 2 * width * (source + 1)


def divides(name: str, heads: int, width: int) -> None:
    """Raise unless a number of heads divides the width."""
    if width % heads:
        wanted = f"a divisor of width={width}"
        raise ValueError(message(f"{name}(heads=)", heads, wanted))
