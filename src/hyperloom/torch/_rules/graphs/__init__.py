"""Rules for `vmap` inside `torch.compile`: one graph for all numbers of conditions."""
