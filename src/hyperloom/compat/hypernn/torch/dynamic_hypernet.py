"""`TorchDynamicHyperNetwork`: the parameters follow the current input, and those before it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from hyperloom.compat.hypernn.torch.hypernet import TorchHyperNetwork
from hyperloom.torch._generate.recurrent import RecurrentCondition


class TorchDynamicEmbeddingModule(nn.Module):
    """A recurrent cell over the inputs; its state scales one embedding for each chunk.

    Args:
        input_dim: Width of an input.
        embedding_dim: Width of an embedding.
        num_embeddings: Number of embeddings, and width of the state.
    """

    def __init__(self, input_dim: int, embedding_dim: int, num_embeddings: int) -> None:
        super().__init__()
        self.input_dim = input_dim
        self.embedding_dim = embedding_dim
        self.num_embeddings = num_embeddings
        self.embedding = nn.Embedding(num_embeddings, embedding_dim)
        self.rnn_cell = RecurrentCondition(hl.Recurrent(input_dim, num_embeddings, cell="rnn"))
        # Tells the device, under hyper-nn's name for it.
        self.register_buffer("__device_param_dummy__", torch.empty(0))

    @property
    def device(self) -> torch.device:
        """Where the module is."""
        return self.embedding.weight.device

    def init_hidden(self) -> Tensor:
        """Return the state at the start, `(1, num_embeddings)`."""
        return torch.zeros((1, self.num_embeddings), device=self.device)

    def forward(self, x: Tensor, hidden_state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the embeddings and the next state.

        Args:
            x: `(*batch, input_dim)` or `(*batch, 1, input_dim)`.
            hidden_state: `(*batch, num_embeddings)` or `(*batch, 1, num_embeddings)`, like `x`;
                what has fewer rows is repeated. Zeros by default.

        Returns:
            `(*batch, num_embeddings, embedding_dim)`, and a state like `hidden_state`.
        """
        if hidden_state is not None:
            rows = (*x.shape[:-1], self.num_embeddings)
            hidden_state = torch.broadcast_to(hidden_state, rows)
        state: Tensor = self.rnn_cell(x, hidden_state).carry
        factors = state.squeeze(-2) if state.ndim > 1 else state
        return self.embedding.weight * factors.unsqueeze(-1), state


class TorchDynamicHyperNetwork(TorchHyperNetwork):
    """A hypernetwork whose parameters depend on the input, and on a state from call to call.

    Every row of a batch has parameters of its own: inputs `(B, input_dim)` or
    `(B, 1, input_dim)` make `B` networks that run at once. The next state is in the auxiliary
    output; nothing is kept between calls.

    Args:
        input_dim: Width of an input.
        target_network: As in `TorchHyperNetwork`, and so on.
        **kwargs: The other arguments of `TorchHyperNetwork`.
    """

    def __init__(self, input_dim: int, target_network: nn.Module, *args: Any, **kwargs: Any):
        self.input_dim = input_dim
        super().__init__(target_network, *args, **kwargs)

    def make_embedding_module(self) -> nn.Module:
        """Return the module `(x, hidden_state) -> (embeddings, next state)`."""
        return TorchDynamicEmbeddingModule(self.input_dim, self.embedding_dim, self.num_embeddings)

    def generate_params(
        self, x: Tensor, hidden_state: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the flat parameters and a dict of `embedding` and `hidden_state`.

        Args:
            x: `(*batch, input_dim)` or `(*batch, 1, input_dim)`; the target gets it too.
            hidden_state: State of the call before, as its auxiliary output has it.
            **kwargs: The target's keyword arguments, of which this class uses none.

        Returns:
            `(*batch, num_target_parameters)`, and what else there is to tell.
        """
        embedding, state = self.embedding_module(x=x, hidden_state=hidden_state)
        chunks = self.weight_generator(embedding).flatten(-2)
        aux = {"embedding": embedding, "hidden_state": state}
        return chunks[..., : self.num_target_parameters], aux
