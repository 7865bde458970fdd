"""TODO train/runs."""
