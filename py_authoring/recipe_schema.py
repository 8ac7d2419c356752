"""The JSON Schema of a recipe, for editors; `docs/recipe.schema.json` is this, written out. No torch here."""

from __future__ import annotations

from typing import Any

from py_authoring.recipe_sections import TAGS, VARIANTS, Recipe, Section
from py_authoring.recipe_toml import format_value


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


def key_table() -> str:
    """Every section and key as Markdown tables, for `docs/recipe.md`."""
    blocks = []
    for section, field in Recipe.model_fields.items():
        if section in VARIANTS:
            tag, default = TAGS[section]
            for value, variant in VARIANTS[section].items():
                chosen = f'`{tag} = "{value}"`' + (" (default)" if value == default else "")
                rows = _rows(section, variant, skip=tag)
                blocks.append(f"### `[{section}]` {chosen}\n\n{_sentence(variant)}\n\n{rows}".rstrip())
        elif isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            blocks.append(f"### `[{section}]`\n\n{_sentence(field.annotation)}\n\n{_rows(section, field.annotation)}")
    return "\n\n".join(blocks)


def _rows(section: str, model: type[Section], skip: str = "") -> str:
    rows = []
    for name, field in model.model_fields.items():
        if name == skip:
            continue
        default = "required" if field.is_required() else _default(field.get_default(call_default_factory=True))
        rows.append(f"| `{section}.{field.alias or name}` | {default} | {field.description} |")
    return "\n".join(["| key | default | |", "|---|---|---|", *rows]) if rows else ""


def _default(value: Any) -> str:
    return "" if value is None else f"`{format_value(value)}`"


def _sentence(model: type[Section]) -> str:
    return " ".join((model.__doc__ or "").split())


if __name__ == "__main__":
    print(key_table())
