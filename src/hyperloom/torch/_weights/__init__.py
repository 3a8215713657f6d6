"""Numbers become weight objects; the cost model picks how each is applied."""
