"""TODO zoo/pages."""
