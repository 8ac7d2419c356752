"""What a compiled model takes from its host: undefined names, libraries and versions in a shared library's tables.

Read from the ELF file itself, 64 bits, little-endian: `nm` and `readelf` are not on every machine that has a model.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from py_authoring.errors import AuthoringError

_DYNAMIC, _DYNSYM, _VERNEED = 6, 11, 0x6FFFFFFE
_NEEDED = 1
_GLIBC = re.compile(r"GLIBC_(\d+)\.(\d+)")
_FROM_HOST = re.compile(r"(?:aoti_torch_(?:(?:cpu|cuda)_)?|(?=GOMP_|omp_|Sleef_))(?P<name>.+)")
# What a host without libtorch answers, as rust_host/backends/compiled/src/own/mod.rs lists it, without torch's prefix.
_ANSWERED = """
    _reinterpret_tensor as_strided clone clone_preserve_strides create_tensor_from_blob create_tensor_from_blob_v2
    delete_tensor_object empty_strided new_tensor_handle zero_
    get_data_ptr get_device_index get_device_type get_dim get_dtype get_layout get_numel get_size get_sizes
    get_storage_numel get_storage_offset get_storage_size get_stride get_strides is_contiguous is_defined
    device_type_cpu device_type_cuda layout_strided dtype_element_size grad_mode_is_enabled grad_mode_set_enabled
    memory_format_channels_last memory_format_contiguous_format memory_format_preserve_format
    dtype_bfloat16 dtype_bool dtype_float16 dtype_float32 dtype_float64 dtype_int8 dtype_int16 dtype_int32 dtype_int64
    dtype_uint8 dtype_uint16 dtype_uint32 dtype_uint64
    item_bool item_float32 item_float64 item_int8 item_int16 item_int32 item_int64 item_uint8
    GOMP_barrier GOMP_critical_end GOMP_critical_start GOMP_parallel GOMP_single_start
    omp_get_max_threads omp_get_num_threads omp_get_thread_num
"""
#: The same as names.
ANSWERED = frozenset(_ANSWERED.split())


class UnreadableLibraryError(AuthoringError, ValueError):
    """Bytes that are no shared library of this kind."""

    kind = "invalid_model"
    exit_code = 2


def undefined_symbols(library: bytes, shown: str = "the compiled library") -> list[str]:
    """The names that a shared library expects from elsewhere, sorted; `shown` is what messages call it.

    Raises:
        UnreadableLibraryError: it is no 64-bit little-endian ELF file, or cut off.
    """
    names = []
    with _reading(shown):
        sections = _sections(library, shown)
        for _, kind, _, _, start, length, link, _, _, each in sections:
            if kind != _DYNSYM:
                continue
            for at in range(start, start + length, each):
                name, _, _, section = struct.unpack_from("<IBBH", library, at)
                if section == 0 and name:
                    names.append(_text(library, sections[link], name))
    return sorted(names)


def needed_libraries(library: bytes, shown: str = "the compiled library") -> list[str]:
    """The libraries that the loader must find beside it, `libc.so.6`, sorted.

    Raises:
        UnreadableLibraryError: it is no 64-bit little-endian ELF file, or cut off.
    """
    names = []
    with _reading(shown):
        sections = _sections(library, shown)
        for _, kind, _, _, start, length, link, *_ in sections:
            if kind == _DYNAMIC:
                entries = struct.iter_unpack("<QQ", library[start : start + length])
                names += [_text(library, sections[link], value) for tag, value in entries if tag == _NEEDED]
    return sorted(names)


def needed_versions(library: bytes, shown: str = "the compiled library") -> dict[str, list[str]]:
    """Library → the versions of its functions that must be there: `{"libc.so.6": ["GLIBC_2.2.5", "GLIBC_2.34"]}`.

    Raises:
        UnreadableLibraryError: it is no 64-bit little-endian ELF file, or cut off.
    """
    found: dict[str, list[str]] = {}
    with _reading(shown):
        sections = _sections(library, shown)
        for _, kind, _, _, start, _, link, files, _, _ in sections:
            if kind != _VERNEED:
                continue
            at = start
            for _ in range(files):
                _, count, file, first, following = struct.unpack_from("<HHIII", library, at)
                versions = found.setdefault(_text(library, sections[link], file), [])
                entry = at + first
                for _ in range(count):
                    _, _, _, name, step = struct.unpack_from("<IHHII", library, entry)
                    versions.append(_text(library, sections[link], name))
                    entry += step
                at += following
    return {file: sorted(versions) for file, versions in found.items()}


def needed_glibc(library: bytes) -> tuple[int, int]:
    """The oldest C library that has all functions it calls, as (2, 34); (0, 0) for one that names no version."""
    versions = [version for each in needed_versions(library).values() for version in each]
    numbers = [tuple(map(int, found.groups())) for each in versions if (found := _GLIBC.match(each))]
    return cast(tuple[int, int], max(numbers, default=(0, 0)))


def host_operators(symbols: list[str]) -> list[str]:
    """The functions among them that only libtorch has, without torch's prefix: almost all are operators.

    Example:
        >>> host_operators(["aoti_torch_get_sizes", "aoti_torch_cpu_bmm_out", "aoti_torch_proxy_executor_call"])
        ['bmm_out', 'proxy_executor_call']
    """
    found = [(name, match["name"]) for name in symbols if (match := _FROM_HOST.fullmatch(name))]
    return [plain for name, plain in found if name.removeprefix("aoti_torch_") not in ANSWERED]


def _sections(library: bytes, shown: str) -> list[tuple[int, ...]]:
    if library[:6] != b"\x7fELF\x02\x01":
        raise UnreadableLibraryError(f"{shown} is no 64-bit little-endian ELF file")
    (offset,) = struct.unpack_from("<Q", library, 40)
    size, count = struct.unpack_from("<HH", library, 58)
    return [struct.unpack_from("<IIQQQQIIQQ", library, offset + size * number) for number in range(count)]


def _text(library: bytes, section: tuple[int, ...], at: int) -> str:
    start, end = section[4] + at, section[4] + section[5]
    return library[start : library.index(b"\0", start, end)].decode()


@contextmanager
def _reading(shown: str) -> Iterator[None]:
    try:
        yield
    except UnreadableLibraryError:
        raise
    except (struct.error, IndexError, ValueError) as error:
        raise UnreadableLibraryError(f"{shown} cannot be read: {error}") from error
