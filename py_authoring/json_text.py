"""A document → JSON as the standard has it, which knows neither NaN nor Infinity: they become null."""

from __future__ import annotations

import json
import math
from typing import Any


def to_json(document: Any, **layout: Any) -> str:
    """The text; a number that is not finite is null.

    Args:
        document: dicts, lists, texts, numbers.
        layout: of `json.dumps`, as `indent`.

    Example:
        >>> to_json({"r2": math.nan, "loss": [0.5, math.inf]})
        '{"r2": null, "loss": [0.5, null]}'
    """
    try:
        return json.dumps(document, allow_nan=False, **layout)
    except ValueError:
        return json.dumps(_finite(document), allow_nan=False, **layout)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value
