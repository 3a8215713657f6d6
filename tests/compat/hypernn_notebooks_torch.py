"""The four programs that hyper-nn's notebooks are for PyTorch, as far as they use the library.

Written anew, on data small enough for a test: what is called, with which arguments and in which
order, is the notebooks' own. `lib` is `hypernn.torch` or the door, `load` gives a network the
numbers that another run started from, and `data` stands for the loaders and the environment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.distributions.categorical import Categorical
from torch.func import vmap

Load = Callable[[Any], None]


def two_layers(inputs: int, width: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, outputs))


def intro(lib: Any, load: Load) -> list[Tensor]:
    """Static and dynamic, with and without the auxiliary output, parameters first and after."""
    target, sizes = two_layers(32, 64, 32), {"embedding_dim": 4, "num_embeddings": 32}
    static = lib.TorchLinearHyperNetwork(target_network=target, **sizes)
    load(static)
    inp = torch.linspace(-1, 1, 32).view(1, 32)
    found = [static(inp)]
    output, params, aux = static(inp, has_aux=True)
    found += [output, params[: static.num_target_parameters], aux["embedding"]]
    params, aux = static.generate_params()
    found.append(static(inp, generated_params=params))

    dynamic = lib.TorchDynamicHyperNetwork(input_dim=32, target_network=target, **sizes)
    load(dynamic)
    found.append(dynamic(inp, generate_params_kwargs={"x": inp}))
    start = {"x": inp, "hidden_state": torch.zeros((1, 32))}
    found.append(dynamic(inp, generate_params_kwargs=start))
    return found


def intro_tasks(lib: Any, load: Load) -> list[Tensor]:
    """A class whose parameters depend on a one-hot task, which is not an input of the target."""

    class MultiTask(lib.TorchHyperNetwork):
        def __init__(
            self,
            num_tasks: int,
            target_network: nn.Module,
            num_target_parameters: int | None = None,
            embedding_dim: int = 100,
            num_embeddings: int = 3,
            weight_chunk_dim: int | None = None,
        ) -> None:
            super().__init__(
                target_network=target_network, num_target_parameters=num_target_parameters
            )
            self.num_tasks = num_tasks
            self.embedding_dim = embedding_dim
            self.num_embeddings = num_embeddings
            self.weight_chunk_dim: Any = weight_chunk_dim
            if weight_chunk_dim is None:
                count = lib.utils.get_weight_chunk_dims
                self.weight_chunk_dim = count(self.num_target_parameters, num_embeddings)
            self.embedding_module = self.make_embedding_module()
            self.weight_generator = self.make_weight_generator()

        def make_embedding_module(self) -> nn.Module:
            last = nn.Linear(8, self.embedding_dim)
            return nn.Sequential(nn.Embedding(self.num_embeddings, 8), nn.Tanh(), last, nn.Tanh())

        def make_weight_generator(self) -> nn.Module:
            first = nn.Linear(self.embedding_dim + self.num_tasks, 32)
            return nn.Sequential(first, nn.Tanh(), nn.Linear(32, self.weight_chunk_dim))

        def generate_params(self, one_hot_task_embedding: Tensor) -> Any:
            embedding = self.embedding_module(torch.arange(self.num_embeddings, device=self.device))
            tasks = one_hot_task_embedding.repeat(self.num_embeddings, 1)
            both = torch.cat((embedding, tasks), dim=-1)
            return self.weight_generator(both).view(-1), {"embedding": embedding}

    hypernetwork = MultiTask(
        num_tasks=4, target_network=two_layers(32, 64, 32), embedding_dim=4, num_embeddings=32
    )
    load(hypernetwork)
    inp = torch.linspace(-1, 1, 32).view(1, 32)
    tasks = [{"one_hot_task_embedding": row.view(1, 4)} for row in torch.eye(4)]
    return [hypernetwork(inp, generate_params_kwargs=task) for task in tasks]


def intro_vmap(lib: Any, load: Load) -> list[Tensor]:
    """Parameters that depend on the input: in a loop, and with vmap over both halves."""
    hypernetwork = lib.TorchDynamicHyperNetwork(
        target_network=two_layers(8, 256, 32), embedding_dim=4, num_embeddings=32, input_dim=8
    )
    load(hypernetwork)
    inp = torch.linspace(-1, 1, 80).view(10, 1, 8)
    rows = [hypernetwork(row, generate_params_kwargs={"x": row}) for row in inp]

    def forward(
        generated_params: Any,
        *args: Any,
        has_aux: bool = False,
        assert_parameter_shapes: bool = True,
        generate_params_kwargs: Any = None,
        **kwargs: Any,
    ) -> Any:
        return hypernetwork.forward(
            *args,
            generated_params=generated_params,
            has_aux=has_aux,
            assert_parameter_shapes=assert_parameter_shapes,
            generate_params_kwargs=generate_params_kwargs or {},
            **kwargs,
        )

    params, _ = vmap(hypernetwork.generate_params)(inp)
    outputs = vmap(forward)(params, inp)
    assert outputs.size() == (10, 1, 32)
    torch.testing.assert_close(outputs, torch.stack(rows))
    return [outputs]


def wider(kind: Any) -> Any:
    """Return the class of the notebooks on MNIST and Lunar Lander: a generator of two layers."""

    class Wider(kind):
        def __init__(self, target_network: nn.Module, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, target_network=target_network, **kwargs)

        def make_weight_generator(self) -> nn.Module:
            first = nn.Linear(self.embedding_dim, 32)
            return nn.Sequential(first, nn.Tanh(), nn.Linear(32, self.weight_chunk_dim))

    return Wider


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, 2),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, 2),
            nn.ReLU(),
            nn.Conv2d(8, 10, 2, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).view(x.size(0), -1)


def mnist(lib: Any, load: Load) -> list[Tensor]:
    """An image classifier, trained: inputs go to the target alone."""
    hypernetwork = wider(lib.TorchLinearHyperNetwork).from_target(
        ConvNet(), embedding_dim=4, num_embeddings=32
    )
    load(hypernetwork)
    hypernetwork = hypernetwork.to(torch.device("cpu"))
    draws = torch.Generator().manual_seed(0)
    loader = [
        (torch.rand(6, 1, 28, 28, generator=draws), torch.randint(10, (6,), generator=draws))
        for _ in range(3)
    ]
    params, _ = hypernetwork.generate_params()
    found = [params[: hypernetwork.num_target_parameters]]
    optimizer = optim.Adam(hypernetwork.parameters(), lr=0.0002)
    for x, target in loader:
        optimizer.zero_grad()
        out = hypernetwork(x.to(hypernetwork.device), has_aux=False)
        loss = F.cross_entropy(out, target.to(hypernetwork.device))
        loss.backward()
        optimizer.step()
        found.append(loss)
    with torch.no_grad():
        out = hypernetwork(loader[0][0].to(hypernetwork.device), has_aux=False)
    # And one image without a batch, at the end: channels take the place of the batch there.
    single = hypernetwork(loader[0][0][0].to(hypernetwork.device), has_aux=False)
    return [*found, out, single]


class CharCell(nn.Module):
    """A recurrent target of three inputs and two outputs."""

    def __init__(self, categories: int, letters: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.rnn = nn.GRUCell(categories + letters, hidden_size)
        self.linear = nn.Linear(hidden_size, 24)
        self.linear2 = nn.Linear(24, letters)
        self.softmax = nn.LogSoftmax(dim=1)

    def forward(self, category: Tensor, inp: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.rnn(torch.cat((category, inp), dim=-1), hidden)
        return self.softmax(self.linear2(torch.relu(self.linear(hidden)))), hidden

    def init_hidden(self) -> Tensor:
        return torch.zeros(1, self.hidden_size)


LETTERS, CATEGORIES = "abcdefgh", 3
NAMES = ((0, "bad"), (2, "cafe"))


def one_hot(index: int, num: int) -> Tensor:
    return F.one_hot(torch.tensor([index]), num).float()


def names(lib: Any, load: Load) -> list[Tensor]:
    """Parameters follow the letters read: keywords name all that `generate_params` takes."""
    letters = len(LETTERS) + 1  # and the end

    class Char(lib.TorchDynamicHyperNetwork):
        def __init__(
            self, input_dim: int, target_network: nn.Module, *args: Any, **kwargs: Any
        ) -> None:
            super().__init__(input_dim, target_network, *args, **kwargs)

        def generate_params(
            self, category_tensor: Tensor, input_tensor: Tensor, hidden_state: Any = None
        ) -> Any:
            both = torch.cat((category_tensor, input_tensor), dim=-1)
            embedding, hidden_state = self.embedding_module(both, hidden_state=hidden_state)
            params = self.weight_generator(embedding).view(-1)
            return params, {"embedding": embedding, "hidden_state": hidden_state}

    target = CharCell(CATEGORIES, letters, 16)
    hypernetwork = Char.from_target(
        target, embedding_dim=4, num_embeddings=20, input_dim=letters + CATEGORIES
    )
    load(hypernetwork)

    def step(category: Tensor, letter: Tensor, hidden: Tensor, hyper_hidden: Tensor) -> Any:
        out, _, aux = hypernetwork(
            category,
            letter,
            hidden,
            generate_params_kwargs={
                "category_tensor": category,
                "input_tensor": letter,
                "hidden_state": hyper_hidden,
            },
            has_aux=True,
        )
        return (*out, aux["hidden_state"])

    found: list[Tensor] = []
    optimizer = torch.optim.Adam(hypernetwork.parameters(), lr=0.0001)
    for index, name in NAMES:
        category = one_hot(index, CATEGORIES)
        hidden = target.init_hidden().to(hypernetwork.device)
        hyper_hidden = hypernetwork.embedding_module.init_hidden()
        optimizer.zero_grad()
        loss = torch.zeros(())
        for letter, following in zip(
            name, [*map(LETTERS.find, name[1:]), letters - 1], strict=True
        ):
            given = one_hot(LETTERS.find(letter), letters)
            output, hidden, hyper_hidden = step(category, given, hidden, hyper_hidden)
            loss = loss + nn.NLLLoss()(output, torch.tensor([following]))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(hypernetwork.parameters(), 10.0)
        optimizer.step()
        found += [loss, hidden, hyper_hidden]
    with torch.no_grad():
        hidden, hyper_hidden = target.init_hidden(), hypernetwork.embedding_module.init_hidden()
        given, category = one_hot(0, letters), one_hot(1, CATEGORIES)
        for _ in range(4):
            output, hidden, hyper_hidden = step(category, given, hidden, hyper_hidden)
            found.append(output)
            given = one_hot(int(output.topk(1)[1][0][0]), letters)
    return found


class Lander:
    """An environment of the interface that the notebooks were written for, of 12 steps."""

    def reset(self) -> np.ndarray:
        self.state, self.steps = np.linspace(-1, 1, 8).astype(np.float32), 0
        return self.state

    def step(self, action: int) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
        self.state = np.roll(self.state, action) * np.float32(0.9)
        self.steps += 1
        return self.state, float(self.state[0]) - 0.1 * action, self.steps == 12, {}

    def close(self) -> None:
        pass


def discounted(rewards: list[float], gamma: float = 0.99) -> np.ndarray:
    found = np.zeros(len(rewards))
    for i in reversed(range(len(rewards))):
        found[i] = rewards[i] + gamma * (found[i + 1] if i + 1 < len(rewards) else 0)
    return (found - found.mean()) / (found.std() + 1e-10)


def lunar_lander(lib: Any, load: Load) -> list[Tensor]:
    """Parameters generated once for a rollout, and again for the update."""
    target = nn.Sequential(
        nn.Linear(8, 16, bias=False),
        nn.Tanh(),
        nn.Linear(16, 16, bias=False),
        nn.Tanh(),
        nn.Linear(16, 4, bias=False),
    )
    hypernetwork = wider(lib.TorchLinearHyperNetwork).from_target(
        target_network=target, embedding_dim=4, num_embeddings=24
    )
    load(hypernetwork)
    optimizer = optim.Adam(hypernetwork.parameters(), lr=0.0002)
    torch.manual_seed(5)
    found: list[Tensor] = []
    for _ in range(2):
        observations, actions, rewards = [], [], []
        env, done = Lander(), False
        with torch.no_grad():
            params, _ = hypernetwork.generate_params()
            obs = env.reset()
            while not done:
                given = torch.from_numpy(obs).unsqueeze(0).to(hypernetwork.device)
                logits = hypernetwork(given, generated_params=params, has_aux=False)
                action = int(Categorical(logits=logits).sample().item())
                observations.append(obs)
                obs, reward, done, _ = env.step(action)
                actions.append(action)
                rewards.append(reward)
        env.close()
        returns = torch.from_numpy(discounted(rewards)).float()
        seen = torch.from_numpy(np.array(observations)).float().to(hypernetwork.device)
        logits, params, _ = hypernetwork(seen, has_aux=True)
        log_probs = Categorical(logits=logits).log_prob(torch.tensor(actions).float())
        optimizer.zero_grad()
        loss = -1 * torch.sum(returns * log_probs)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(hypernetwork.parameters(), 100.0)
        optimizer.step()
        found += [torch.tensor(actions), loss, logits, params[: hypernetwork.num_target_parameters]]
    params, cut = hypernetwork.generate_params()[0], 0
    for shape in hypernetwork.target_weight_shapes.values():  # drawn as images at the end
        found.append(params[cut : cut + int(np.prod(shape))].reshape(shape))
        cut += int(np.prod(shape))
    return found


PROGRAMS: dict[str, Callable[[Any, Load], list[Tensor]]] = {
    "intro": intro,
    "intro, tasks": intro_tasks,
    "intro, vmap": intro_vmap,
    "MNIST": mnist,
    "names": names,
    "Lunar Lander": lunar_lander,
}
