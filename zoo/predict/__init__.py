"""Bulk prediction: inputs, streaming, journal and output files."""
