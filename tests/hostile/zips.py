"""Zips and pickles written by hand, so that one field can be wrong while all others are right."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from dataclasses import dataclass, field


@dataclass
class Member:
    """One member; every field that is not None replaces what would be right."""

    name: str
    data: bytes
    deflate: bool = False
    crc: int | None = None
    size: int | None = None
    packed: int | None = None
    offset: int | None = None
    local_name: str | None = None
    flags: int = 0
    method: int | None = None
    extra: bytes = b""
    local_extra: bytes = b""


@dataclass
class Archive:
    """Members in order, and what stands around them."""

    members: list[Member] = field(default_factory=list)
    comment: bytes = b""
    count: int | None = None
    directory_size: int | None = None
    directory_offset: int | None = None
    #: (count, size, offset) that a zip64 end record says; None: no such record.
    zip64: tuple[int | None, int | None, int | None] | None = None
    before: bytes = b""

    @classmethod
    def read(cls, data: bytes) -> Archive:
        with zipfile.ZipFile(io.BytesIO(data)) as z:
            return cls([Member(i.filename, z.read(i)) for i in z.infolist()])

    @property
    def stem(self) -> str:
        return self.members[0].name.split("/")[0]

    def find(self, name: str) -> Member:
        return next(m for m in self.members if m.name == f"{self.stem}/{name}")

    def add(self, name: str, data: bytes) -> Member:
        self.members.append(Member(f"{self.stem}/{name}", data))
        return self.members[-1]

    def code(self) -> Member:
        return next(m for m in self.members if m.name.endswith(".py"))

    def write(self) -> bytes:
        out, directory = bytearray(self.before), bytearray()
        for m in self.members:
            packed = m.data
            if m.deflate:
                packer = zlib.compressobj(9, zlib.DEFLATED, -15)
                packed = packer.compress(m.data) + packer.flush()
            method = (8 if m.deflate else 0) if m.method is None else m.method
            crc = zlib.crc32(m.data) if m.crc is None else m.crc
            sizes = (len(packed) if m.packed is None else m.packed, len(m.data) if m.size is None else m.size)
            common = struct.pack(
                "<HHHHHIII", 20, m.flags, method, 0, 0x21, crc & 0xFFFFFFFF, *(s & 0xFFFFFFFF for s in sizes)
            )
            name = m.name.encode("utf-8", "surrogateescape")
            local = name if m.local_name is None else m.local_name.encode("utf-8", "surrogateescape")
            offset = len(out) if m.offset is None else m.offset
            out += (
                b"PK\3\4" + common + struct.pack("<HH", len(local), len(m.local_extra)) + local + m.local_extra + packed
            )
            directory += (
                b"PK\1\2\x14\0"
                + common
                + struct.pack("<HHHHHII", len(name), len(m.extra), 0, 0, 0, 0, offset & 0xFFFFFFFF)
            )
            directory += name + m.extra
        start = len(out)
        out += directory
        count = len(self.members) if self.count is None else self.count
        size = len(directory) if self.directory_size is None else self.directory_size
        at = start if self.directory_offset is None else self.directory_offset
        if self.zip64 is not None:
            long = [
                right if given is None else given
                for given, right in zip(self.zip64, (len(self.members), len(directory), start), strict=True)
            ]
            record = len(out)
            out += b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, long[0], *long)
            out += b"PK\6\7" + struct.pack("<IQI", 0, record, 1)
        out += b"PK\5\6" + struct.pack(
            "<HHHHIIH", 0, 0, count & 0xFFFF, count & 0xFFFF, size & 0xFFFFFFFF, at & 0xFFFFFFFF, len(self.comment)
        )
        return bytes(out + self.comment)


def opcodes(data: bytes) -> list[bytes]:
    """A pickle cut into its opcodes, each with its argument."""
    import pickletools

    starts = [position for _, _, position in pickletools.genops(data)]
    ends = [*starts[1:], data.rindex(b".") + 1]
    return [data[a:b] for a, b in zip(starts, ends, strict=True)]


def number(value: int) -> bytes:
    """A whole number as a pickle says it."""
    return pickle.dumps(value, protocol=2)[2:-1]


def text(value: str) -> bytes:
    """A text as a pickle says it, without a memo."""
    raw = value.encode("utf-8", "surrogateescape")
    return b"X" + struct.pack("<I", len(raw)) + raw
