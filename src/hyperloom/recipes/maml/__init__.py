"""Starts of gradient descent, generated from ten points of a sine and improved by one step.

    from hyperloom.recipes.maml.torch import adapted, hypernetwork      # or maml.jax

`hyperloom demo maml` trains the generator, the same by hand, and one start for all tasks (MAML).
"""
