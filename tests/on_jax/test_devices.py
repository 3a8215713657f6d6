"""A data-parallel step on eight simulated devices: the same as on one."""

from __future__ import annotations

import os
import subprocess
import sys

STEP = """
import jax, jax.numpy as jnp, numpy as np, optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
import hyperloom.jax as hl

assert jax.device_count() == {devices}, jax.devices()
rngs = nnx.Rngs(0)
target = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), jnp.tanh, nnx.Linear(8, 2, rngs=rngs))
hnet = hl.HyperNetwork(target, condition=hl.Embedding(16, 4), trunk=hl.MLP(6),
                       layout=hl.Chunked(11, 3), rngs=nnx.Rngs(1))
net, params = hl.functional(hnet)
optimizer = optax.adam(0.01)
draw = np.random.RandomState(0)
x, goal = (jnp.asarray(draw.randn(16, 5, n), jnp.float32) for n in (4, 2))
ids = jnp.arange(16)
mesh = {mesh}
over, whole = NamedSharding(mesh, P("conditions")), NamedSharding(mesh, P())
x, goal, ids = (jax.device_put(a, over) for a in (x, goal, ids))
params, state = jax.device_put((params, optimizer.init(params)), whole)

@jax.jit
def step(params, state, x, goal, ids):
    def loss(params):
        y = net(params, x, condition=ids)
        return jnp.mean((y - goal) ** 2), y
    (value, y), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    updates, state = optimizer.update(gradient, state, params)
    return value, y, optax.apply_updates(params, updates)

value, y, params = step(params, state, x, goal, ids)
if {devices} > 1:
    assert len(y.sharding.device_set) == {devices} and not y.sharding.is_fully_replicated
    assert all(p.sharding.is_fully_replicated for p in params.values())
np.savez({path!r}, value=value, y=y, **params)
"""


PLAIN = 'Mesh(np.array(jax.devices()), ("conditions",))'
EXPLICIT = 'jax.make_mesh((jax.device_count(),), ("conditions",))'  # by default: explicit axes


def run(devices: int, mesh: str, path: str) -> None:
    own = f"--xla_force_host_platform_device_count={devices}"
    flags = f"{os.environ.get('XLA_FLAGS', '')} {own}"
    code = STEP.format(devices=devices, mesh=mesh, path=path)
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr


def test_a_step_with_conditions_over_eight_devices(tmp_path) -> None:
    import numpy as np

    results = []
    for devices, mesh in ((1, PLAIN), (8, PLAIN), (8, EXPLICIT)):
        path = str(tmp_path / f"{len(results)}.npz")
        run(devices, mesh, path)
        results.append(dict(np.load(path)))
    one, *many = results
    for eight in many:
        assert one.keys() == eight.keys()
        for name, value in one.items():
            np.testing.assert_allclose(eight[name], value, rtol=0, atol=1e-5, err_msg=name)
