"""Report of a benchmark: page, plots, tables."""
