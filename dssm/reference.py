"""The configuration's reference, made from the settings themselves: a JSON Schema for editors, and a page.

python -m dssm.reference        writes conf/schema.json, docs/configuration.md and docs/api.md
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dssm import api_reference
from dssm.config import Settings
from dssm.strict import Kind

PROJECT = Path(__file__).resolve().parent.parent
SCHEMA, PAGE = PROJECT / "conf" / "schema.json", PROJECT / "docs" / "configuration.md"
DEFS = "#/$defs/"

HEAD = """# Configuration

One YAML file a pipeline. This page is made from the settings (`make reference`), where each key is documented; so is
`conf/schema.json`, with which an editor completes and checks the YAML: a file begins, as `init` writes it, with

    # yaml-language-server: $schema=schema.json

A file may build on another with `extends: other.yaml`: mappings merge, null takes an entry away, and another `kind`
replaces the whole choice. `--set key=value` goes over both. A choice may be its kind's name alone: `optimizer: adam`.
"""

Schema = dict[str, Any]


def json_schema() -> Schema:
    """Returns the JSON Schema (2020-12) of a configuration file, which may build on another: no key must be there."""
    schema = _lenient(_full_schema())
    for name, spec in schema["properties"].items():  # null takes away what the extended file has
        entries = spec.get("additionalProperties")
        if isinstance(entries, dict):
            spec["additionalProperties"] = {"anyOf": [entries, {"type": "null"}]}
            schema["properties"][name] = {"anyOf": [spec, {"type": "null"}]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _full_schema() -> Schema:
    """Returns the schema of whole settings, choices by kind among them."""
    schema = Settings.model_json_schema()
    defs = schema["$defs"]
    for family in _held_families(defs):
        refs = [{"$ref": DEFS + _choice_name(family, name)} for name in _choices(family)]
        defs[family.__name__] = {
            "description": inspect.getdoc(family),
            "anyOf": [{"enum": list(_choices(family))}, *refs],
        }
    extends = {"type": "string", "description": "The file that this one builds on, beside it."}
    schema["properties"] = {"extends": extends, **schema["properties"]}
    return schema


def _lenient(spec: Any) -> Any:
    """Returns a schema that takes a part of what it took: of a mapping some keys, of a choice some without its kind."""
    if isinstance(spec, list):
        return [_lenient(part) for part in spec]
    if not isinstance(spec, dict):
        return spec
    names = {"oneOf": "anyOf"}
    return {
        names.get(key, key): _lenient(part)
        for key, part in spec.items()
        if not (key in ("required", "discriminator", "minProperties") and not _is_property(part))
    }


def _is_property(part: Any) -> bool:
    """Whether a setting has this name: what stands there is a schema, not the schema's own word."""
    return isinstance(part, dict) and ("type" in part or "$ref" in part or "anyOf" in part)


def _held_families(defs: Schema) -> list[type[Kind]]:
    """Returns the families that the settings hold; adds their choices, and the families in those, to `defs`."""
    held: list[type[Kind]] = []
    known = [family for family in Kind.__subclasses__() if "choices" in family.__dict__]
    while found := [family for family in known if family.__name__ in defs and family not in held]:
        for family in found:
            for name, choice in _choices(family).items():
                own = choice.model_json_schema()
                defs.update({key: value for key, value in own.pop("$defs", {}).items() if key not in defs})
                own["properties"]["kind"] = {"const": name}
                defs[_choice_name(family, name)] = own
        held += found
    return held


def _choices(family: type[Kind]) -> dict[str, type[Kind]]:
    """Returns the project's own choices: what plugins have added to this process is no part of the reference."""
    return {name: choice for name, choice in family.choices.items() if choice.__module__.startswith("dssm.")}


def _choice_name(family: type[Kind], name: str) -> str:
    return f"{family.__name__}.{name}"


# The page -----------------------------------------------------------------------------------------------


