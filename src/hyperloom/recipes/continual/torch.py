"""Learners for PyTorch: a hypernetwork that keeps its old tasks, and what to compare it with."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hyperloom.torch as hl
from hyperloom.recipes.continual import setup
from hyperloom.recipes.continual.checks import check_examples, check_hypernetwork, check_task
from hyperloom.recipes.continual.data import SIDE
from hyperloom.recipes.continual.sequence import Learner, Training

Loss = Callable[[Tensor, Tensor], Tensor]


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
        loss: Loss = F.cross_entropy,
        num_tasks: int = 0,
    ) -> None:
        check_hypernetwork(hnet.plan, num_tasks)
        self.hnet = hnet
        self.regularizer = regularizer
        self.training = training or Training()
        self.num_tasks = num_tasks
        self._loss = loss
        self._draws = torch.Generator().manual_seed(self.training.seed)

    @property
    def num_parameters(self) -> int:
        """Numbers learned, for all tasks together."""
        return self.hnet.plan.num_parameters

    def learn(
        self, inputs: Any, targets: Any, *, on_step: Callable[[int], None] | None = None
    ) -> int:
        """Learn the next task.

        Args:
            inputs: Examples `(num, ...)`, a tensor or an array.
            targets: `(num, ...)`, what the loss takes.
            on_step: Called after each step with the number of steps done.

        Returns:
            The id of the task.

        Raises:
            ValueError: No examples, or not one target for each.
        """
        examples = _examples(inputs, targets, self.hnet)
        task = self.num_tasks
        if task == self.hnet.plan.num_ids:
            with _seeded(self.training.seed + task):
                self.hnet.add_conditions(1)
        guard = self.regularizer
        if guard is not None:
            guard.remember(self.hnet, range(task))
        self.num_tasks += 1

        def loss(x: Tensor, y: Tensor) -> Tensor:
            own = self._loss(self.hnet(x, condition=task), y)
            return own if guard is None else own + guard(self.hnet)

        _fit(self.hnet, loss, examples, self.training, self._draws, on_step)
        return task

    def outputs(self, inputs: Any, task: int) -> Tensor:
        """Return what the network of a task says, without gradient.

        Raises:
            IndexError: A task that is not learned.
        """
        check_task(task, self.num_tasks)
        return _evaluate(self.hnet, inputs, condition=task)

    def predict(self, inputs: Any, task: int) -> np.ndarray:
        """Return the class `(num,)` of each input of a task: its largest output."""
        return self.outputs(inputs, task).argmax(-1).cpu().numpy()

    def weights(self, task: int) -> dict[str, np.ndarray]:
        """Return the generated weights of a task by name.

        Raises:
            IndexError: A task that is not learned.
        """
        check_task(task, self.num_tasks)
        with torch.no_grad():
            made = self.hnet.generate(task)
        return {name: value.cpu().numpy() for name, value in made.items()}

    def layers(self, task: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the generated weight `(out, in)` and bias of each layer, in order."""
        made = list(self.weights(task).values())
        return list(zip(made[::2], made[1::2], strict=True))

    def embeddings(self) -> np.ndarray:
        """Return the condition vectors of the tasks learned so far, `(num_tasks, dim)`."""
        with torch.no_grad():
            vector = self.hnet.condition(range(self.num_tasks)).vector
        return vector.cpu().numpy()


class FineTuning:
    """One network that every task trains on in turn, without protection: it forgets.

    It is not told the task: it has nothing to tell it to.

    Args:
        network: Where to start; it is copied.
        training: As for `ContinualLearner`.
        loss: Likewise.
    """

    def __init__(
        self, network: nn.Module, *, training: Training | None = None, loss: Loss = F.cross_entropy
    ) -> None:
        self.network = copy.deepcopy(network)
        self.training = training or Training()
        self.num_tasks = 0
        self._loss = loss
        self._draws = torch.Generator().manual_seed(self.training.seed)

    @property
    def num_parameters(self) -> int:
        """Numbers in the network."""
        return _size(self.network)

    def learn(
        self, inputs: Any, targets: Any, *, on_step: Callable[[int], None] | None = None
    ) -> int:
        """Learn the next task; arguments and errors as for `ContinualLearner.learn`."""
        examples = _examples(inputs, targets, self.network)
        self.num_tasks += 1

        def loss(x: Tensor, y: Tensor) -> Tensor:
            return self._loss(self.network(x), y)

        _fit(self.network, loss, examples, self.training, self._draws, on_step)
        return self.num_tasks - 1

    def predict(self, inputs: Any, task: int) -> np.ndarray:
        """Return the class `(num,)` of each input; the network is the same for every task."""
        check_task(task, self.num_tasks)
        return _evaluate(self.network, inputs).argmax(-1).cpu().numpy()


