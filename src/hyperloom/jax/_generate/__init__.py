"""Condition -> features -> numbers -> tensors."""
