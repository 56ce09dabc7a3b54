"""Reference of recipes, from their JSON schema."""

from __future__ import annotations

import json
from typing import Any

from generate.text import code, table, values
from graphc.pipeline.recipe import recipe_schema

FILE = "reference/recipe.schema.json"


def pages() -> dict[str, str]:
    """Markdown and the schema itself, by path."""
    schema = recipe_schema()
    definitions = schema["$defs"]
    parts = [
        "# Recipes",
        "A recipe is a YAML file that holds everything one compile needs. An unknown key is refused, and the error "
        "names the nearest known one. `graphc schema` prints the [JSON schema](recipe.schema.json), with the options "
        "of every pass, for editors: put `# yaml-language-server: $schema=recipe.schema.json` at the top of a recipe.",
        _keys(schema, definitions),
    ]
    for name, part in sorted(definitions.items()):
        parts += [f"## {name}", part.get("description", ""), _keys(part, definitions)]
    return {"reference/recipe.md": "\n\n".join(parts) + "\n", FILE: json.dumps(schema, indent=2)}


def _keys(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = []
    for name, part in schema["properties"].items():
        shown = "list of [passes](passes/index.md)" if name == "passes" else values(part, definitions)
        start = "required" if name in required else code(part["default"]) if "default" in part else ""
        rows.append((code(name), part.get("description", ""), shown, start))
    return table(("key", "what it is", "values", "default"), rows)