class SeparateNetworks:
    """A network for each task: nothing is forgotten, nothing is shared. The upper bound.

    Args:
        network: Where every task starts; it is copied.
        training: As for `ContinualLearner`.
        loss: Likewise.
    """

    def __init__(
        self, network: nn.Module, *, training: Training | None = None, loss: Loss = F.cross_entropy
    ) -> None:
        self.networks: list[nn.Module] = []
        self.training = training or Training()
        self._start = copy.deepcopy(network)
        self._loss = loss
        self._draws = torch.Generator().manual_seed(self.training.seed)

    @property
    def num_parameters(self) -> int:
        """Numbers in all networks."""
        return sum(_size(network) for network in self.networks)

    def learn(
        self, inputs: Any, targets: Any, *, on_step: Callable[[int], None] | None = None
    ) -> int:
        """Learn the next task; arguments and errors as for `ContinualLearner.learn`."""
        examples = _examples(inputs, targets, self._start)
        network = copy.deepcopy(self._start)
        self.networks.append(network)

        def loss(x: Tensor, y: Tensor) -> Tensor:
            return self._loss(network(x), y)

        _fit(network, loss, examples, self.training, self._draws, on_step)
        return len(self.networks) - 1

    def predict(self, inputs: Any, task: int) -> np.ndarray:
        """Return the class `(num,)` of each input, as the network of the task sees it."""
        check_task(task, len(self.networks))
        return _evaluate(self.networks[task], inputs).argmax(-1).cpu().numpy()


def digits_network(widths: Iterable[int] = setup.WIDTHS) -> nn.Sequential:
    """Return the network of the demo: 64 pixels, hidden layers with ReLU, two outputs.

    Args:
        widths: Of the hidden layers.
    """
    layers: list[nn.Module] = []
    fan_in = SIDE * SIDE
    for width in widths:
        layers += [nn.Linear(fan_in, width), nn.ReLU()]
        fan_in = width
    return nn.Sequential(*layers, nn.Linear(fan_in, 2))


def digits_hypernetwork(network: nn.Module) -> hl.HyperNetwork:
    """Return the hypernetwork of the demo, for one task; more are added as they come."""
    return hl.HyperNetwork(
        network,
        condition=setup.CONDITION,
        trunk=setup.TRUNK,
        layout=setup.LAYOUT,
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
    with _seeded(training.seed):
        network = digits_network()
        hnet = digits_hypernetwork(network)
    protected = ContinualLearner(hnet, hl.OutputRegularizer(strength), training=training)
    bare = ContinualLearner(copy.deepcopy(hnet), None, training=training)
    return {
        "hypernetwork": protected,
        "hypernetwork, unprotected": bare,
        "fine-tuning": FineTuning(network, training=training),
        "separate networks": SeparateNetworks(network, training=training),
    }


def save(learner: ContinualLearner, path: str | os.PathLike[str]) -> None:
    """Write the learner's hypernetwork to a checkpoint; see `hyperloom.torch.save`."""
    hl.save(learner.hnet, path)


def load_digits_learner(path: str | os.PathLike[str]) -> ContinualLearner:
    """Read a learner of the demo's network back; raises as `hyperloom.torch.load` does."""
    hnet = hl.load(path, digits_network())
    guard = hl.OutputRegularizer(setup.STRENGTH)
    return ContinualLearner(hnet, guard, num_tasks=hnet.plan.num_ids or 0)


@contextmanager
def one_thread() -> Generator[None]:
    """Compute on one thread: for networks this small, threads cost more than they bring.

    On a busy machine they were seen to wait for each other ten times as long as they worked.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def versions() -> dict[str, str]:
    """Return the versions of what computes here."""
    return {"torch": torch.__version__}


@contextmanager
def _seeded(seed: int) -> Generator[None]:
    """Draw from a seed, and leave the caller's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _fit(
    module: nn.Module,
    loss: Loss,
    examples: tuple[Tensor, Tensor],
    training: Training,
    draws: torch.Generator,
    on_step: Callable[[int], None] | None,
) -> None:
    """Train a module's parameters on random batches with Adam."""
    inputs, targets = examples
    # A plain network has one group, at the learning rate.
    optimizer = torch.optim.Adam(hl.param_groups(module, training.learning_rate))
    module.train()
    for step in range(training.steps):
        batch = torch.randint(len(inputs), (training.batch_size,), generator=draws)
        batch = batch.to(inputs.device)
        optimizer.zero_grad()
        loss(inputs[batch], targets[batch]).backward()
        optimizer.step()
        if on_step is not None:
            on_step(step + 1)


def _evaluate(module: nn.Module, inputs: Any, **kwargs: Any) -> Tensor:
    """Run a module in eval mode without gradient; leave it in the mode it was in."""
    was = module.training
    module.eval()
    try:
        with torch.no_grad():
            return module(torch.as_tensor(inputs, device=_device(module)), **kwargs)
    finally:
        module.train(was)


def _examples(inputs: Any, targets: Any, module: nn.Module) -> tuple[Tensor, Tensor]:
    """Return inputs and targets as tensors on the module's device.

    Raises:
        ValueError: No examples, or not one target for each.
    """
    device = _device(module)
    x, y = torch.as_tensor(inputs, device=device), torch.as_tensor(targets, device=device)
    check_examples(x, y)
    return x, y


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
