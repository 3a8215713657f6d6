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
