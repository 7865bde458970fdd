"""The load test of a running server: what `zoo bench http://host:port` measures."""
