"""Recipes: typed settings, and their reading from TOML."""
