"""Bundles: the stripped model on disk."""
