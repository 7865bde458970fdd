"""Bundles: stripped models on disk."""
