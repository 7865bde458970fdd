"""TODO serve/bench."""
