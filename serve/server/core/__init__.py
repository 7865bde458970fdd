"""TODO serve/server/core."""
