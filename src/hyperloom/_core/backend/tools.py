"""What a backend owes around a hypernetwork: its regulariser, its noise, several of them as one."""

from __future__ import annotations

from typing import Any, Protocol

from hyperloom._core.plan.plan import Plan

Array = Any
Arrays = dict[str, Any]


class OutputRegularizer(Protocol):
    """Keeps what the hypernetwork generates for old conditions while it learns new ones.

    `remember` stores the tensors generated now; calling the object returns

        strength / T * sum over the T old conditions of || h(now) - h(remembered) ||^2

    with all old conditions generated in one batched pass; or, where that is cheaper, with Gram
    matrices of features and heads in place of the outputs. Von Oswald et al.,
    "Continual learning with hypernetworks", ICLR 2020, equation 2, without the lookahead step.

    Args:
        strength: Factor on the mean over old conditions (the paper's beta).
        subset: Regularise this many old conditions a call, drawn anew at each call without
            replacement; the mean is over those drawn. `None` (default) takes all.
        weights: Importance of tensors: a dict from name patterns to a number or to an array that
            broadcasts to the tensor's shape (a mask, a Fisher diagonal), first match wins; what
            no pattern names counts 1.

    Raises:
        TypeError: An argument of another type.
        ValueError: A negative `strength`, or a `subset` below 1.

    Example:
        >>> reg = OutputRegularizer(strength=0.01)
        >>> # before learning task t:  reg.remember(hnet, range(t))
        >>> # at each step:            loss = task_loss + reg(hnet)
    """

    num_conditions: int

    def remember(self, hnet: Any, conditions: Any) -> None:
        """Store what `hnet` generates for a batch of conditions now, in place of what was stored.

        Args:
            hnet: The hypernetwork.
            conditions: Raw value of a batch of conditions, e.g. `range(t)` or ids `(T,)`. An
                empty range or list forgets everything: the regulariser is then zero.

        Raises:
            ValueError: One condition instead of a batch, noise that is drawn anew at each call, a
                weight's pattern that names no generated tensor, or a weight whose shape does not
                broadcast to that of a tensor it is for.
        """

    def __call__(self, hnet: Any) -> Array:
        """Return the penalty, a scalar; zero while nothing is remembered."""


class Perturbed(Protocol):
    """A hypernetwork whose generated tensors are perturbed by Gaussian noise.

    An implicit distribution over networks (`condition=Noise(n)`) has its support on a surface of
    at most `n` dimensions; with noise on every weight it has a density everywhere, which
    divergences such as KL need. hypnettorch's `HPerturbWrapper`.

    Args:
        hnet: The hypernetwork. Its parameters are the parameters of this module.
        sigma: Standard deviation of the noise. Default 0.02.
        before: `f(condition)` that returns the condition that `hnet` gets.
        after: `f(params, condition)` that returns the tensors, in place of the noise. `params`
            is what `hnet` generated, `condition` what the user gave.

    Raises:
        TypeError: `hnet` is not a `HyperNetwork`.
        ValueError: `sigma` negative or not finite, or a condition that carries a state.
    """

    @property
    def plan(self) -> Plan:
        """The plan of the hypernetwork."""
        ...

    def generate(self, condition: Any, *, noise: Array | None = None) -> Arrays:
        """Generate the target's parameters, perturbed.

        Args:
            condition: Raw value of one condition, or of a batch.
            noise: The noise before its scale, `(*batch, P)`, tensor after tensor; drawn by
                default, anew for each condition.

        Returns:
            As `HyperNetwork.generate`.

        Raises:
            ValueError: Noise of another shape, or noise with `after`.
        """
        ...

    def __call__(self, *inputs: Any, condition: Any, noise: Array | None = None) -> Any:
        """Generate, perturb, and run the target. Arguments as in a call of `HyperNetwork`."""


class Assembled(Protocol):
    """A target whose tensors are put together from what several hypernetworks generate.

    Where name patterns are not enough: tensors cut out of, joined from or computed with what is
    generated. Shared tensors and tensors of each condition are hypernetworks too, with the
    layouts `Shared()` and `PerCondition()`. hypnettorch's `HContainer` and `StructuredHMLP`.

    Args:
        target: A target, as of `HyperNetwork`: a template.
        parts: The hypernetworks by name. What they generate need not be a network: `Shapes`.
        assemble: `f({part: {name: array}})` that returns `{name: array}` for every parameter
            of the target. It sees one condition at a time, and is mapped over a batch.

    Raises:
        TypeError: A part that is not a `HyperNetwork`.
        ValueError: No parts, or one whose condition carries a state.
    """

    @property
    def plan(self) -> Plan:
        """The target's tensors, as a plan in which all of them are given."""
        ...

    def generate(self, condition: Any) -> Arrays:
        """Generate the target's parameters.

        Args:
            condition: Raw value of one condition, or of a batch, for all parts; or a dict with a
                value for each part.

        Returns:
            `{name: (*batch, *shape)}`.

        Raises:
            ValueError: Parts with different batches, or an assembly that lacks a tensor of the
                target or returns one of another shape.
            TypeError: An assembly that returns no dict.
        """
        ...

    def __call__(self, *inputs: Any, condition: Any) -> Any:
        """Generate, assemble, and run the target. Arguments as in a call of `HyperNetwork`."""


class LayerByLayer(Protocol):
    """Stages of a network, generated one after the other from what a support set becomes in them.

    The weights of a stage depend on the activations of a support set, run through the stages that
    were generated before it. One call takes a batch of episodes. Zhmoginov, Sandler and
    Vladymyrov, "HyperTransformer", ICML 2022; Bonet et al., "HyperFast", AAAI 2024.

    Args:
        stages: A hypernetwork for each stage, in their order, by name; the output of one is the
            input of the next. Layers without weights belong to a stage's target:
            `nn.Sequential(conv, relu, pool)`. Each has a condition, trunk and layout of its own.
        extract: `extract(name, activations, *support)` returns the raw condition of a stage. It
            gets the stage's name, its input for the support set, `(*batch, L, ...)`, and the
            support as it was given. A module is a part of this one, and is trained with it.

    Raises:
        TypeError: `stages` is no dict of hypernetworks, or `extract` cannot be called.
        ValueError: No stage, a name with a dot, or a stage whose condition carries a state.
    """

    def bind(self, condition: Any) -> Any:
        """Generate all stages for a support set, or for a batch of them.

        Args:
            condition: The support set: its inputs `(*batch, L, ...)`, or a tuple of the inputs
                and whatever else `extract` is to see, as labels `(*batch, L)`.

        Returns:
            A network to call on queries `(*batch, N, ...)`. It holds the weights as they are now.

        Raises:
            TypeError: As calls of the stages' hypernetworks.
            ValueError: An empty tuple; or as those calls.
        """
        ...

    def generate(self, condition: Any) -> Arrays:
        """Return all generated tensors, `{"stage.tensor": (*batch, *shape)}`.

        Args:
            condition: As for `bind`.
        """
        ...

    def __call__(self, *inputs: Any, condition: Any) -> Any:
        """Run the generated network on queries.

        Args:
            *inputs: Inputs of the first stage, `(*batch, N, ...)`.
            condition: As for `bind`.

        Returns:
            What the last stage returns.
        """
        ...
