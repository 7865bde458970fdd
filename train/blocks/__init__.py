"""Losses and other parts that several methods share."""
