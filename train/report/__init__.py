"""Report of a run: page, plots, pictures."""
