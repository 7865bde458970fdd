"""Core of the server: models, batching, admission control, errors. Knows no HTTP."""