def page() -> str:
    """Returns the reference as Markdown: a table for each section, its choices below it."""
    schema = _full_schema()
    lines = [HEAD]
    todo = [("", schema)]
    shown: dict[str, str] = {}
    while todo:
        path, section = todo.pop(0)
        lines += _section(path, section)
        inner = []
        for key, spec in section["properties"].items():
            for name, nested, place in _nested(schema, spec, f"{path}.{key}".lstrip(".")):
                if name in shown:
                    continue
                shown[name] = place
                inner.append((place, nested))
        todo = inner + todo
    return "\n".join(lines).rstrip() + "\n"


def _section(path: str, section: Schema) -> list[str]:
    lines = [f"\n## `{path}`\n" if path else "\n## The file\n"]
    if path and section.get("description"):
        lines.append(_plain(section["description"]) + "\n")
    if not section["properties"]:
        return lines
    lines += ["| key | value | default | |", "|---|---|---|---|"]
    for key, spec in section["properties"].items():
        if key == "kind" and "const" in spec:
            continue
        default = "required" if key in section.get("required", ()) else _default(spec)
        lines.append(f"| `{key}` | {_kind(spec)} | {default} | {_plain(spec.get('description', ''))} |")
    return lines


def _nested(schema: Schema, spec: Schema, path: str) -> Iterator[tuple[str, Schema, str]]:
    """Yields name, definition and place of each section that a setting holds, choices one by one."""
    if "additionalProperties" in spec and isinstance(spec["additionalProperties"], dict):
        yield from _nested(schema, spec["additionalProperties"], f"{path}.NAME")
    for part in (
        *spec.get("anyOf", ()),
        *spec.get("oneOf", ()),
        *spec.get("prefixItems", ()),
        *([spec["items"]] if "items" in spec else ()),
    ):
        yield from _nested(schema, part, path)
    if "$ref" not in spec:
        return
    name = spec["$ref"].removeprefix(DEFS)
    found = schema["$defs"][name]
    if "anyOf" in found:
        for part in found["anyOf"]:
            yield from _nested(schema, part, path)
    elif "properties" in found:
        kind = found["properties"].get("kind", {}).get("const")
        yield name, found, f"{path}: {kind}" if kind else path


def _kind(spec: Schema) -> str:
    """Returns in words what a setting takes."""
    if "$ref" in spec:
        return "section"
    parts = [part for part in (*spec.get("anyOf", ()), *spec.get("oneOf", ())) if part.get("type") != "null"]
    if parts:
        return " or ".join(dict.fromkeys(_kind(part) for part in parts))
    if "enum" in spec or "const" in spec:
        return ", ".join(f"`{value}`" for value in spec.get("enum", [spec.get("const")]))
    kind: str = spec.get("type", "any")
    if kind == "array":
        return f"list of {_many(spec['items'])}" if "items" in spec else "list"
    if kind == "object":
        of = spec.get("additionalProperties")
        return f"{_many(of)} by name" if isinstance(of, dict) else "mapping"
    words = {"integer": "whole number", "boolean": "true or false", "string": "text"}
    return words.get(kind, kind) + _bounds(spec)


def _many(spec: Schema) -> str:
    words = _kind(spec)
    return (
        words
        if words.startswith("`")
        else words.replace("text", "texts").replace("number", "numbers").replace("section", "sections")
    )


def _bounds(spec: Schema) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {spec[key]:g}" for key, sign in signs.items() if key in spec]
    return f" {', '.join(found)}" if found else ""


def _default(spec: Schema) -> str:
    if "default" not in spec:
        return "empty"
    value = spec["default"]
    if isinstance(value, Mapping):
        return f"`{value['kind']}`" if "kind" in value else "see there"
    if value is None:
        return "none"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    PAGE.parent.mkdir(exist_ok=True)
    SCHEMA.write_text(json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
    api_reference.PAGE.write_text(api_reference.page(), encoding="utf-8")
    for path in (SCHEMA, PAGE, api_reference.PAGE):
        print(f"reference: {path.relative_to(PROJECT)}")


if __name__ == "__main__":
    main()
