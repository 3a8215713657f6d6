"""Every PyTorch block of hyper-nn's README, with only the import lines changed.

The blocks are written as they stand there; what follows `# check` is ours.
"""

# ruff: noqa: C408
from __future__ import annotations

from typing import Any

import torch


def test_usage() -> None:
    import torch.nn as nn

    from hyperloom.compat.hypernn.torch.dynamic_hypernet import TorchDynamicHyperNetwork
    from hyperloom.compat.hypernn.torch.hypernet import TorchHyperNetwork

    # any module
    target_network = nn.Sequential(
        nn.Linear(32, 64),
        nn.ReLU(),
        nn.Linear(64, 32)
    )  # fmt: skip

    EMBEDDING_DIM = 4
    NUM_EMBEDDINGS = 32

    hypernetwork = TorchHyperNetwork.from_target(
        target_network = target_network,
        embedding_dim = EMBEDDING_DIM,
        num_embeddings = NUM_EMBEDDINGS
    )  # fmt: skip

    inp = torch.zeros((1, 32))

    output = hypernetwork(inp)

    # check
    assert output.shape == (1, 32)
    assert hypernetwork.weight_chunk_dim == 4192 // 32
    first = output

    output, generated_params, aux_output = hypernetwork(inp, has_aux=True)

    # check
    assert torch.equal(output, first)
    assert generated_params.shape == (4192,)
    assert aux_output["embedding"].shape == (NUM_EMBEDDINGS, EMBEDDING_DIM)

    generated_params, aux_output = hypernetwork.generate_params()
    output = hypernetwork(inp, generated_params=generated_params)

    # check
    assert torch.equal(output, first)
    assert list(aux_output) == ["embedding"]

    dynamic_hypernetwork = TorchDynamicHyperNetwork.from_target(
        input_dim = 32,
        target_network = target_network,
        embedding_dim = EMBEDDING_DIM,
        num_embeddings = NUM_EMBEDDINGS
    )  # fmt: skip

    output = dynamic_hypernetwork(inp)

    # check
    assert output.shape == (1, 32)
    first = output

    output = dynamic_hypernetwork(
        inp, generate_params_kwargs=dict(hidden_state=torch.zeros((1, 32)))
    )

    # check
    torch.testing.assert_close(output, first)


def test_customizing() -> None:
    from collections.abc import Iterable

    import torch.nn as nn

    # static hypernetwork
    from hyperloom.compat.hypernn.torch.hypernet import TorchHyperNetwork

    class MultiTaskHypernetwork(TorchHyperNetwork):
        def __init__(
            self,
            num_tasks: int,
            target_network: nn.Module,
            num_target_parameters: int | None = None,
            embedding_dim: int = 100,
            num_embeddings: int = 3,
            weight_chunk_dim: int | None = None,
        ):
            self.num_tasks = num_tasks
            super().__init__(
                target_network = target_network,
                num_target_parameters = num_target_parameters,
                embedding_dim = embedding_dim,
                num_embeddings = num_embeddings,
                weight_chunk_dim = weight_chunk_dim,
            )  # fmt: skip

        def make_embedding_module(self) -> nn.Module:
            embedding = nn.Embedding(self.num_embeddings, 8)
            return nn.Sequential(
                embedding,
                nn.Tanh(),
                nn.Linear(8, self.embedding_dim),
                nn.Tanh(),
            )

        def make_weight_generator(self) -> nn.Module:
            return nn.Sequential(
                nn.Linear(self.embedding_dim + self.num_tasks, 32),
                nn.Tanh(),
                nn.Linear(32, self.weight_chunk_dim),
            )

        def generate_params(
            self, inp: Iterable[Any], one_hot_task_embedding: torch.Tensor
        ) -> tuple[torch.Tensor, dict[str, Any]]:
            embedding = self.embedding_module(
                torch.arange(self.num_embeddings, device=self.device)
            )  # fmt: skip
            one_hot_task_embedding = one_hot_task_embedding.repeat(self.num_embeddings, 1)
            concatenated = torch.cat((embedding, one_hot_task_embedding), dim=-1)
            generated_params = self.weight_generator(concatenated).view(-1)
            return generated_params, {"embedding": embedding}

    target_network = nn.Sequential(
        nn.Linear(32, 64),
        nn.ReLU(),
        nn.Linear(64, 32)
    )  # fmt: skip

    NUM_TASKS = 4
    EMBEDDING_DIM = 4
    NUM_EMBEDDINGS = 32

    hypernetwork = MultiTaskHypernetwork.from_target(
        num_tasks = NUM_TASKS,
        target_network = target_network,
        embedding_dim = EMBEDDING_DIM,
        num_embeddings = NUM_EMBEDDINGS
    )  # fmt: skip
    inp = torch.zeros((1, 32))
    one_hot_task_embedding = torch.tensor([0.0, 0.0, 1.0, 0.0]).view((1, 4))

    out = hypernetwork(
        inp, generate_params_kwargs=dict(one_hot_task_embedding=one_hot_task_embedding)
    )

    # check
    assert out.shape == (1, 32)
    other = torch.eye(4)[:1]
    assert not torch.equal(
        out, hypernetwork(inp, generate_params_kwargs=dict(one_hot_task_embedding=other))
    )


def test_vmap_for_batches() -> None:
    import torch.nn as nn
    from torch.func import vmap

    # dynamic hypernetwork
    from hyperloom.compat.hypernn.torch.dynamic_hypernet import TorchDynamicHyperNetwork

    # any module
    target_network = nn.Sequential(
        nn.Linear(8, 256),
        nn.ReLU(),
        nn.Linear(256, 32)
    )  # fmt: skip

    EMBEDDING_DIM = 4
    NUM_EMBEDDINGS = 32

    hypernetwork = TorchDynamicHyperNetwork.from_target(
        target_network = target_network,
        embedding_dim = EMBEDDING_DIM,
        num_embeddings = NUM_EMBEDDINGS,
        input_dim = 8
    )  # fmt: skip

    # batch of 10 inputs
    inp = torch.randn((10, 1, 8))

    # use with a for loop
    outputs = []
    for i in range(10):
        outputs.append(hypernetwork(inp[i]))
    outputs = torch.stack(outputs)
    assert outputs.size() == (10, 1, 32)

    # check
    looped = outputs

    # using vmap
    outputs = vmap(hypernetwork)(inp)
    assert outputs.size() == (10, 1, 32)

    # check: and without vmap, which hyper-nn itself refuses
    torch.testing.assert_close(outputs, looped)
    torch.testing.assert_close(hypernetwork(inp), looped)
    torch.testing.assert_close(hypernetwork(inp.squeeze(1)), looped.squeeze(1))
