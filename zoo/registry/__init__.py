"""Registries of bundles: the Hub, shared folders and tar files, with checks before use."""
