"""Prediction of many images: inputs, reading ahead, journal, outputs."""
