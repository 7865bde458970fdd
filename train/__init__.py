"""Training: methods, losses, recipes, data loading, the training loop, and reports."""

if not __name__.startswith("zoo."):  # would load a second copy of every module
    raise ImportError("import zoo.train, not train")
