"""TODO zoo/evaluation."""
