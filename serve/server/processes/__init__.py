"""Processes of the server: supervisor, workers, the socket that they share."""
