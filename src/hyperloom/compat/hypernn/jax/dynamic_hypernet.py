"""`JaxDynamicHyperNetwork`: the parameters follow the current input, and those before it."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from hyperloom.compat.hypernn.jax.hypernet import JaxHyperNetwork


class RNNCell(nn.Module):
    """A linear map of input and state side by side, and tanh.

    Attributes:
        hidden_dim: Width of the state.
    """

    hidden_dim: int

    @nn.compact
    def __call__(self, x: Array, hidden_state: Array) -> Array:
        """Return the next state."""
        return jnp.tanh(nn.Dense(self.hidden_dim)(jnp.concatenate([x, hidden_state], axis=-1)))


class JaxDynamicEmbeddingModule(nn.Module):
    """A recurrent cell over the inputs; its state scales one embedding for each chunk.

    Attributes:
        input_dim: Width of an input.
        embedding_dim: Width of an embedding.
        num_embeddings: Number of embeddings, and width of the state.
    """

    input_dim: int
    embedding_dim: int
    num_embeddings: int

    def setup(self) -> None:
        """Make the embeddings and the cell."""
        self.embedding = nn.Embed(
            self.num_embeddings, self.embedding_dim, embedding_init=jax.nn.initializers.uniform()
        )
        self.rnn = RNNCell(self.num_embeddings)

    def init_hidden(self) -> Array:
        """Return the state at the start, `(1, num_embeddings)`."""
        return jnp.zeros((1, self.num_embeddings))

    def __call__(self, x: Array, hidden_state: Array | None = None) -> tuple[Array, Array]:
        """Return the embeddings and the next state.

        Args:
            x: `(*batch, input_dim)` or `(*batch, 1, input_dim)`.
            hidden_state: `(*batch, num_embeddings)` or `(*batch, 1, num_embeddings)`, like `x`;
                what has fewer rows is repeated. Zeros by default.

        Returns:
            `(*batch, num_embeddings, embedding_dim)`, and a state like `hidden_state`.
        """
        rows = (*x.shape[:-1], self.num_embeddings)
        before = jnp.zeros(self.num_embeddings, x.dtype) if hidden_state is None else hidden_state
        state = self.rnn(x, jnp.broadcast_to(before, rows))
        factors = state[..., 0, :] if state.ndim > 1 and state.shape[-2] == 1 else state
        return self.embedding(jnp.arange(self.num_embeddings)) * factors[..., None], state


class JaxDynamicHyperNetwork(JaxHyperNetwork):
    """A hypernetwork whose parameters depend on the input, and on a state from call to call.

    Every row of a batch has parameters of its own: inputs `(B, input_dim)` or
    `(B, 1, input_dim)` make `B` networks that run at once. The next state is in the auxiliary
    output; nothing is kept between calls.

    Attributes:
        input_dim: Width of an input.
    """

    input_dim: int = 0

    def make_embedding_module(self) -> nn.Module:
        """Return the module `(x, hidden_state) -> (embeddings, next state)`."""
        return JaxDynamicEmbeddingModule(self.input_dim, self.embedding_dim, self.num_embeddings)

    def generate_params(
        self, x: Array, hidden_state: Array | None = None, **kwargs: Any
    ) -> tuple[Array, dict[str, Any]]:
        """Return the flat parameters and a dict of `embedding` and `hidden_state`.

        Args:
            x: `(*batch, input_dim)` or `(*batch, 1, input_dim)`; the target gets it too.
            hidden_state: State of the call before, as its auxiliary output has it.
            **kwargs: The target's keyword arguments, of which this class uses none.

        Returns:
            `(*batch, num_target_parameters)`, and what else there is to tell.
        """
        embedding, state = self.embedding_module(x=x, hidden_state=hidden_state)
        chunks = self.weight_generator(embedding)
        flat = chunks.reshape(*chunks.shape[:-2], -1)
        return flat[..., : self.num_target_parameters], {
            "embedding": embedding,
            "hidden_state": state,
        }


__all__ = ["JaxDynamicEmbeddingModule", "JaxDynamicHyperNetwork", "JaxHyperNetwork", "RNNCell"]
