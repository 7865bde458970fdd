"""Python API: what `import zoo` offers, one module a function; commands call the same functions."""
