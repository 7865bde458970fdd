"""The server of `zoo serve`: images in, masks out, over HTTP."""
