"""Bulk prediction: inputs, streaming, journal and output files."""

from zoo import make_callable

make_callable(__name__)
