"""Readers of the layouts of published data sets and of labeling tools' files."""
