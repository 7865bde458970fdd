"""Predictors of exported models: ONNX Runtime, OpenVINO and TensorRT."""
