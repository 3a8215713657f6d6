"""The oracle: any plan executed in plain NumPy."""
