"""TODO train/methods/u2pl."""
