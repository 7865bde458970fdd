"""One interface over every backend that can run a model."""
