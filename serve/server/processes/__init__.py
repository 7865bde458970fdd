"""Processes of the server: supervisor, workers, their port."""
