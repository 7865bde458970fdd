"""TODO train/blocks."""
