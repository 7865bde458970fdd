"""The network that is exported, and its ONNX file."""
