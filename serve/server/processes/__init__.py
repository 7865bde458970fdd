"""TODO serve/server/processes."""
