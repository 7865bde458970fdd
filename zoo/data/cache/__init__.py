"""Caches of decoded images: in memory shared by processes, and on disk."""
