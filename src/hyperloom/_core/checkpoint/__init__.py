"""The checkpoint file: its description as JSON, its tensors, its header."""
