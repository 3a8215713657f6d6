"""A target in JAX whose tensors are linear in a condition, and every way of running it.

One step is the forward pass and the gradients of the condition and of all learned numbers of the
generator, compiled as one function. Hand-written contestants keep a head for each tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from benchmarks import _jax
from benchmarks._case import Contestant


class Problem:
    """The numbers that all contestants share.

    Args:
        target: Makes the NNX target from `nnx.Rngs`.
        width: Width `R` of the condition.
        conditions: Conditions `B`.
        inputs: Shape of the inputs of one condition.
        outputs: Shape of the outputs of one condition.
    """

    def __init__(
        self,
        target: Callable[[Any], Any],
        width: int,
        conditions: int,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
    ) -> None:
        _jax.load()
        import jax
        from flax import nnx

        import hyperloom.jax as hl

        self.width, self.conditions = width, conditions
        self.target = target(nnx.Rngs(0))
        self.hnet = hl.HyperNetwork(self.target, condition=hl.Vector(width), rngs=nnx.Rngs(1))
        draw = jax.random.normal
        keys = jax.random.split(jax.random.key(2), 3)
        self.c = draw(keys[0], (conditions, width))
        self.x = draw(keys[1], (conditions, *inputs))
        self.g = draw(keys[2], (conditions, *outputs))
        self.heads = {name: (w, b) for name, w, b in _jax.split_head(self.hnet)}
        self.shapes = {name: self.hnet.plan.spec[name].shape for name in self.heads}

    def apply(self, tensors: Any, x: Any) -> Any:
        """Run the target with the tensors of one condition, as one writes it by hand in NNX."""
        from flax import nnx

        graphdef, state = nnx.split(self.target)
        flat = [(path, tensors[".".join(map(str, path))]) for path, _ in nnx.to_flat_state(state)]
        return nnx.merge(graphdef, nnx.from_flat_state(flat))(x)

    def formed(self, heads: Any, c: Any) -> dict[str, Any]:
        """Form all tensors: one product for each."""
        return {
            name: (c @ w.T + b).reshape(*c.shape[:-1], *self.shapes[name])
            for name, (w, b) in heads.items()
        }

    def contestant(self, name: str, run: Callable[..., Any], role: Any = "opponent") -> Contestant:
        """Return a contestant from `run(heads, c, x) -> y` with a head for each tensor."""
        step = _jax.forward_and_gradients(run)
        once = _jax.waits(lambda: step(self.heads, self.c, self.x, self.g))
        return Contestant(name, once, self.joined, role)

    def joined(self, made: Any) -> dict[str, Any]:
        """Name results for a head of each tensor as those for one head."""
        import jax.numpy as jnp

        y, heads, c = made
        weight, bias = (jnp.concatenate([both[i] for both in heads.values()]) for i in (0, 1))
        return _jax.tensors({"y": y, "c": c, "weight": weight, "bias": bias})


def hyperloom(p: Problem) -> Contestant:
    run, state = _jax.functional(p.hnet)
    step = _jax.forward_and_gradients(_only_floats(run, state))
    learned, _ = _floats(state)

    def results(made: Any) -> dict[str, Any]:
        from flax import nnx

        y, gradients, c = made
        flat = dict(nnx.to_flat_state(_with(state, gradients)))
        head = {path[-1]: v[...] for path, v in flat.items() if path[:2] == ("heads", "full")}
        return _jax.tensors({"y": y, "c": c, "weight": head["weight"], "bias": head["bias"]})

    def ways() -> str:
        explanation = p.hnet.explain(p.x, condition=p.c)
        matrices = [use for use in explanation.used if len(p.shapes[use.tensor]) > 1]
        return ", ".join(use.choice for use in matrices)

    once = _jax.waits(lambda: step(learned, p.c, p.x, p.g))
    return Contestant("hyperloom", once, results, "ours", ways)


def _floats(state: Any) -> tuple[list[Any], Any]:
    """Return the learned numbers among a state's leaves, and all leaves."""
    import jax
    import jax.numpy as jnp

    leaves = jax.tree.leaves(state)
    return [v for v in leaves if jnp.issubdtype(v.dtype, jnp.floating)], leaves


def _with(state: Any, learned: Any) -> Any:
    """Put learned numbers back into a state."""
    import jax
    import jax.numpy as jnp

    leaves, tree = jax.tree.flatten(state)
    given = iter(learned)
    return jax.tree.unflatten(
        tree, [next(given) if jnp.issubdtype(v.dtype, jnp.floating) else v for v in leaves]
    )


def _only_floats(run: Callable[..., Any], state: Any) -> Callable[..., Any]:
    return lambda learned, c, x: run(_with(state, learned), c, x)


def by_vmap(p: Problem) -> Contestant:
    """Plain `vmap` of the target over formed tensors."""
    import jax

    return p.contestant("vmap", lambda heads, c, x: jax.vmap(p.apply)(p.formed(heads, c), x))


def loop(p: Problem) -> Contestant:
    """A call for each condition, compiled once; gradients of the heads are added up."""
    import jax
    import jax.numpy as jnp

    one = _jax.forward_and_gradients(lambda heads, c, x: p.apply(p.formed(heads, c), x))
    add = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b), donate_argnums=0)

    def step() -> Any:
        ys, cs, total = [], [], None
        for c, x, g in zip(p.c, p.x, p.g, strict=True):
            y, heads, c_gradient = one(p.heads, c, x, g)
            ys.append(y)
            cs.append(c_gradient)
            total = heads if total is None else add(total, heads)
        return jnp.stack(ys), total, jnp.stack(cs)

    return Contestant("loop", _jax.waits(step), p.joined)


def hyper_nn(p: Problem, linen: Any) -> Contestant:
    """hyper-nn 0.2.2: a generator of one's own in its base class, under `vmap` from outside.

    Its `from_target` and its ready-made generators call `jax.tree_map`, which JAX has removed; so
    what `from_target` would find out is given by hand. It keeps tensors in Flax's order, which
    is the order of our head.
    """
    import jax
    from hypernn.jax.hypernet import JaxHyperNetwork

    class Generator(JaxHyperNetwork):
        def generate_params(self, weight: Any, bias: Any, c: Any) -> Any:  # type: ignore[override]
            return weight @ c + bias, {}

    variables = jax.eval_shape(linen.init, jax.random.key(0), p.x[0])
    shapes, tree = jax.tree.flatten(variables)
    sizes = [leaf.shape for leaf in shapes]
    assert sizes == list(p.shapes.values())
    total = sum(math.prod(size) for size in sizes)
    hnet = Generator(linen, total, tree, sizes)

    def run(heads: Any, c: Any, x: Any) -> Any:
        import jax.numpy as jnp

        weight, bias = (jnp.concatenate([both[i] for both in heads.values()]) for i in (0, 1))

        def one(c: Any, x: Any) -> Any:
            given = {"weight": weight, "bias": bias, "c": c}
            return hnet.apply({}, x, generate_params_kwargs=given)

        return jax.vmap(one)(c, x)

    return p.contestant("hyper-nn", run)
