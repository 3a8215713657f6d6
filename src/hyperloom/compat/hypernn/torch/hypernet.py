"""`TorchHyperNetwork`: an embedding for each chunk, and one generator for all chunks."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from hyperloom._core.errors import message
from hyperloom.compat.hypernn._door.inputs import generated, get_weight_chunk_dims


class FunctionalTarget(nn.Module):
    """The target as a function of one flat vector `(*batch, P)` and of its own inputs.

    The parameters stand one after the other, in the order of `named_parameters()`. Numbers beyond
    `P` are left out.
    """

    def __init__(self, target_network: nn.Module) -> None:
        super().__init__()
        self.num = hl.target_spec(target_network).num_parameters
        self.target_weight_shapes = {n: p.size() for n, p in target_network.named_parameters()}
        self.hypernetwork = hl.HyperNetwork(
            target_network, condition=hl.Vector(self.num), layout=hl.Given()
        )

    def forward(self, generated_params: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run the target with the vector's parameters."""
        return self.hypernetwork(*args, condition=generated_params[..., : self.num], **kwargs)


class TorchHyperNetwork(nn.Module):
    """Generates a target's parameters, flat, from learned embeddings, and runs it with them.

    A subclass may override `make_embedding_module`, `make_weight_generator`, `generate_params`
    and `target_forward`.

    Args:
        target_network: Any module with parameters; never changed.
        num_target_parameters: How many parameters it has; counted by default.
        embedding_dim: Width of an embedding.
        num_embeddings: Number of embeddings, one for each chunk of the flat vector.
        weight_chunk_dim: Numbers in a chunk; by default enough for all parameters.
        custom_embedding_module: In place of what `make_embedding_module` returns.
        custom_weight_generator: In place of what `make_weight_generator` returns.

    Attributes:
        target_network: The target as a function `(flat vector, *inputs)`.
        target_weight_shapes: `{name: shape}` of its parameters, in the flat vector's order.
    """

    def __init__(
        self,
        target_network: nn.Module,
        num_target_parameters: int | None = None,
        embedding_dim: int = 100,
        num_embeddings: int = 3,
        weight_chunk_dim: int | None = None,
        custom_embedding_module: nn.Module | None = None,
        custom_weight_generator: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.target_network = FunctionalTarget(target_network)
        self.target_weight_shapes = self.target_network.target_weight_shapes
        num = self.target_network.num if num_target_parameters is None else num_target_parameters
        self.num_target_parameters = num
        self.embedding_dim = embedding_dim
        self.num_embeddings = num_embeddings
        self.weight_chunk_dim = weight_chunk_dim or get_weight_chunk_dims(num, num_embeddings)
        # Tells the device of a network without parameters, under hyper-nn's name for it.
        self.register_buffer("__device_param_dummy__", torch.empty(0))
        if custom_embedding_module is not None:
            self.embedding_module = custom_embedding_module
        if custom_weight_generator is not None:
            self.weight_generator = custom_weight_generator
        # A subclass for the release 0.2.2 sets what its methods read after this, and then makes
        # the modules itself. One that never does raises the same error at its first call.
        with contextlib.suppress(AttributeError):
            self._make_modules()

    def _make_modules(self) -> None:
        """Make those of the two modules that are not there."""
        if "embedding_module" not in self._modules:
            self.embedding_module = self.make_embedding_module()
        if "weight_generator" not in self._modules:
            self.weight_generator = self.make_weight_generator()

    def __getattr__(self, name: str) -> Any:
        if name in ("embedding_module", "weight_generator") and name not in self._modules:
            self._make_modules()
        return super().__getattr__(name)

    @property
    def functional_target_network(self) -> FunctionalTarget:
        """The name that hyper-nn 0.2 has for `target_network`."""
        return self.target_network

    @property
    def device(self) -> torch.device:
        """Where the hypernetwork is."""
        return self._buffers["__device_param_dummy__"].device  # type: ignore[union-attr]

    def make_embedding_module(self) -> nn.Module:
        """Return the module that maps indices `(num_embeddings,)` to embeddings."""
        return nn.Embedding(self.num_embeddings, self.embedding_dim)

    def make_weight_generator(self) -> nn.Module:
        """Return the module that maps embeddings `(num_embeddings, embedding_dim)` to chunks."""
        return nn.Linear(self.embedding_dim, self.weight_chunk_dim)

    def generate_params(self, *args: Any, **kwargs: Any) -> tuple[Tensor, dict[str, Any]]:
        """Return the flat vector `(num_target_parameters,)`, and what else there is to tell.

        Takes the target's inputs and `generate_params_kwargs`, of which this class uses none.
        """
        embedding = self.embedding_module(torch.arange(self.num_embeddings, device=self.device))
        chunks = self.weight_generator(embedding)
        return chunks.reshape(-1)[: self.num_target_parameters], {"embedding": embedding}

    def assert_parameter_shapes(self, generated_params: Tensor) -> None:
        """Raise `ValueError` if a flat vector is too short for the target's parameters."""
        if generated_params.ndim == 0 or generated_params.shape[-1] < self.num_target_parameters:
            got = f"shape {tuple(generated_params.shape)}"
            wanted = f"(*batch, {self.num_target_parameters}), all of the target's parameters"
            raise ValueError(message("generated_params", got, wanted))

    def target_forward(
        self,
        *args: Any,
        generated_params: Tensor,
        assert_parameter_shapes: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Run the target with given parameters.

        Args:
            *args: The target's inputs; for a batch of parameters, with the batch in front.
            generated_params: Flat, `(P,)` or `(*batch, P)`.
            assert_parameter_shapes: Refuse a vector that is too short.
            **kwargs: The target's keyword arguments.
        """
        if assert_parameter_shapes:
            self.assert_parameter_shapes(generated_params)
        return self.target_network(generated_params, *args, **kwargs)

    def forward(
        self,
        *args: Any,
        generated_params: Tensor | None = None,
        has_aux: bool = False,
        assert_parameter_shapes: bool = True,
        generate_params_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generate the parameters, unless they are given, and run the target with them.

        Args:
            *args: The target's inputs. `generate_params` gets them too, as far as
                `generate_params_kwargs` does not name what they would fill.
            generated_params: Flat parameters to use in place of new ones.
            has_aux: Return the parameters and the auxiliary output too.
            assert_parameter_shapes: Refuse parameters of a wrong shape.
            generate_params_kwargs: More keyword arguments for `generate_params`.
            **kwargs: The target's keyword arguments. `generate_params` gets them too.

        Returns:
            What the target returns; with `has_aux` a triple of that, the flat parameters, and the
            dict that `generate_params` returned (empty for given parameters).
        """
        aux: dict[str, Any] = {}
        flat: Any = generated_params
        if flat is None:
            call = args, kwargs, generate_params_kwargs
            flat, aux = generated(self.generate_params, *call)
        checked = {"assert_parameter_shapes": assert_parameter_shapes}
        out = self.target_forward(*args, generated_params=flat, **checked, **kwargs)
        return (out, flat, aux) if has_aux else out

    @classmethod
    def count_params(
        cls, target: nn.Module, target_input_shape: Any = None, inputs: Any = None
    ) -> int:
        """Return how many parameters a target has, tied ones once."""
        return hl.target_spec(target).num_parameters

    @classmethod
    def from_target(
        cls,
        target_network: nn.Module,
        target_input_shape: Any = None,
        num_target_parameters: int | None = None,
        inputs: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Self:
        """Make a hypernetwork of this class for a target.

        Args:
            target_network: The target.
            target_input_shape: Handed to `count_params`, which needs none.
            num_target_parameters: How many parameters the target has; counted by default.
            inputs: As `target_input_shape`.
            *args: More positional arguments of the class.
            **kwargs: More keyword arguments of the class.
        """
        num = num_target_parameters
        if num is None:
            num = cls.count_params(target_network, target_input_shape, inputs=inputs)
        return cls(*args, target_network=target_network, num_target_parameters=num, **kwargs)

    def save(self, path: Any) -> None:
        """Write the state dict to a file."""
        torch.save(self.state_dict(), path)

    def load(self, path: Any) -> None:
        """Read a state dict, one that hyper-nn wrote included."""
        given = torch.load(path, map_location=self.device, weights_only=True)
        # hyper-nn does not write the target's buffers: they are then those that the target has.
        own = {k: v for k, v in self.state_dict().items() if k.startswith("target_network.")}
        self.load_state_dict({**own, **given})
