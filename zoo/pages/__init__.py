"""HTML and pictures for people."""
