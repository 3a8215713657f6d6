"""Recipes: whole uses of hyperloom, one folder each. Nothing in the core imports them."""
