"""TODO train/recipe."""
