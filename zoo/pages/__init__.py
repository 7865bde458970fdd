"""HTML pages, plots and pictures of masks."""
