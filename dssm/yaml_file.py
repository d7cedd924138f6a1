"""Files of settings as nested mappings: what extends what, what --set goes over, and faults in words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from dssm.errors import UserError, did_you_mean
from dssm.features import Feature
from dssm.secrets import HIDDEN, hidden_in, hidden_in_arguments, hide_secrets
from dssm.sections import Negatives
from dssm.strict import kinds_of


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML in which a key given twice is an error: the first would be lost silently."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # what only looks like a date or a number: PyYAML lets it through
            raise yaml.constructor.ConstructorError(None, None, f"'{node.value}': {error}", node.start_mark) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge" or not isinstance(key_node, yaml.ScalarNode):
                continue  # `<<: *defaults` gives way to the mapping's own keys; a list as key fails below
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    "while reading a mapping", node.start_mark, f"found key '{key}' twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: str, extending: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Reads a file of settings; with `extends`, another one, relative to it, lies below.

    Raises: UserError where a file can't be read, or files extend each other in a ring.
    """
    place = Path(path).resolve()
    if place in extending:
        ring = " → ".join(str(file) for file in (*extending, place))
        raise UserError(f"{path}: extends itself ({ring}); remove one of the `extends`")
    values = _parse_yaml(path)
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise UserError(f"{path}: extends: found {base!r}, expected the path of a YAML file")
    below = Path(path).parent / base
    if not below.is_file():
        raise UserError(f"{path}: extends: {below} is no file; expected a YAML file's path relative to this one")
    return _laid_over(read_yaml(str(below), (*extending, place)), values)


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lays settings over others: mappings are merged, null takes one away, and another `kind` replaces it whole.

    >>> _laid_over({"a": {"x": 1, "y": 2}, "b": {"kind": "p", "z": 3}}, {"a": {"y": 5}, "b": {"kind": "q"}})
    {'a': {'x': 1, 'y': 5}, 'b': {'kind': 'q'}}
    """
    merged = dict(below)
    for key, value in above.items():
        known = below.get(key)
        if isinstance(known, Mapping) and value is None:
            del merged[key]
        elif isinstance(known, Mapping) and isinstance(value, Mapping):
            other_kind = "kind" in value and value["kind"] != known.get("kind")
            merged[key] = dict(value) if other_kind else _laid_over(known, value)
        else:
            merged[key] = value
    return merged


def _parse_yaml(path: str) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"--config {path}: {error.strerror or error}; expected a YAML file, such as conf/demo.yaml"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"--config {path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    try:
        values = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: malformed YAML: {hide_secrets(' '.join(str(error).split()), ())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: found {type(values).__name__}, expected a mapping of settings")
    return values


def apply_override(values: dict[str, Any], override: str) -> None:
    """Puts `dotted.key=value` over the values. Raises: UserError where it is none, or leads through no section."""
    key, equals, text = override.partition("=")
    (shown,) = hidden_in_arguments([override])
    if not equals or not key.strip():
        raise UserError(f"--set {shown}: expected key=value, such as train.epochs=2")
    try:
        value = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        if shown != override:
            raise UserError(f"--set {shown}: malformed value") from error
        braces = text.startswith(("{", "[")) and '"' not in text
        quote = f"; a text with braces or brackets needs quotes: --set '{key}=\"{text}\"'" if braces else ""
        raise UserError(f"--set {shown}: malformed value: {' '.join(str(error).split())}{quote}") from error
    *parents, last = _key_parts(key.strip())
    section = values
    for depth, parent in enumerate(parents):
        if section.get(parent) is None:
            section[parent] = {}
        section = section[parent]
        if not isinstance(section, dict):
            raise UserError(f"--set {shown}: '{'.'.join(parents[: depth + 1])}' is not a section")
    if value is None and isinstance(section.get(last), Mapping):
        del section[last]  # as in a file that extends another
    else:
        section[last] = value


def _key_parts(key: str) -> list[str]:
    """Splits a dotted key; the keys of Spark's own settings hold dots themselves."""
    conf = "spark.conf."
    return ["spark", "conf", key.removeprefix(conf)] if key.startswith(conf) else key.split(".")


_FEATURE_KINDS, _NEGATIVE_KINDS = kinds_of(Feature), kinds_of(Negatives)


def explain(error: ValidationError) -> Iterator[str]:
    """Yields one line a fault: the dotted key, what was found, what was expected."""
    unknown = {
        fault["loc"] for fault in error.errors() if fault["type"] == "value_error" and "unknown key" in fault["msg"]
    }
    for fault in error.errors():
        if fault["type"] == "extra_forbidden" and fault["loc"][:-1] in unknown:
            continue
        loc = tuple(str(part) for part in fault["loc"])
        kinds = _NEGATIVE_KINDS if loc[:2] == ("samples", "negatives") else _FEATURE_KINDS
        tag = 3 if kinds is _NEGATIVE_KINDS else 2  # where pydantic puts the kind behind the name
        place = ".".join(part for n, part in enumerate(loc) if n != tag or part not in kinds) or "settings"
        message = re.sub(r"^(Value error|Assertion failed), ", "", fault["msg"])
        if fault["type"] == "missing":
            yield f"{place}: required, but not given"
        elif fault["type"] in ("value_error", "extra_forbidden"):
            yield f"{place}: {message}"
        elif fault["type"] in ("union_tag_not_found", "union_tag_invalid"):
            found = fault["input"].get("kind") if isinstance(fault["input"], Mapping) else None
            hint = did_you_mean(str(found), kinds) if found else f" (known: {', '.join(kinds)})"
            what = "feature" if kinds is _FEATURE_KINDS else "negatives"
            yield f"{place}.kind: found {found!r}, expected the kind of the {what}{hint}"
        else:
            found = HIDDEN if loc[:2] == ("spark", "secrets") else hidden_in("".join(loc[-1:]), fault["input"])
            yield f"{place}: found {found!r}: {message[:1].lower()}{message[1:]}"
