"""Which functions a compiled model takes from its host: the undefined names in a shared library's dynamic symbols.

Read from the ELF file itself, 64 bits, little-endian: `nm` and `readelf` are not on every machine that has a model.
"""

from __future__ import annotations

import re
import struct

from py_authoring.errors import AuthoringError

_DYNSYM = 11
#: Functions of torch's C interface that compute; all others (handles, sizes, datatypes) any small host can have.
_OPERATORS = re.compile(r"aoti_torch_(?:(?:cpu|cuda)_)?(?P<name>(?<=cpu_).+|(?<=cuda_).+|proxy_executor_.+)")


class UnreadableLibraryError(AuthoringError, ValueError):
    """Bytes that are no shared library of this kind."""

    kind = "invalid_model"
    exit_code = 2


def undefined_symbols(library: bytes, shown: str = "the compiled library") -> list[str]:
    """The names that a shared library expects from elsewhere, sorted; `shown` is what messages call it.

    Raises:
        UnreadableLibraryError: it is no 64-bit little-endian ELF file, or cut off.
    """
    if library[:6] != b"\x7fELF\x02\x01":
        raise UnreadableLibraryError(f"{shown} is no 64-bit little-endian ELF file")
    try:
        (offset,) = struct.unpack_from("<Q", library, 40)
        size, count = struct.unpack_from("<HH", library, 58)
        sections = [struct.unpack_from("<IIQQQQIIQQ", library, offset + size * number) for number in range(count)]
        names = []
        for _, kind, _, _, start, length, link, _, _, each in sections:
            if kind != _DYNSYM:
                continue
            text = library[sections[link][4] : sections[link][4] + sections[link][5]]
            for at in range(start, start + length, each):
                name, _, _, section = struct.unpack_from("<IBBH", library, at)
                if section == 0 and name:
                    names.append(text[name : text.index(b"\0", name)].decode())
    except (struct.error, IndexError, ValueError) as error:
        raise UnreadableLibraryError(f"{shown} cannot be read: {error}") from error
    return sorted(names)


def host_operators(symbols: list[str]) -> list[str]:
    """The operators among them that compute, without torch's prefix: what a host without libtorch must bring itself.

    Example:
        >>> host_operators(["aoti_torch_get_sizes", "aoti_torch_cpu_bmm_out", "aoti_torch_proxy_executor_call"])
        ['bmm_out', 'proxy_executor_call']
    """
    return [found["name"] for name in symbols if (found := _OPERATORS.fullmatch(name))]
