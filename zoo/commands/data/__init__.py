"""`zoo data`: check, split, prepare and benchmark data."""
