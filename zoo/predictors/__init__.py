"""Predictors: one interface to all backends that run a model."""
