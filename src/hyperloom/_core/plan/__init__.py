"""The plan: a spec and choices, compiled into frozen integers and floats."""
