"""Report of a run: HTML page, plots and pictures."""
