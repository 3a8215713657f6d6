"""Running a target on a batch of conditions."""
# run_vmap(hnet, weights, shared, call): jax.vmap over _interpret.call(pure, weights, *args) with
# in_axes=(_interpret.axes(weights), ...)
