"""A module is read as a spec, copied without its values, and its buffers are held."""
