"""TODO train/methods/eln."""
