"""TODO zoo/card."""
