"""The neutral core: what both backends execute, and what needs no framework."""
