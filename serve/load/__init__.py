"""The load test of a running server: what `zoo benchmark http://host:port` measures."""
