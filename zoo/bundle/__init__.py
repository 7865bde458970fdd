"""TODO zoo/bundle."""
