"""HTTP layer of the server: app, routes, guards, codecs."""
