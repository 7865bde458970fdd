"""Evaluation: metrics, protocols, sliding windows, boundary metrics."""
