"""`JaxHyperNetwork`: an embedding for each chunk, and one generator for all chunks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, serialization
from jax import Array

import hyperloom.jax as hl
from hyperloom._core.errors import message
from hyperloom.compat.hypernn._door.inputs import generated
from hyperloom.compat.hypernn.jax.utils import count_jax_params, get_weight_chunk_dims, inputs_of


class JaxHyperNetwork(nn.Module):
    """Generates a target's parameters, flat, from learned embeddings, and runs it with them.

    Make one with `from_target`. A subclass may override `make_embedding_module`,
    `make_weight_generator`, `generate_params` and `target_forward`.

    Attributes:
        target_network: A Linen or an NNX module; never changed.
        target_function: The target as `target_function({}, *inputs, condition=flat vector)`.
        num_target_parameters: How many parameters it has.
        embedding_dim: Width of an embedding.
        num_embeddings: Number of embeddings, one for each chunk of the flat vector.
        weight_chunk_dim: Numbers in a chunk; by default enough for all parameters.
        custom_embedding_module: In place of what `make_embedding_module` returns.
        custom_weight_generator: In place of what `make_weight_generator` returns.
        target_weight_shapes: Shapes of a Linen target's parameters, in the flat vector's order.
        target_treedef: The structure that they are leaves of; see `create_param_tree`.
    """

    target_network: Any
    target_function: Any
    num_target_parameters: int
    embedding_dim: int = 100
    num_embeddings: int = 3
    weight_chunk_dim: int | None = None
    custom_embedding_module: nn.Module | None = None
    custom_weight_generator: nn.Module | None = None
    target_weight_shapes: tuple[tuple[int, ...], ...] = ()
    target_treedef: Any = None

    def setup(self) -> None:
        """Make the two modules."""
        self.embedding_module = self.custom_embedding_module or self.make_embedding_module()
        self.weight_generator = self.custom_weight_generator or self.make_weight_generator()

    @property
    def chunk_dim(self) -> int:
        """Numbers in a chunk."""
        chunk = get_weight_chunk_dims(self.num_target_parameters, self.num_embeddings)
        return self.weight_chunk_dim or chunk

    def make_embedding_module(self) -> nn.Module:
        """Return the module that maps indices `(num_embeddings,)` to embeddings."""
        return nn.Embed(
            self.num_embeddings, self.embedding_dim, embedding_init=jax.nn.initializers.uniform()
        )

    def make_weight_generator(self) -> nn.Module:
        """Return the module that maps embeddings `(num_embeddings, embedding_dim)` to chunks."""
        return nn.Dense(self.chunk_dim)

    def generate_params(self, *args: Any, **kwargs: Any) -> tuple[Array, dict[str, Any]]:
        """Return the flat vector `(num_target_parameters,)`, and what else there is to tell.

        Takes the target's inputs and `generate_params_kwargs`, of which this class uses none.
        """
        embedding = self.embedding_module(jnp.arange(self.num_embeddings))
        chunks = self.weight_generator(embedding)
        return chunks.reshape(-1)[: self.num_target_parameters], {"embedding": embedding}

    def assert_parameter_shapes(self, generated_params: Array) -> None:
        """Raise `ValueError` if a flat vector is too short for the target's parameters."""
        if generated_params.ndim == 0 or generated_params.shape[-1] < self.num_target_parameters:
            got = f"shape {tuple(generated_params.shape)}"
            wanted = f"(*batch, {self.num_target_parameters}), all of the target's parameters"
            raise ValueError(message("generated_params", got, wanted))

    def target_forward(
        self,
        *args: Any,
        generated_params: Array,
        assert_parameter_shapes: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Run the target with given parameters.

        Args:
            *args: The target's inputs; for a batch of parameters, with the batch in front.
            generated_params: Flat, `(P,)` or `(*batch, P)`.
            assert_parameter_shapes: Refuse a vector that is too short.
            **kwargs: The target's keyword arguments. The streams that `apply` was given in `rngs`
                are the target's too.
        """
        if assert_parameter_shapes:
            self.assert_parameter_shapes(generated_params)
        flat = generated_params[..., : self.num_target_parameters]
        names = [] if self.scope is None else [n for n in self.scope.rngs if n != "params"]
        rngs = {name: self.make_rng(name) for name in names}
        return self.target_function({}, *args, condition=flat, rngs=rngs or None, **kwargs)

    def forward(
        self,
        *args: Any,
        generated_params: Array | None = None,
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
        if flat is None or self.is_initializing():
            call = args, kwargs, generate_params_kwargs
            flat, aux = generated(self.generate_params, *call)
        checked = {"assert_parameter_shapes": assert_parameter_shapes}
        out = self.target_forward(*args, generated_params=flat, **checked, **kwargs)
        return (out, flat, aux) if has_aux else out

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As `forward`."""
        return self.forward(*args, **kwargs)

    @classmethod
    def count_params(
        cls,
        target: Any,
        target_input_shape: Any = None,
        inputs: Any = None,
        return_variables: bool = False,
    ) -> Any:
        """Return how many parameters a target has, and with `return_variables` its variables."""
        return count_jax_params(target, target_input_shape, inputs, return_variables)

    @classmethod
    def from_target(
        cls,
        target_network: Any,
        target_input_shape: Any = None,
        num_target_parameters: int | None = None,
        inputs: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Self:
        """Make a hypernetwork of this class for a target.

        Args:
            target_network: A Linen or an NNX module.
            target_input_shape: For a Linen module, a list with the shape of each input.
            num_target_parameters: How many parameters it has; counted by default.
            inputs: In place of the shapes: an array, or a list with an array for each input.
            *args: More positional arguments of the class.
            **kwargs: More keyword arguments of the class.
        """
        target = as_target(target_network, target_input_shape, inputs)
        num = hl.target_spec(target).num_parameters
        native = hl.HyperNetwork(
            target, condition=hl.Vector(num), layout=hl.Given(), rngs=nnx.Rngs(0)
        )
        function, _ = hl.functional(native)
        if isinstance(target, hl.Linen):
            leaves, kwargs["target_treedef"] = jax.tree.flatten(
                {"params": target.variables["params"]}
            )
            kwargs["target_weight_shapes"] = tuple(leaf.shape for leaf in leaves)
        made = cls(
            *args,
            target_network=target_network,
            target_function=function,
            num_target_parameters=num_target_parameters or num,
            **kwargs,
        )
        # A method of a subclass may read it, as those of the README do.
        return made.clone(weight_chunk_dim=made.chunk_dim)

    def save(self, params: Any, path: Any) -> None:
        """Write parameters to a file."""
        Path(path).write_bytes(serialization.to_bytes(params))

    def load(self, params: Any, path: Any) -> Any:
        """Return the parameters of a file, in the shape of `params`."""
        return serialization.from_bytes(params, Path(path).read_bytes())


def create_param_tree(
    generated_params: Array, target_weight_shapes: Any, target_treedef: Any
) -> Any:
    """Return a flat vector `(P,)` as the variables of a Linen target."""
    sizes = [math.prod(shape) for shape in target_weight_shapes]
    cuts = jnp.split(generated_params[: sum(sizes)], np.cumsum(sizes)[:-1])
    pairs = zip(cuts, target_weight_shapes, strict=True)
    return jax.tree.unflatten(target_treedef, [cut.reshape(shape) for cut, shape in pairs])


def as_target(target: Any, shapes: Any, inputs: Any) -> Any:
    """Return a target for `hyperloom.jax` from a module and what hyper-nn takes beside it.

    Raises:
        ValueError: A Linen module without shapes or inputs.
    """
    if not isinstance(target, nn.Module):
        return target
    return hl.Linen(target, *inputs_of("from_target", shapes, inputs))
