"""The API reference, made from signatures and docstrings of what code outside this project meets.

`make reference` writes docs/api.md. Sources are read as text: neither Spark nor TensorFlow is imported.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PAGE = PROJECT / "docs" / "api.md"

HEAD = """# API

What code outside this project meets: the jobs as functions, what a run's folders hold, and the families that take kinds
of your own. This page is made from signatures and docstrings (`make reference`); all else may change without notice.
The [configuration](configuration.md) has the settings.
"""

# Section → what opens it, and module → names, in the order of the page.
SECTIONS: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "Jobs": (
        "Each takes settings, and a Spark session where it needs one; `jobs/` shows how they are called.",
        {
            "dssm.config": ("load_settings",),
            "dssm.spark": ("spark_session",),
            "dssm.samples.build": ("build_samples",),
            "dssm.train.launch": ("train",),
            "dssm.retrieval.evaluate": ("evaluate",),
            "dssm.scoring.items": ("score_items",),
            "dssm.scoring.users": ("score_users",),
            "dssm.retrieval.index": ("index_items",),
            "dssm.errors": ("UserError", "GateError"),
        },
    ),
    "What a run holds": (
        "Readers of samples, towers and published tables.",
        {
            "dssm.paths": ("RunPaths",),
            "dssm.manifest": (
                "Manifest",
                "ColumnSpec",
                "VocabularySpec",
                "SourceCounts",
                "read_manifest",
                "data_files",
            ),
            "dssm.packing": ("pack", "unpack", "unpack_all"),
            "dssm.model.manifest": ("ModelManifest", "read_model_manifest"),
            "dssm.report.card_parts": ("PredictionCard",),
            "dssm.model.export": ("LoadedTower", "LoadedRawTower", "LoadedScorer", "raw_tensors"),
            "dssm.published": ("Published", "PublishedManifest", "current", "versions", "batches", "load"),
        },
    ),
    "Kinds of your own": (
        "A subclass of a family is a choice from the moment it is imported; the setting `plugins` imports it.",
        {
            "dssm.strict": ("Kind", "StrictModel"),
            "dssm.sections.losses": ("LossKind",),
            "dssm.model.losses": ("Scored", "Candidates", "Sampled"),
            "dssm.sections.model": ("TowerKind",),
            "dssm.model.towers": ("TowerContext",),
            "dssm.model.inputs": ("FeatureBlock",),
            "dssm.encoders": ("EncoderKind",),
            "dssm.sections.optimizers": ("OptimizerKind", "ScheduleKind"),
            "dssm.sections.indexing": ("SinkKind",),
            "dssm.retrieval.sinks": ("Sink", "Opened", "Place", "Vectors", "Hits"),
        },
    ),
    "Metrics": ("Plain NumPy.", {"dssm.metrics": ("auc", "ScoreCounts", "binary_metrics", "ranking_metrics")}),
}

_PART = re.compile(r"(Args|Returns|Yields|Raises|Grain): ")

Definition = ast.FunctionDef | ast.ClassDef


def page() -> str:
    """Returns the reference as Markdown."""
    lines = [HEAD]
    for section, (opening, modules) in SECTIONS.items():
        lines += [f"## {section}\n", f"{opening}\n"]
        for module, names in modules.items():
            lines += [line for name in names for line in _entry(module, name)]
    return "\n".join(lines).rstrip() + "\n"


def _entry(module: str, name: str) -> Iterator[str]:
    found = _definition(module, name)
    yield f"### `{module}.{name}`\n"
    yield f"```python\n{_as_written(_head(found))}\n```\n"
    if words := _docstring(found):
        yield f"{words}\n"
    if isinstance(found, ast.ClassDef):
        for method in found.body:
            if isinstance(method, ast.FunctionDef) and method.name[0] != "_" and (words := _docstring(method)):
                yield f"**`{_called(method)}`** — {words}\n"


def _definition(module: str, name: str) -> Definition:
    """Raises: LookupError where the module defines no such thing."""
    path = PROJECT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, Definition) and node.name == name:
            return node
    raise LookupError(f"{path.relative_to(PROJECT)} defines no {name}, which the API reference names")


def _head(node: Definition) -> str:
    """Returns a function's signature, or a class with its fields."""
    if isinstance(node, ast.FunctionDef):
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        return f"def {node.name}({ast.unparse(node.args)}){returns}"
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    fields = [f"    {field}" for field in _fields(node)]
    return "\n".join([f"class {node.name}{f'({bases})' if bases else ''}{':' if fields else ''}", *fields])


def _as_written(code: str) -> str:
    """Returns code of `ast.unparse` in the project's format: defaults between spaces, double quotes."""
    return re.sub(r"(?<=[\w\])])=(?=\S)", " = ", code).replace("'", '"')


def _fields(node: ast.ClassDef) -> Iterator[str]:
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.target.id[0] != "_":
            default = f" = {ast.unparse(field.value)}" if isinstance(field.value, ast.Constant) else ""
            yield f"{field.target.id}: {ast.unparse(field.annotation)}{default}"


def _called(method: ast.FunctionDef) -> str:
    """Returns a method as it is called, a property as it is read."""
    if any(isinstance(mark, ast.Name) and mark.id == "property" for mark in method.decorator_list):
        return method.name
    arguments = [argument.arg for argument in (*method.args.args, *method.args.kwonlyargs)]
    return f"{method.name}({', '.join(arguments[1:])})"


def _docstring(node: Definition) -> str:
    """Returns the docstring as Markdown: its arguments and attributes as items, each part in a paragraph of its own."""
    lines: list[str] = []
    in_list = False
    for line in inspect.cleandoc(ast.get_docstring(node) or "").splitlines():
        text = line.strip()
        if not line.startswith(" "):
            in_list = text in ("Args:", "Attributes:")
            lines += ["", f"{text}\n"] if in_list else ["", text] if _PART.match(text) else [text]
        elif in_list and line[2:3] != " ":
            name, _, words = text.partition(": ")
            lines.append(f"- `{name}`: {words}")
        else:
            lines.append(f"  {text}" if in_list else text)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
