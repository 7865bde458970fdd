"""Predictor of a server, its connection, and the codec of the Open Inference Protocol."""
