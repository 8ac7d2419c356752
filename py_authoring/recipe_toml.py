"""TOML as text: at which line a key stands, and how a recipe is written back.

`tomllib` keeps no lines and writes nothing; both needs are small. No torch here.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:  # the same parser, under the name it had before it came into the standard library
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

TOMLDecodeError = tomllib.TOMLDecodeError
Path = tuple[str, ...]

_KEY_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_DOTTED = rf"{_KEY_PART}(?:\s*\.\s*{_KEY_PART})*"
_TABLE = re.compile(rf"^\s*\[\s*({_DOTTED})\s*\]\s*(?:#.*)?$")
_ASSIGNMENT = re.compile(rf"^\s*({_DOTTED})\s*=(.*)$", re.DOTALL)
_BARE = re.compile(r"^[A-Za-z0-9_-]+$")


def parse(text: str) -> dict[str, Any]:
    """TOML text as a dict; raises `TOMLDecodeError`."""
    document: dict[str, Any] = tomllib.loads(text)
    return document


def parse_value(text: str) -> Any:
    """The value that a person typed after `key=`: TOML if it is, else the text itself.

    Example:
        >>> parse_value("3"), parse_value("[1, 2]"), parse_value("cuda:0"), parse_value("'3'")
        (3, [1, 2], 'cuda:0', '3')
    """
    try:
        parsed = tomllib.loads(f"value = {text}")
    except TOMLDecodeError:
        return text
    return parsed["value"] if set(parsed) == {"value"} else text


def find_lines(text: str) -> dict[Path, int]:
    """The line, from 1, of each table and key of TOML text that parses; keys inside `{…}` are left out.

    Example:
        >>> find_lines('[data]\\nkind = "none"\\n')
        {('data',): 1, ('data', 'kind'): 2}
    """
    lines: dict[Path, int] = {}
    table: Path = ()
    unfinished = ""
    for number, line in enumerate(text.splitlines(), 1):
        if unfinished:
            unfinished += "\n" + line
            if _is_complete(unfinished):
                unfinished = ""
            continue
        header = _TABLE.match(line)
        if header is not None:
            table = _split_key(header[1])
            lines.setdefault(table, number)
            continue
        assignment = _ASSIGNMENT.match(line)
        if assignment is not None:
            path = table + _split_key(assignment[1])
            for length in range(len(table) + 1, len(path) + 1):
                lines.setdefault(path[:length], number)
            if not _is_complete(f"value ={assignment[2]}"):
                unfinished = f"value ={assignment[2]}"
    return lines


def dump(document: Mapping[str, Any]) -> str:
    """A dict of plain values as TOML; keys with the value None are left out, as TOML has no null.

    Example:
        >>> print(dump({"a": 1, "b": {"c": [1.5, "x"], "d": None}}), end="")
        a = 1
        <BLANKLINE>
        [b]
        c = [1.5, "x"]
    """
    return "\n".join(block for block in _blocks((), document) if block)


def format_value(value: Any) -> str:
    """One plain value as TOML.

    Example:
        >>> format_value({"height": 28, "on": True})
        '{ height = 28, on = true }'
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        items = ", ".join(f"{_format_key(k)} = {format_value(v)}" for k, v in value.items() if v is not None)
        return f"{{ {items} }}" if items else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(format_value(item) for item in value)}]"
    return repr(value) if isinstance(value, int | float) else str(value)


def _blocks(path: Path, table: Mapping[str, Any]) -> list[str]:
    plain = {k: v for k, v in table.items() if v is not None and not isinstance(v, Mapping)}
    tables = {k: v for k, v in table.items() if isinstance(v, Mapping)}
    lines = [f"{_format_key(key)} = {format_value(value)}\n" for key, value in plain.items()]
    if path and (lines or not tables):
        lines.insert(0, f"[{'.'.join(_format_key(part) for part in path)}]\n")
    blocks = ["".join(lines)]
    for key, value in tables.items():
        blocks += _blocks((*path, key), value)
    return blocks


def _format_key(key: str) -> str:
    return key if _BARE.match(key) else format_value(key)


def _split_key(dotted: str) -> Path:
    parsed: Any = tomllib.loads(f"{dotted} = 0")
    path: list[str] = []
    while isinstance(parsed, dict):
        (key, parsed), *_ = parsed.items()
        path.append(key)
    return tuple(path)


def _is_complete(assignment: str) -> bool:
    try:
        tomllib.loads(assignment)
    except TOMLDecodeError:
        return False
    return True
