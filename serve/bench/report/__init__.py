"""TODO serve/bench/report."""
