"""The page of a run's report: one file that needs nothing else, not even a network."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

import yaml

from dssm.config import Settings
from dssm.decisions import tally
from dssm.evaluation import KEPT, MODEL
from dssm.report import run_evaluation, run_model, run_tables, run_vectors
from dssm.report.html import Html, document, join, note, number_cell, table, tag, text_cell, words_cell
from dssm.report.item_words import Items
from dssm.report.pipeline_picture import picture
from dssm.report.run_facts import RunFacts
from dssm.report.run_remarks import Remark, remarks
from dssm.report.run_style import RUN_STYLE
from dssm.report.run_vectors import VectorFacts
from dssm.report.style import STYLE
from dssm.report.vector_map import SCRIPT
from dssm.secrets import hidden_in
from dssm.units import seconds_shown

PACKAGES = (
    "tensorflow", "keras", "horovod", "petastorm", "pyspark", "pyarrow", "numpy", "pandas", "pydantic", "scikit-learn",
    "faiss-cpu", "annoy", "pymilvus", "milvus-lite", "redis", "mlflow-skinny",
)  # fmt: skip

Section = tuple[str, str, Html | None]


def page(facts: RunFacts, items: Items, vectors: VectorFacts | None) -> str:
    """Returns the whole page."""
    category = items.category.name if items.category is not None else None
    given: list[Section] = [
        ("pipeline", "Pipeline", join([picture(facts), _jobs(facts)])),
        ("training", "Training", run_evaluation.training(facts)),
        ("model", "Model", run_model.model(facts)),
        ("evaluation", "Evaluation", run_evaluation.evaluation(facts)),
        ("vectors", "Item vectors", _vectors(facts, vectors, category)),
        ("examples", "Examples", run_tables.examples(facts, items)),
        ("gates", "Gates", run_tables.gates(facts)),
        ("indexes", "Indexes", run_tables.indexes(facts)),
        ("settings", "Settings", _settings(facts.settings)),
        ("versions", "Versions", _versions(facts)),
        ("missing", "Not in this report", _missing(facts)),
    ]
    sections = [(key, name, content) for key, name, content in given if content is not None]
    title = f"{facts.settings.name} · {facts.run.manifest.date}"
    body = join(
        [
            tag("header", tag("h1", title), _subtitle(facts), _banner(facts)),
            _tiles(facts),
            _remarks(list(remarks(facts, vectors))),
            tag("nav", *[tag("a", name, href=f"#{key}") for key, name, _ in sections], aria_label="sections"),
            tag(
                "main",
                *[
                    tag("section", tag("h2", name, id=key), content, aria_labelledby=key)
                    for key, name, content in sections
                ],
            ),
        ]
    )
    return document(title, "report", STYLE + RUN_STYLE, body, SCRIPT if vectors is not None else None)


# The top -----------------------------------------------------------------------------------------------


def _subtitle(facts: RunFacts) -> Html:
    days = facts.run.settings.window_days()
    train = [day for day in days if day < facts.run.settings.date]
    test = [day for day in days if day >= facts.run.settings.date]
    spans = [f"{of[0]}" if len(of) == 1 else f"{of[0]} to {of[-1]}" for of in (train, test) if of]
    model = f" Model {facts.model.model_version}." if facts.model is not None else ""
    return note(f"Report of the run: trained on {spans[0]}, tested on {spans[-1]}.{model}")


def _banner(facts: RunFacts) -> Html:
    """Says in one line whether readers of the item table get this run's vectors."""
    items, refusal = facts.items, facts.refusals.get("score_items")
    if refusal is not None:
        kept = "" if items is None else f" Version {items.manifest.version} stays."
        return tag("p", tag("b", "Not published: "), f"{refusal.reason}.{kept}", class_="banner bad")
    if items is None:
        return tag("p", tag("b", "Not published yet."), " Run score_items for this date.", class_="banner")
    manifest = items.manifest
    told = f" {manifest.rows:,} vectors in {manifest.table}, dt={manifest.date}, version {manifest.version}"
    if manifest.overridden:
        return tag(
            "p",
            tag("b", "Published by force."),
            f"{told}, over {len(manifest.overridden)} of {len(manifest.gates)} gates.",
            class_="banner warn",
        )
    gates = f"; {tally(manifest.gates)}" if manifest.gates else ""
    return tag("p", tag("b", "Published."), f"{told}{gates}.", class_="banner good")


def _tiles(facts: RunFacts) -> Html:
    tiles: list[tuple[Any, str]] = [(f"{facts.rows['train']:,}", "training rows")] if "train" in facts.rows else []
    if facts.evaluation is not None:
        tiles += _recall_tiles(facts, facts.evaluation)
    if facts.items is not None:
        tiles.append((f"{facts.items.manifest.rows:,}", "item vectors published"))
    elif "items" in facts.rows:
        tiles.append((f"{facts.rows['items']:,}", "items in the catalogue"))
    if facts.index is not None and facts.index.sinks:
        recall = [min(sink.recall.values()) for sink in facts.index.sinks if sink.recall]
        if recall:
            one = len(facts.index.sinks) == 1
            tiles.append((f"{min(recall):.4f}", "least recall of the index" if one else "least recall of the indexes"))
    if facts.used:
        tiles.append((seconds_shown(sum(used.seconds for used in facts.used.values())), "all jobs together"))
    drawn = [tag("div", tag("b", value), tag("span", what), class_="tile") for value, what in tiles]
    return tag("div", *drawn, class_="tiles")


