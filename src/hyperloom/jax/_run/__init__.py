"""A call: paired, routed once, run, its buffers stored."""
