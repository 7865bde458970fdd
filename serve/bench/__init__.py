"""Latency, throughput and accuracy of models on every backend."""
