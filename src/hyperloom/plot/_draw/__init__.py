"""What draws: figures of matplotlib from hypernetworks and files."""
