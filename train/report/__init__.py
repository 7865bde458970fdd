"""TODO train/report."""
