"""TODO train/profile."""
