"""The three kinds of model files, by the word that a contract has for what runs them. Nothing is imported here."""

from __future__ import annotations

TORCHSCRIPT, COMPILED, ONNX = "pytorch_torchscript", "torch_aoti", "onnxruntime_onnx"
#: Platform → the name of such a file in a version's folder, where all three may lie.
MODEL_FILES = {TORCHSCRIPT: "model.pt", COMPILED: "model.pt2", ONNX: "model.onnx"}
#: The recipe's `export.method` → platform.
PLATFORMS = {"script": TORCHSCRIPT, "trace": TORCHSCRIPT, "compiled": COMPILED, "onnx": ONNX}
