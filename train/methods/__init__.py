"""Methods: one file or folder for each paper."""
