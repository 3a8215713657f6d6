"""What `explain()` and `doctor()` return: plain numbers and words from any backend."""
