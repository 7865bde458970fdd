"""Training loop: engine, checkpoints, precision and processes, progress, validation."""
