"""A front door for scripts written for hyper-nn: `hypernn` becomes `hyperloom.compat.hypernn`.

`hyperloom.compat.hypernn.torch` and `hyperloom.compat.hypernn.jax` have the classes of hyper-nn's
README, under the same module paths. `docs/migrating.md` says how the same is written without the
door, and what is better then.
"""
