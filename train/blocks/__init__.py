"""Losses and parts that two or more methods share."""
