"""Inspection of data sets for faults, including folders that training cannot open."""
