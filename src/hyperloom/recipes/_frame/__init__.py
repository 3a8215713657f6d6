"""What every recipe does besides its own: the list, a run, measures."""
