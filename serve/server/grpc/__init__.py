"""gRPC of the Open Inference Protocol, on the models of the HTTP server."""
