"""The four programs that hyper-nn's notebooks are for JAX, as far as they use the library.

Written anew, on data small enough for a test, as `hypernn_notebooks_torch` is. `lib` is
`hypernn.jax` or the door; both start from the same key, and so from the same numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training import train_state
from jax import Array, random

from tests.compat.hypernn_notebooks_torch import (
    CATEGORIES,
    LETTERS,
    NAMES,
    Lander,
    discounted,
)

SIZES: Any = {"embedding_dim": 4, "num_embeddings": 8}


def intro(lib: Any) -> list[Any]:
    """Static and dynamic, with and without the auxiliary output, parameters first and after."""
    target = nn.Sequential([nn.Dense(16), nn.relu, nn.Dense(6)])
    inp, key = jnp.linspace(-1, 1, 6).reshape(1, 6), random.PRNGKey(0)
    static = lib.JaxLinearHyperNetwork.from_target(
        target_network=target, inputs=jnp.zeros((1, 6)), **SIZES
    )
    params = static.init(key, inp)
    found = [params, static.apply(params, inp)]
    output, flat, aux = static.apply(params, inp, has_aux=True)
    found += [output, flat[: static.num_target_parameters], aux["embedding"]]
    flat, _ = static.apply(params, method=static.generate_params)
    found.append(static.apply(params, inp, generated_params=flat))

    dynamic = lib.JaxDynamicHyperNetwork.from_target(
        input_dim=6, target_network=target, inputs=jnp.zeros((1, 6)), **SIZES
    )
    more = {"x": inp, "hidden_state": jnp.zeros((1, 8))}
    params = dynamic.init(key, inp, generate_params_kwargs=more)
    return [*found, params, dynamic.apply(params, inp, generate_params_kwargs=more)]


def wider(kind: Any) -> Any:
    """Return the class of the notebooks on MNIST and Lunar Lander: a generator of two layers."""

    class Wider(kind):
        def make_weight_generator(self) -> nn.Module:
            return nn.Sequential([nn.Dense(32), nn.tanh, nn.Dense(self.weight_chunk_dim)])

    return Wider


def count(lib: Any, hypernetwork: Any, *inputs: Any, **kwargs: Any) -> int:
    """Count as the notebooks do, if the library can: the release takes no keywords."""
    if not kwargs or lib.__name__.startswith("hyperloom"):
        return lib.utils.count_jax_params(hypernetwork, inputs=list(inputs), **kwargs)
    params = hypernetwork.init(random.PRNGKey(0), *inputs, **kwargs)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(params))


class ConvNet(nn.Module):
    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.relu(nn.Conv(4, kernel_size=(3, 3), strides=2, padding="VALID")(x))
        x = nn.Conv(10, kernel_size=(2, 2), strides=2, padding="VALID")(x)
        return nn.log_softmax(x.reshape(x.shape[0], -1)[:, :10])


def mnist(lib: Any) -> list[Any]:
    """An image classifier, trained; its first call is on one image without a batch."""
    target = ConvNet()
    hypernetwork = wider(lib.JaxLinearHyperNetwork).from_target(
        target, inputs=jnp.zeros((1, 8, 8, 1)), **SIZES
    )
    found: list[Any] = [
        lib.utils.count_jax_params(target, inputs=[jnp.zeros((1, 8, 8, 1))]),
        count(lib, hypernetwork, jnp.zeros((1, 8, 8, 1))),
    ]
    params = hypernetwork.init(random.PRNGKey(0), jnp.zeros((8, 8, 1)))["params"]
    state = train_state.TrainState.create(
        apply_fn=hypernetwork.apply, params=params, tx=optax.chain(optax.adam(0.0002))
    )

    @functools.partial(jax.jit, static_argnames=("apply_fn",))
    def train_step(apply_fn: Any, state: Any, x: Array, targets: Array) -> Any:
        def loss_fn(params: Any) -> Any:
            logits = apply_fn({"params": params}, x, has_aux=False)
            one_hot = jax.nn.one_hot(targets, num_classes=10)
            return -jnp.mean(jnp.sum(one_hot * logits, axis=-1)), logits

        (loss, _), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        return state.apply_gradients(grads=grads), loss

    draws = np.random.RandomState(0)
    images = [jnp.array(draws.rand(4, 8, 8, 1).astype(np.float32)) for _ in range(3)]
    for x in images:
        state, loss = train_step(hypernetwork.apply, state, x, jnp.array(draws.randint(10, size=4)))
        found.append(loss)
    return [*found, hypernetwork.apply({"params": state.params}, images[0], has_aux=False)]


class CharCell(nn.Module):
    """A recurrent target of three inputs and two outputs."""

    letters: int
    hidden: int

    @nn.compact
    def __call__(self, category: Array, inp: Array, hidden: Array) -> tuple[Array, Array]:
        hidden, _ = nn.GRUCell(self.hidden)(hidden, jnp.concatenate((category, inp), axis=-1))
        return nn.softmax(nn.Dense(self.letters)(nn.relu(nn.Dense(12)(hidden)))), hidden


def names(lib: Any) -> list[Any]:
    """Parameters follow the letters read.

    The start names two of the three that `generate_params` takes: the third is no input of the
    target's.
    """
    letters, width = len(LETTERS) + 1, 6

    class Char(lib.JaxDynamicHyperNetwork):
        def generate_params(
            self, category_tensor: Array, input_tensor: Array, hidden_state: Any = None
        ) -> Any:
            both = jnp.concatenate((category_tensor, input_tensor), axis=-1)
            embedding, hidden_state = self.embedding_module(both, hidden_state=hidden_state)
            params = self.weight_generator(embedding).reshape(-1)
            return params, {"embedding": embedding, "hidden_state": hidden_state}

    zeros: list[Any] = [jnp.zeros((1, CATEGORIES)), jnp.zeros((1, letters)), jnp.zeros((1, width))]
    start = {"category_tensor": zeros[0], "input_tensor": zeros[1]}
    hypernetwork = Char.from_target(
        CharCell(letters, width), input_dim=letters + CATEGORIES, inputs=zeros, **SIZES
    )
    found: list[Any] = [count(lib, hypernetwork, *zeros, generate_params_kwargs=start)]
    params = hypernetwork.init(random.PRNGKey(0), *zeros, generate_params_kwargs=start)["params"]
    tx = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(0.0001))
    state = train_state.TrainState.create(apply_fn=hypernetwork.apply, params=params, tx=tx)

    def step(apply_fn: Any, params: Any, category: Array, letter: Array, *states: Any) -> Any:
        hidden, hyper_hidden = states
        more = {
            "category_tensor": category,
            "input_tensor": letter,
            "hidden_state": hyper_hidden,
        }
        out, _, aux = apply_fn(
            {"params": params}, category, letter, hidden, generate_params_kwargs=more, has_aux=True
        )
        return (*out, aux["hidden_state"])

    @functools.partial(jax.jit, static_argnames=("apply_fn", "generate_params_fn"))
    def train(
        apply_fn: Any, generate_params_fn: Any, state: Any, category: Array, line: Array, *rest: Any
    ) -> Any:
        start, targets = rest

        def loss_fn(params: Any) -> Array:
            predictions, hidden, hyper_hidden = [], start, None
            for i in range(len(line)):
                letter = line[i : i + 1]
                states = hidden, hyper_hidden
                output, hidden, hyper_hidden = step(apply_fn, params, category, letter, *states)
                predictions.append(jnp.squeeze(output))
            picked = jax.vmap(lambda row, i: -jnp.log(row[i]))(jnp.stack(predictions), targets)
            return jnp.mean(picked)

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        return state.apply_gradients(grads=grads), loss

    for index, name in NAMES[:1]:
        read = jnp.array([LETTERS.find(letter) for letter in name])
        category = jax.nn.one_hot(jnp.array([index]), CATEGORIES)
        line, targets = jax.nn.one_hot(read, letters), jnp.append(read[1:], letters - 1)
        fns = hypernetwork.apply, hypernetwork.generate_params
        state, loss = train(*fns, state, category, line, zeros[2], targets)
        found.append(loss)
    category = jax.nn.one_hot(jnp.array([1]), CATEGORIES)
    hidden, hyper_hidden, given = zeros[2], None, jax.nn.one_hot(jnp.array([0]), letters)
    for _ in range(3):
        states = hidden, hyper_hidden
        made = step(hypernetwork.apply, state.params, category, given, *states)
        output, hidden, hyper_hidden = made
        found.append(output)
        given = jax.nn.one_hot(jnp.array([int(np.argmax(np.squeeze(output), axis=-1))]), letters)
    return found


class Policy(nn.Module):
    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.tanh(nn.Dense(12, use_bias=False)(x))
        return nn.Dense(4, use_bias=False)(x)


def lunar_lander(lib: Any) -> list[Any]:
    """Parameters generated once for a rollout, and again for the update; a list as first input."""
    target = Policy()
    hypernetwork = wider(lib.JaxLinearHyperNetwork).from_target(
        target_network=target, inputs=jnp.zeros((1, 8)), **SIZES
    )
    found: list[Any] = [
        lib.utils.count_jax_params(target, inputs=jnp.zeros((1, 8))),
        count(lib, hypernetwork, jnp.zeros((1, 8))),
    ]
    params = hypernetwork.init(random.PRNGKey(0), [jnp.zeros((1, 8))])["params"]
    tx = optax.chain(optax.clip_by_global_norm(100.0), optax.adam(0.0002))
    state = train_state.TrainState.create(apply_fn=hypernetwork.apply, params=params, tx=tx)

    @functools.partial(jax.jit, static_argnames=("apply_fn", "method"))
    def generate_params(apply_fn: Any, params: Any, method: Any) -> Array:
        return apply_fn({"params": params}, method=method)[0]

    @functools.partial(jax.jit, static_argnames=("apply_fn",))
    def sample_actions(apply_fn: Any, params: Any, obs: Any, flat: Array) -> Array:
        given = jnp.expand_dims(jnp.array(obs), 0)
        return apply_fn({"params": params}, given, generated_params=flat, has_aux=False)

    @functools.partial(jax.jit, static_argnames=("apply_fn",))
    def train_step(apply_fn: Any, state: Any, seen: Array, actions: Array, returns: Array) -> Any:
        def loss_fn(params: Any) -> Array:
            logits = apply_fn({"params": params}, seen, has_aux=False)
            log_probs = jax.nn.log_softmax(jnp.squeeze(logits))[jnp.arange(len(actions)), actions]
            return -1 * jnp.sum(returns * log_probs)

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        return state.apply_gradients(grads=grads), loss

    draws = np.random.RandomState(0)
    for _ in range(2):
        observations, actions, rewards = [], [], []
        env, done = Lander(), False
        obs = env.reset()
        flat = generate_params(hypernetwork.apply, state.params, hypernetwork.generate_params)
        while not done:
            logits = jnp.squeeze(sample_actions(hypernetwork.apply, state.params, obs, flat))
            action = int(random.categorical(random.PRNGKey(draws.randint(1000)), logits))
            observations.append(obs)
            obs, reward, done, _ = env.step(action)
            actions.append(action)
            rewards.append(reward)
        env.close()
        given = jnp.array(observations), jnp.array(actions), jnp.array(discounted(rewards))
        state, loss = train_step(hypernetwork.apply, state, *given)
        found += [np.array(actions), loss]
    return [*found, state.params]


PROGRAMS: dict[str, Callable[[Any], list[Any]]] = {
    "intro": intro,
    "MNIST": mnist,
    "names": names,
    "Lunar Lander": lunar_lander,
}
