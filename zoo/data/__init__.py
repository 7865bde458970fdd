"""Data sets of images and masks: sources, partitions, caches and checks."""