def _recall_tiles(facts: RunFacts, found: Mapping[str, Any]) -> Iterator[tuple[Any, str]]:
    metric, kept = run_evaluation.cutoff_of(facts), found[KEPT]
    bounds = found.get("intervals", {}).get(KEPT, {}).get(MODEL, {}).get(metric)
    told = run_evaluation.interval_text(bounds)
    value = kept[MODEL].get(metric)
    if value is not None:
        yield f"{value:.3f}", f"{metric} of the model" + (f" ({told})" if told else "")
    best = run_evaluation.best_baseline(found, metric)
    if best is not None:
        yield f"{best[1]:.3f}", f"{metric} of {best[0].replace('_', ' ')}, the best baseline"


def _remarks(found: Sequence[Remark]) -> Html:
    if not found:
        return tag("p", "Nothing stands out.", class_="good")
    listed = tag("ul", *[tag("li", tag("a", text, href=f"#{section}")) for section, text in found])
    return join([tag("h3", "Look at first"), listed])


# Sections ----------------------------------------------------------------------------------------------


def _jobs(facts: RunFacts) -> Html:
    if not facts.used:
        return note("No job left its time here: they are kept since this run was made.")
    rows = [
        (
            job,
            [
                number_cell(f"{used.began:%Y-%m-%d %H:%M:%S}"),
                number_cell(seconds_shown(used.seconds)),
                number_cell(f"{used.peak_bytes / 2**30:.2f}"),
                text_cell(used.peak_process),
            ],
        )
        for job, used in facts.used.items()
    ]
    heads = ["job ", "began, UTC", "took", "largest process, GiB", "which "]
    return tag("details", tag("summary", "Time and memory of the jobs"), table(heads, rows))


def _vectors(facts: RunFacts, found: VectorFacts | None, category: str | None) -> Html | None:
    if found is None or facts.items is None:
        return None
    parts = [
        run_vectors.vector_map(found, category),
        run_vectors.hubs(found),
        run_vectors.norms(found, facts.items, facts.settings.item_table.norm_tolerance),
    ]
    return join(part for part in parts if part is not None)


def _settings(settings: Settings) -> Html:
    changed, given = shown_settings(settings, changed=True), shown_settings(settings, changed=False)
    return join(
        [
            tag(
                "details",
                tag("summary", "What differs from the defaults"),
                tag("pre", _yaml(changed)),
                class_="printed",
            ),
            tag("details", tag("summary", "All settings"), tag("pre", _yaml(given))),
        ]
    )


def _yaml(values: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
    return text


def shown_settings(settings: Settings, changed: bool) -> dict[str, Any]:
    """Returns settings for reading, without what may be a secret.

    Args:
      changed: only those that differ from their defaults; a choice keeps its `kind`.
    """
    # Spark's own may hold secrets under any name: they are written nowhere.
    full = settings.model_dump(mode="json", exclude={"spark"})
    given = settings.model_dump(mode="json", exclude={"spark"}, exclude_defaults=True) if changed else full
    shown: dict[str, Any] = hidden_in("", _shown(given, full))
    for feature in shown["features"].values():
        feature.pop("name", None)  # its key in the YAML
    return shown


def _shown(given: Any, full: Any) -> Any:
    if isinstance(given, dict):
        kind = {"kind": full["kind"]} if "kind" in full and "kind" not in given else {}
        found = {**kind, **given}
        return {key: _shown(value, full[key]) for key, value in found.items()}
    if isinstance(given, list):
        return [_shown(value, of) for value, of in zip(given, full, strict=True)]
    return given


def _versions(facts: RunFacts) -> Html:
    given = [("samples", f"build {facts.run.manifest.build}")]
    given += [(f"samples/{part}", f"manifest {digest}") for part, digest in facts.data.items()]
    if facts.model is not None:
        given.append(("model", facts.model.model_version))
    for name, found in facts.tables.items():
        given.append((f"table of {name}", f"{found.manifest.table}, version {found.manifest.version}"))
    if facts.index is not None:
        given.append(("indexes", f"of version {facts.index.version}"))
    packages = [("Python", platform.python_version()), *_packages()]
    return tag(
        "div",
        tag("div", tag("h3", "Of the run"), _pairs(["what ", "which "], given)),
        tag("div", tag("h3", "Of the packages that wrote this page"), _pairs(["package ", "version "], packages)),
        class_="plots",
    )


def _pairs(heads: Sequence[str], given: Sequence[tuple[str, str]]) -> Html:
    return table(heads, [(what, [tag("td", value, class_="digest")]) for what, value in given])


def _packages() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue


def _missing(facts: RunFacts) -> Html | None:
    if not facts.missing:
        return None
    rows = [(one.what, [text_cell(tag("code", one.job)), words_cell(one.why)]) for one in facts.missing]
    return table(["part ", "made by ", "why it is not here "], rows)
