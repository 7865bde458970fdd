"""Comparison of exported files with PyTorch."""
