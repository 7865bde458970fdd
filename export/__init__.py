"""Stage `zoo.export`: ONNX, TensorRT and Triton files of a bundle, compared with PyTorch."""

if not __name__.startswith("zoo."):  # a second copy of every module would be loaded
    raise ImportError("import zoo.export, not export")
