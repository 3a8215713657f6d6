"""Learners for JAX: a hypernetwork that keeps its old tasks, and what to compare it with."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

import hyperloom.jax as hl
from hyperloom.recipes.continual import setup
from hyperloom.recipes.continual.checks import check_examples, check_hypernetwork, check_task
from hyperloom.recipes.continual.data import SIDE
from hyperloom.recipes.continual.sequence import Learner, Training

Loss = Callable[[Array, Array], Array]
OnStep = Callable[[int], None]


def cross_entropy(outputs: Array, targets: Array) -> Array:
    """Return the mean cross-entropy of logits `(num, classes)` and labels `(num,)`."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()


class ContinualLearner:
    """A hypernetwork that learns tasks one after the other, and keeps what it generates for them.

    Each task is a condition id. Before a new task is learned, the weights generated for all old
    ids are remembered; while it is learned, the regulariser holds them there. No old data is
    kept. Ids that the hypernetwork does not have yet are added as they are needed.

    Args:
        hnet: A hypernetwork whose condition is an `Embedding`; it is trained in place.
        regularizer: What protects the old tasks; `None` leaves them without protection.
        training: Steps, batch size, learning rate and seed of each task.
        loss: `(outputs, targets) -> scalar`. Default cross-entropy.
        num_tasks: How many ids are learned already, e.g. in a hypernetwork that was loaded.

    Raises:
        ValueError: Another condition than an `Embedding`, or `num_tasks` beyond its ids.

    Example:
        >>> learner = ContinualLearner(hnet, hl.OutputRegularizer(1.0))
        >>> task = learner.learn(images, labels)       # 0, then 1, 2, ...
        >>> learner.predict(images, task)
    """

    def __init__(
        self,
        hnet: hl.HyperNetwork,
        regularizer: hl.OutputRegularizer | None,
        *,
        training: Training | None = None,
        loss: Loss = cross_entropy,
        num_tasks: int = 0,
    ) -> None:
        check_hypernetwork(hnet.plan, num_tasks)
        self.hnet = hnet
        self.regularizer = regularizer
        self.training = training or Training()
        self.num_tasks = num_tasks
        self._loss = loss
        self._draws = np.random.default_rng(self.training.seed)
        self._prepare()

    def _prepare(self) -> None:
        """Take the hypernetwork apart; what is compiled is for the ids that it has now."""
        self._net, self._params = hl.functional(self.hnet)
        self._run = jax.jit(lambda params, net, x, task: net(params, x, condition=task))

    @property
    def num_parameters(self) -> int:
        """Numbers learned, for all tasks together."""
        return self.hnet.plan.num_parameters

    def learn(self, inputs: Any, targets: Any, *, on_step: OnStep | None = None) -> int:
        """Learn the next task.

        Args:
            inputs: Examples `(num, ...)`.
            targets: `(num, ...)`, what the loss takes.
            on_step: Called after each step with the number of steps done.

        Returns:
            The id of the task.

        Raises:
            ValueError: No examples, or not one target for each.
        """
        examples = _examples(inputs, targets)
        task = self.num_tasks
        if task == self.hnet.plan.num_ids:
            self.hnet.add_conditions(1, rngs=nnx.Rngs(self.training.seed + task))
        guard = self.regularizer
        if guard is not None:
            guard.remember(self.hnet, range(task))
        self.num_tasks += 1
        self._prepare()

        def loss(params: Any, net: Any, x: Array, y: Array) -> Array:
            own = self._loss(net(params, x, condition=task), y)
            return own if guard is None else own + guard(net.merge(params))

        def each(params: Any, done: int) -> None:
            self._params = params
            if on_step is not None:
                on_step(done)

        step = _stepper(loss, _adam(self.hnet, self.training))
        start = self._params, self._net
        _fit(start, step, examples, self.training, self._draws, each)
        self._net.update(self.hnet, self._params)
        return task

    def outputs(self, inputs: Any, task: int) -> Array:
        """Return what the network of a task says.

        Raises:
            IndexError: A task that is not learned.
        """
        check_task(task, self.num_tasks)
        x, num = _padded(inputs)
        return self._run(self._params, self._net, x, task)[:num]

    def predict(self, inputs: Any, task: int) -> np.ndarray:
        """Return the class `(num,)` of each input of a task: its largest output."""
        return np.asarray(self.outputs(inputs, task)).argmax(-1)

    def layers(self, task: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the generated weight `(out, in)` and bias of each layer, in order."""
        made = self.weights(task)
        kernels = [name for name in made if name.endswith("kernel")]
        return [(made[n].T, made[n.replace("kernel", "bias")]) for n in kernels]

    def weights(self, task: int) -> dict[str, np.ndarray]:
        """Return the generated weights of a task by name.

        Raises:
            IndexError: A task that is not learned.
        """
        check_task(task, self.num_tasks)
        made = self._net.generate(self._params, task)
        return {name: np.asarray(value) for name, value in made.items()}

    def embeddings(self) -> np.ndarray:
        """Return the condition vectors of the tasks learned so far, `(num_tasks, dim)`."""
        encode: Any = self._net.merge(self._params).condition
        return np.asarray(encode(range(self.num_tasks)).vector)


class FineTuning:
    """One network that every task trains on in turn, without protection: it forgets.

    It is not told the task: it has nothing to tell it to.

    Args:
        network: Where to start; it is copied.
        training: As for `ContinualLearner`.
        loss: Likewise.
    """

    def __init__(
        self, network: nnx.Module, *, training: Training | None = None, loss: Loss = cross_entropy
    ) -> None:
        self.training = training or Training()
        self.num_tasks = 0
        self._plain = _Plain(network, loss, self.training)
        self._params = self._plain.start
        self._draws = np.random.default_rng(self.training.seed)

    @property
    def num_parameters(self) -> int:
        """Numbers in the network."""
        return self._plain.size

    def learn(self, inputs: Any, targets: Any, *, on_step: OnStep | None = None) -> int:
        """Learn the next task; arguments and errors as for `ContinualLearner.learn`."""
        examples = _examples(inputs, targets)
        self.num_tasks += 1

        def each(params: Any, done: int) -> None:
            self._params = params
            if on_step is not None:
                on_step(done)

        start = self._params, None
        _fit(start, self._plain.step, examples, self.training, self._draws, each)
        return self.num_tasks - 1

    def predict(self, inputs: Any, task: int) -> np.ndarray:
        """Return the class `(num,)` of each input; the network is the same for every task."""
        check_task(task, self.num_tasks)
        return self._plain.predict(self._params, inputs)


class SeparateNetworks:
    """A network for each task: nothing is forgotten, nothing is shared. The upper bound.

    Args:
        network: Where every task starts; it is copied.
        training: As for `ContinualLearner`.
        loss: Likewise.
    """

    def __init__(
        self, network: nnx.Module, *, training: Training | None = None, loss: Loss = cross_entropy
    ) -> None:
        self.training = training or Training()
        self.networks: list[Any] = []
        self._plain = _Plain(network, loss, self.training)
        self._draws = np.random.default_rng(self.training.seed)

    @property
    def num_parameters(self) -> int:
        """Numbers in all networks."""
        return len(self.networks) * self._plain.size

    def learn(self, inputs: Any, targets: Any, *, on_step: OnStep | None = None) -> int:
        """Learn the next task; arguments and errors as for `ContinualLearner.learn`."""
        examples = _examples(inputs, targets)
        self.networks.append(self._plain.start)

        def each(params: Any, done: int) -> None:
            self.networks[-1] = params
            if on_step is not None:
                on_step(done)

        start = self._plain.start, None
        _fit(start, self._plain.step, examples, self.training, self._draws, each)
        return len(self.networks) - 1

    def predict(self, inputs: Any, task: int) -> np.ndarray:
        """Return the class `(num,)` of each input, as the network of the task sees it."""
        check_task(task, len(self.networks))
        return self._plain.predict(self.networks[task], inputs)


class _Plain:
    """A network as pure functions."""

    def __init__(self, network: nnx.Module, loss: Loss, training: Training) -> None:
        graphdef, self.start = nnx.split(network)
        self.size = sum(leaf.size for leaf in jax.tree.leaves(self.start))
        self._run = jax.jit(lambda params, x: nnx.merge(graphdef, params, copy=True)(x))
        adam = optax.adam(training.learning_rate)
        self.step = _stepper(lambda params, _, x, y: loss(self._run(params, x), y), adam)

    def predict(self, params: Any, inputs: Any) -> np.ndarray:
        x, num = _padded(inputs)
        return np.asarray(self._run(params, x))[:num].argmax(-1)


def digits_network(widths: Iterable[int] = setup.WIDTHS, *, seed: int = 0) -> nnx.Sequential:
    """Return the network of the demo: 64 pixels, hidden layers with ReLU, two outputs.

    Args:
        widths: Of the hidden layers.
        seed: Of its initial values.
    """
    rngs = nnx.Rngs(seed)
    layers: list[Any] = []
    fan_in = SIDE * SIDE
    for width in widths:
        layers += [nnx.Linear(fan_in, width, rngs=rngs), jax.nn.relu]
        fan_in = width
    return nnx.Sequential(*layers, nnx.Linear(fan_in, 2, rngs=rngs))


def digits_hypernetwork(network: nnx.Module, *, seed: int = 0) -> hl.HyperNetwork:
    """Return the hypernetwork of the demo, for one task; more are added as they come."""
    return hl.HyperNetwork(
        network,
        condition=setup.CONDITION,
        trunk=setup.TRUNK,
        layout=setup.LAYOUT,
        rngs=nnx.Rngs(seed),
    )


def digits_learners(
    training: Training | None = None, *, strength: float = setup.STRENGTH
) -> dict[str, Learner]:
    """Return the learners that the demo compares, by name, all with the same main network.

    Args:
        training: For all of them; its seed is that of the networks' initial values too.
        strength: Of the regulariser.
    """
    training = training or Training()
    network = digits_network(seed=training.seed)
    hnet = digits_hypernetwork(network, seed=training.seed)
    bare = ContinualLearner(nnx.clone(hnet), None, training=training)
    protected = ContinualLearner(hnet, hl.OutputRegularizer(strength), training=training)
    return {
        "hypernetwork": protected,
        "hypernetwork, unprotected": bare,
        "fine-tuning": FineTuning(network, training=training),
        "separate networks": SeparateNetworks(network, training=training),
    }


def save(learner: ContinualLearner, path: str | os.PathLike[str]) -> None:
    """Write the learner's hypernetwork to a checkpoint; see `hyperloom.jax.save`."""
    hl.save(learner.hnet, path)


def load_digits_learner(path: str | os.PathLike[str]) -> ContinualLearner:
    """Read a learner of the demo's network back; raises as `hyperloom.jax.load` does."""
    hnet = hl.load(path, digits_network())
    guard = hl.OutputRegularizer(setup.STRENGTH)
    return ContinualLearner(hnet, guard, num_tasks=hnet.plan.num_ids or 0)


@contextmanager
def one_thread() -> Generator[None]:
    """Do nothing: XLA sizes its pool of threads when it starts, and has no way to change it."""
    yield


def versions() -> dict[str, str]:
    """Return the versions of what computes here."""
    return {"jax": jax.__version__, "flax": flax.__version__}


Step = Callable[[Any, Any, Any, np.ndarray, np.ndarray], tuple[Any, Any]]


def _adam(hnet: hl.HyperNetwork, training: Training) -> optax.GradientTransformation:
    """Return Adam with the rates of `param_groups`."""
    rates, labels = hl.param_groups(hnet, training.learning_rate)
    steps = {name: optax.adam(rate) for name, rate in rates.items()}
    return optax.multi_transform(steps, labels)


def _stepper(
    loss: Callable[..., Array], optimizer: optax.GradientTransformation
) -> tuple[Any, Step]:
    """Return an optimiser and its step on a batch; compiled once, for all batches of a size.

    Args:
        loss: Of parameters, what is not learned, inputs and targets.
        optimizer: The optimiser.
    """

    @jax.jit
    def step(params: Any, state: Any, frozen: Any, x: Array, y: Array) -> tuple[Any, Any]:
        updates, state = optimizer.update(jax.grad(loss)(params, frozen, x, y), state, params)
        return optax.apply_updates(params, updates), state

    return optimizer, step


def _fit(
    start: tuple[Any, Any],
    stepper: tuple[Any, Step],
    examples: tuple[np.ndarray, np.ndarray],
    training: Training,
    draws: np.random.Generator,
    each: Callable[[Any, int], None],
) -> None:
    """Train parameters, beside what is not learned; give them to `each` after every step."""
    params, frozen = start
    inputs, targets = examples
    optimizer, step = stepper
    state = optimizer.init(params)
    for done in range(1, training.steps + 1):
        batch = draws.integers(len(inputs), size=training.batch_size)
        params, state = step(params, state, frozen, inputs[batch], targets[batch])
        each(params, done)


def _padded(inputs: Any) -> tuple[Array, int]:
    """Return inputs with rows of zeros up to a power of two: few sizes, few compilations."""
    x = np.asarray(inputs)
    rows = 1 << max(0, len(x) - 1).bit_length()
    filler = np.zeros((rows - len(x), *x.shape[1:]), x.dtype)
    return jnp.asarray(np.concatenate([x, filler])), len(x)


def _examples(inputs: Any, targets: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and targets as arrays.

    Raises:
        ValueError: No examples, or not one target for each.
    """
    x, y = np.asarray(inputs), np.asarray(targets)
    check_examples(x, y)
    return x, y
