"""TODO train/compare."""
