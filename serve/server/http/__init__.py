"""TODO serve/server/http."""
