"""ONNX operators by family; importing this fills the table."""

from __future__ import annotations

from py_authoring.importing.onnx.operators import (  # noqa: F401  (each registers its operators)
    control,
    convolution,
    elementwise,
    indexing,
    linear,
    losses,
    normalisation,
    quantisation,
    recurrent,
    reduction,
    resizing,
    sequences,
    shapes,
    signal,
)
