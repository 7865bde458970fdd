"""TODO train/loop."""
