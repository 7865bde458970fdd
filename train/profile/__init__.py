"""Plans, profiles and benchmarks of training steps and data loading."""
