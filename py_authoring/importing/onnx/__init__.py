"""ONNX files: reading, translating, and the outputs that they must give."""
