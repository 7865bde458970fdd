"""TODO zoo/predict."""
