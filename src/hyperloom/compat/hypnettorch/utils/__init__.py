"""Batch norm with several sets of statistics, and the output regulariser."""
