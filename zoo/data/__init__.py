"""Sources of images and masks, partitions, checks."""
