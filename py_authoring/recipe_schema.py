"""The JSON Schema of a recipe, for editors; `docs/recipe.schema.json` is this, written out. No torch here."""

from __future__ import annotations

from typing import Any

from py_authoring.recipe_sections import TAGS, Recipe


def recipe_schema() -> dict[str, Any]:
    """The schema of draft 2020-12.

    pydantic writes a section with variants as `oneOf`, of which editors say only "not valid under any schema"; as
    `if kind is X then …` they name the key.

    Example:
        >>> sorted(recipe_schema()["required"])
        ['data', 'model']
    """
    schema = Recipe.model_json_schema(by_alias=True)
    for section, (tag, default) in TAGS.items():
        field = schema["properties"][section]
        mapping: dict[str, str] = field.pop("discriminator")["mapping"]
        field.pop("oneOf")
        field["type"] = "object"
        field["properties"] = {tag: {"enum": list(mapping)}}
        if default is None:
            field["required"] = [tag]
        field["allOf"] = [
            {
                "if": {"properties": {tag: {"const": value}}, **({"required": [tag]} if value != default else {})},
                "then": {"$ref": reference},
            }
            for value, reference in mapping.items()
        ]
        if default is not None:
            variant = schema["$defs"][mapping[default].rpartition("/")[2]]
            variant["required"] = [name for name in variant.get("required", []) if name != tag]
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Recipe of py-authoring"
    return schema
