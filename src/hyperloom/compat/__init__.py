"""Doors for users of other libraries: their names and formats around this library's objects."""
