"""Stage `zoo.serve`: server, benchmark and load test."""

if not __name__.startswith("zoo."):  # a second copy of every module would be loaded
    raise ImportError("import zoo.serve, not serve")

from zoo import make_callable

make_callable(__name__)
