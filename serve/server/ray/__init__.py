"""TODO serve/server/ray."""
