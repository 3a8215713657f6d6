"""What compiling and calling cost, in JAX."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from benchmarks import _jax
from benchmarks._case import Case, Claim, Contestant, Results, Setting, Workload, ours, within

COMPILE, CALL = "jax compile 512 chunks", "jax call"
ROWS, WIDTH = 8, 8
SMALL = 4, 4, 5, 8


class _Chunks:
    """A chunked hypernetwork, and the same written by hand.

    Args:
        width: Inputs and outputs of the target of two layers.
        hidden: Its hidden width.
        chunks: Chunks of its numbers.
        size: Numbers of a chunk.
    """

    def __init__(self, width: int, hidden: int, chunks: int, size: int) -> None:
        _jax.load()
        import jax
        import jax.numpy as jnp
        from flax import nnx

        import hyperloom.jax as hl
        from hyperloom._core.choices.layouts import slot_signs

        rngs = nnx.Rngs(0)
        layers = nnx.Linear(width, hidden, rngs=rngs), nnx.Linear(hidden, width, rngs=rngs)
        target = nnx.Sequential(layers[0], jnp.tanh, layers[1])
        layout = hl.Chunked(size, embedding=WIDTH)
        condition = hl.Vector(WIDTH)
        self.hnet = hl.HyperNetwork(target, condition=condition, layout=layout, rngs=nnx.Rngs(1))
        self.run, self.state = _jax.functional(self.hnet)
        keys = jax.random.split(jax.random.key(2))
        self.x = jax.random.normal(keys[0], (ROWS, width))
        self.c = jax.random.normal(keys[1], (WIDTH,))
        plan = self.hnet.plan
        hnet: Any = self.hnet
        head: Any = self.hnet.heads[plan.heads[0].name]
        num = plan.heads[0].num_slots
        assert len(plan.heads) == 1
        assert num == chunks
        signs = jnp.asarray(slot_signs(num, 2 * WIDTH), jnp.float32)
        self.numbers = {
            "slots": (head.slots[...], signs),
            "weight": head.weight[...],
            "bias": head.bias[...],
            "scales": hnet.scales[...],
        }
        self.places = {
            entry.tensor: (row, piece.start, piece.shape)
            for row, (entry, piece) in enumerate(zip(plan.entries, plan.pieces, strict=True))
        }

    def by_hand(self, over_slots: Callable[..., Any]) -> Callable[..., Any]:
        """Return `(numbers, c, x) -> y`; `over_slots(one, slots)` runs `one` for every slot."""
        import jax.numpy as jnp

        def run(numbers: Any, c: Any, x: Any) -> Any:
            def one(slot: Any) -> Any:
                embedding, signs = slot
                features = jnp.concatenate([c, embedding]) * signs
                return numbers["weight"] @ features + numbers["bias"]

            flat = over_slots(one, numbers["slots"]).reshape(-1)
            made = {}
            for name, (row, start, shape) in self.places.items():
                scale, shift = numbers["scales"][row]
                own = flat[start : start + math.prod(shape)]
                made[name] = own.reshape(shape) * scale + shift
            x = jnp.tanh(x @ made["layers.0.kernel"] + made["layers.0.bias"])
            return x @ made["layers.2.kernel"] + made["layers.2.bias"]

        return run


def _results(made: Any) -> dict[str, Any]:
    return _jax.tensors({"y": made})


def _compile(setting: Setting) -> list[Contestant]:
    p = _Chunks(*SMALL) if setting.tiny else _Chunks(32, 503, 512, 64)
    import jax
    import jax.numpy as jnp
    from jax import lax

    def fresh(run: Callable[..., Any], numbers: Any) -> Callable[[], Any]:
        given = (numbers, p.c, p.x)

        def step() -> Any:
            # A new function each time: nothing of it is known to the compiler.
            return jax.jit(lambda *args: run(*args)).lower(*given).compile()(*given)

        return _jax.waits(step)

    def unrolled(one: Any, slots: Any) -> Any:
        num = len(slots[0])
        return jnp.stack([one(jax.tree.map(lambda v, i=i: v[i], slots)) for i in range(num)])

    ways = {
        "hand vmap": lambda one, slots: jax.vmap(one)(slots),
        "hand scan": lambda one, slots: lax.map(one, slots),
    }
    if setting.tiny:  # with 512 chunks it compiles for most of a minute
        ways["hand loop"] = unrolled
    made = [Contestant("hyperloom", fresh(p.run, p.state), _results, "ours")]
    hand = {name: fresh(p.by_hand(way), p.numbers) for name, way in ways.items()}
    return made + [Contestant(name, step, _results) for name, step in hand.items()]


def _call(setting: Setting) -> list[Contestant]:
    p = _Chunks(*SMALL)
    import jax
    from flax import nnx

    jitted, hand = jax.jit(p.run), jax.jit(p.by_hand(lambda one, slots: jax.vmap(one)(slots)))
    as_module = nnx.jit(lambda hnet, c, x: hnet(x, condition=c))
    leaves, tree = jax.tree.flatten(p.state)
    flat = jax.jit(lambda leaves, c, x: p.run(jax.tree.unflatten(tree, leaves), c, x))
    # What is measured is how long a call takes that computes next to nothing.
    return [
        Contestant("hyperloom", _jax.waits(lambda: flat(leaves, p.c, p.x)), _results, "ours"),
        Contestant("hand", _jax.waits(lambda: hand(p.numbers, p.c, p.x)), _results),
        Contestant(
            "hyperloom, nnx.State",
            _jax.waits(lambda: jitted(p.state, p.c, p.x)),
            _results,
            "reference",
        ),
        Contestant(
            "hyperloom, nnx.jit",
            _jax.waits(lambda: as_module(p.hnet, p.c, p.x)),
            _results,
            "reference",
        ),
    ]


def workloads(setting: Setting) -> list[Workload]:
    return [
        Workload(COMPILE, lambda: _compile(setting), seconds=10),
        Workload(CALL, lambda: _call(setting), seconds=2),
    ]


def judge(results: Results) -> list[Claim]:
    seconds = ours(results[COMPILE]).median
    return [
        Claim("JAX, 512 chunks: trace, compile and run", seconds, most=1.0, unit=" s"),
        within(results[CALL], 1.5, "JAX, a call", "hand"),
    ]


CASE = Case(
    "jax_compile",
    "JAX: compiling and calling",
    [
        "Compiling: a target 32-503-32 in 512 chunks of 64 numbers, one "
        "condition, forward. Tracing, compiling and one run. By hand: the head under `vmap` or "
        "`lax.map` over the chunks. (One product for each chunk in a Python loop compiles for "
        "most of a minute, and is not run here.)",
        "Calling: a target 4-4-4 in 5 chunks, forward, compiled. hyperloom: "
        "the leaves of its state as a list; nnx.State: its state as Flax has it; nnx.jit: the "
        "module itself; hand: a function of a dict.",
    ],
    workloads,
    judge,
)
