"""Whether a batch gives what its conditions give one after the other, and the same twice.

Outputs are compared, and the gradient of every parameter. Draws are the same in all runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import Array

from hyperloom._core.choices.execution import Execution
from hyperloom._core.reports.agreement import AGAIN, LOOP, gradients_disagree, outputs_disagree
from hyperloom._core.reports.measures import told
from hyperloom._core.reports.readings import Disagreement
from hyperloom.jax._generate.encoded import Encoded
from hyperloom.jax._hypernetwork import HyperNetwork
from hyperloom.jax._run.call import Asked
from hyperloom.jax._run.run import run_encoded
from hyperloom.jax._tools.doctor_layers import Gradients, floats
from hyperloom.jax._tools.functional import functional


@dataclass(frozen=True)
class Examined:
    """A call to examine.

    Attributes:
        hnet: A copy of the hypernetwork.
        condition: Raw conditions.
        carry: Their state, for a condition that has one.
        given: What is given beside them.
    """

    hnet: HyperNetwork
    condition: Any
    carry: Any
    given: Asked

    def streams(self) -> nnx.Rngs | None:
        """Return the streams of the call, the same ones each time."""
        return nnx.clone(self.given.streams)

    def asked(self) -> Asked:
        """Return what is given, to run a call with."""
        return replace(self.given, streams=self.streams())

    def encode(self, condition: Any) -> Encoded:
        """Return conditions, encoded."""
        return self.hnet.generator.encode(condition, self.streams(), self.carry)


def runner_of(call: Examined) -> Callable[[Any, Any], Any]:
    """Return the call as `run(params, net)`, of what `functional` returns."""

    def run(params: Any, net: Any) -> Any:
        merged = net.merge(params)
        encoded = merged.generator.encode(call.condition, call.streams(), call.carry)
        return run_encoded(merged.generator, merged.runner, encoded, call.asked())

    return run


def generator_of(call: Examined) -> Callable[[Any, Any], dict[str, Array]]:
    """Return what the call generates as `generate(net, params)`, compiled."""

    def generate(net: Any, params: Any) -> dict[str, Array]:
        generator = net.merge(params).generator
        encoded = generator.encode(call.condition, call.streams(), call.carry)
        return generator.tensors(encoded, generator.trunk_key(call.streams()))

    return jax.jit(generate)


def disagreements(
    call: Examined,
    outputs: list[Array],
    grads: Mapping[str, Array | None],
    tolerance: float,
) -> tuple[tuple[Disagreement, ...], tuple[str, ...]]:
    """Run the call again, and one condition after the other; compare.

    Args:
        call: The call.
        outputs: What it returned.
        grads: The gradients of its projection, by parameter name.
        tolerance: Relative difference up to which two numbers count as the same.

    Returns:
        What differs beyond rounding; and what could not be run, in words.
    """
    run, ours, execution = runner_of(call), _arrays(outputs), call.hnet.execution
    net, params = functional(call.hnet)
    try:
        # A new function is traced anew: what the first trace has left behind in Python shows here.
        again = jax.jit(lambda params, net: floats(run(params, net)))(params, net)
        found = outputs_disagree(AGAIN, _arrays(again), ours, tolerance)
        call.hnet.execution = Execution(strategy="loop", randomness=execution.randomness)
        theirs, right = Gradients(run)(params, functional(call.hnet)[0])
    except Exception as error:  # the user's own modules: whatever they raise is told
        return (), (told("the loop is not compared", error),)
    finally:
        call.hnet.execution = execution
    in_outputs = outputs_disagree(LOOP, ours, _arrays(theirs), tolerance)
    in_gradients = gradients_disagree(LOOP, _by_name(grads), _by_name(right), tolerance)
    return (*found, *in_outputs, *in_gradients), ()


def _by_name(grads: Mapping[str, Array | None]) -> dict[str, np.ndarray | None]:
    return {name: None if grad is None else np.asarray(grad) for name, grad in grads.items()}


def _arrays(values: list[Array]) -> list[np.ndarray]:
    return [np.asarray(value) for value in values]
