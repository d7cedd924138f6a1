"""What a reader of a run's report should look at first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dssm.decisions import unheard
from dssm.evaluation import MODEL, VIEWS
from dssm.report.decoding import percent
from dssm.report.run_evaluation import best_baseline, cutoff_of, interval_text
from dssm.report.run_facts import RunFacts
from dssm.report.run_vectors import VectorFacts

SKEWED = 3.0  # hubness above which a reader is pointed to it
Remark = tuple[str, str]
"""(section, sentence)."""


def remarks(facts: RunFacts, vectors: VectorFacts | None) -> Iterator[Remark]:
    """Yields what stands out, the gravest first."""
    for job, refusal in facts.refusals.items():
        yield "gates" if refusal.gates else "pipeline", f"{job} refused: {refusal.reason}"
    for warning in facts.warnings:
        yield "pipeline", warning
    for name, found in facts.tables.items():
        if found.manifest.overridden:
            yield "gates", f"The table of {name} was published by force: {'; '.join(found.manifest.overridden)}"
        for told in unheard(found.manifest.gates):
            yield "gates", f"The table of {name} was published, but {told}"
        unread, lost = (sum(rows.values()) for rows in (found.manifest.quarantined, found.manifest.not_encoded))
        if unread:
            yield "gates", f"{unread:,} {name} could not be read and are not in the table"
        if lost:
            yield "gates", f"{lost:,} of {found.manifest.catalogue_rows:,} rows of the catalogue could not be encoded"
    if facts.evaluation is not None:
        yield from _of_evaluation(facts, facts.evaluation)
    if facts.model is not None:
        yield from _of_training(facts)
    is_told = "index_items" in facts.refusals
    for sink in facts.index.sinks if facts.index is not None and not is_told else ():
        for failure in sink.failures:
            yield "indexes", failure
    if vectors is not None:
        yield from _of_vectors(vectors)


def _of_evaluation(facts: RunFacts, found: Mapping[str, Any]) -> Iterator[Remark]:
    metric = cutoff_of(facts)
    for view, title in VIEWS.items():
        best = best_baseline(found, metric, view) if view in found else None
        model = found[view][MODEL].get(metric) if best is not None else None
        if best is None or model is None:
            continue
        name, value = best[0].replace("_", " "), best[1]
        bounds = found.get("intervals", {}).get(view, {}).get(MODEL, {}).get(metric)
        told = f"{metric} with {title}"
        if model < value:
            yield "evaluation", f"{told}: {name} is better, {value:.3f}; the model has {model:.3f}"
        elif bounds is not None and bounds[0] is not None and bounds[0] <= value:
            yield (
                "evaluation",
                f"{told}: {name}, {value:.3f}, lies within the model's interval, {interval_text(bounds)}",
            )


def _of_training(facts: RunFacts) -> Iterator[Remark]:
    assert facts.model is not None
    losses = facts.model.loss
    if len(losses) > 1 and losses[-1] > min(losses):
        yield "training", f"The loss rose after epoch {losses.index(min(losses)) + 1}"


def _of_vectors(found: VectorFacts) -> Iterator[Remark]:
    norms = found.norms
    if norms.not_finite or norms.zeros:
        yield "vectors", f"{norms.not_finite:,} vectors are not finite, {norms.zeros:,} are all zeros"
    if found.hubs is not None and found.hubs.skewness > SKEWED:
        never = percent(found.hubs.never / len(found.hubs.counts))
        yield "vectors", f"Some items are hubs: skewness {found.hubs.skewness:.1f}, and {never} are nobody's neighbour"
