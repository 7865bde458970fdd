"""Training data: streams, loaders, augmentation, caches."""
