"""Report of a benchmark: page, charts, tables."""
