"""Promise L2: damage is refused, or lies where it changes nothing: the outputs are equal bit by bit."""

import os
import random

import numpy as np
import pytest
import spellings
import torch
import zips
from torch import nn

import rust_host
from models import Plain

SMALL = np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4)
LARGE = np.linspace(-1, 1, 1700, dtype=np.float32)[None]


def refusals(path, whole, bits, x):
    """How many of these bits, flipped one at a time, are refused; fails where one is computed with."""
    path.write_bytes(whole)
    right = rust_host.Model(path, "cpu")(x).tobytes()
    count = 0
    with path.open("r+b", buffering=0) as file:
        for bit in bits:
            file.seek(bit // 8)
            file.write(bytes([whole[bit // 8] ^ 1 << bit % 8]))
            try:
                assert rust_host.Model(path, "cpu")(x).tobytes() == right, f"bit {bit} was computed with"
            except rust_host.Error:
                count += 1
            file.seek(bit // 8)
            file.write(whole[bit // 8 : bit // 8 + 1])
    return count


def test_every_byte_of_a_small_file(tmp_path):
    """One bit of each, and every bit of the directory's first entry; `BITS=all` flips all."""
    archive = zips.Archive.read(spellings.saved(Plain))
    archive.members = [m for m in archive.members if not m.name.endswith(".debug_pkl")]
    whole = archive.write()
    chance = random.Random(1)
    bits = [8 * at + chance.randrange(8) for at in range(len(whole))]
    entry = whole.index(b"PK\1\2")
    bits += range(8 * entry, 8 * whole.index(b"PK\1\2", entry + 4))
    if os.environ.get("BITS") == "all":
        bits = list(range(8 * len(whole)))
    refused = refusals(tmp_path / "small.pt", whole, bits, SMALL)
    print(f"{refused} of {len(bits)} flipped bits refused, the others changed nothing")
    assert refused > 0.8 * len(bits)  # dates and versions in the headers are nobody's


def test_bits_of_a_large_file(tmp_path):
    """`BITS=2000` takes a minute."""
    torch.manual_seed(0)
    layer = nn.Linear(1700, 1700)  # 11.6 MB
    whole = torch.jit.script(layer.eval()).save_to_buffer()
    count = os.environ.get("BITS", "60")
    chance = random.Random(2)
    bits = [chance.randrange(8 * len(whole)) for _ in range(2000 if count == "all" else int(count))]
    refused = refusals(tmp_path / "large.pt", whole, bits, LARGE)
    print(f"{refused} of {len(bits)} flipped bits refused, the others changed nothing")
    assert refused > 0.95 * len(bits)


def test_it_is_the_gate_that_notices(tmp_path):
    """What plain libtorch computes with: a flipped bit of a weight."""
    whole = bytearray(spellings.saved(Plain))
    archive = zips.Archive.read(bytes(whole))
    weight = archive.find("data/0").data
    at = bytes(whole).index(weight)
    whole[at + 2] ^= 1
    assert spellings.in_child(bytes(whole)) == "loads"
    (tmp_path / "m.pt").write_bytes(whole)
    with pytest.raises(rust_host.InvalidModelError, match="checksum"):
        rust_host.Model(tmp_path / "m.pt", "cpu")
