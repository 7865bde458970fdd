"""Decoders, which map an encoder's features to logits."""
