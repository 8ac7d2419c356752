"""Weights that are used where they lie in a compiled library. torch's runtime copies them into memory of its own when a
library is opened: twice the memory, and most of the start of a small program.

In: torch's header of that runtime, which is compiled into every package. Out: a folder for the compiler with the same
header, changed in three places. Values that are set later, as torch's own loader can, get memory of their own.
"""

from __future__ import annotations

from pathlib import Path

import torch

_HEADER = Path("torch/csrc/inductor/aoti_runtime/model_base.h")
#: What stands there once → what takes its place. In place only where the values lie as the copy of them would.
_CHANGES = {
    """
    // Allocate main blob
    if (blob_size > 0) {
""": """
    in_place_ = aux_cpu_blob_size == 0 && num_folded_constants == 0 &&
        reinterpret_cast<uintptr_t>(_get_constants_start()) % AOTI_CONST_ALIGNMENT == 0;
    for (size_t i = 0; i < num_constants; i++) {
      in_place_ = in_place_ && constant_data_size(i) % AOTI_CONST_ALIGNMENT == 0;
    }
    if (blob_size > 0 && !in_place_) {
""",
    """
    auto* constants_ptr = static_cast<uint8_t*>(constant_blob_.get());
    uint8_t* internal_ptr = constants_ptr + constant_offset;
""": """
    if (in_place_) {
      return _get_constants_start() + bytes_read;
    }
    auto* constants_ptr = static_cast<uint8_t*>(constant_blob_.get());
    uint8_t* internal_ptr = constants_ptr + constant_offset;
""",
    """
  bool include_weights;
""": """
  bool include_weights;
  bool in_place_ = false;
""",
}


def header_in_place(folder: Path) -> Path | None:
    """An include folder with the changed header, to be searched before torch's; None for a header that is not known.

    Args:
        folder: where it goes.
    """
    text = (Path(torch.__file__).parent / "include" / _HEADER).read_text()
    for old, new in _CHANGES.items():
        if text.count(old) != 1:
            return None
        text = text.replace(old, new)
    path = folder / "include" / _HEADER
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return folder / "include"
