"""compare: evaluations of several runs on the same users in one table, or the rankers of one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console, RenderableType

from dssm.errors import UserError, did_you_mean
from dssm.evaluation import DEFAULT_METRIC, FILTERED, HEADLINE, KEPT, MODEL, VIEWS, recalls
from dssm.model.manifest import read_model_manifest
from dssm.narrow_tables import drawn_table
from dssm.paths import RunPaths
from dssm.retrieval.bootstrap import LEVEL, Difference, difference, interval
from dssm.retrieval.evaluated import DIGESTS, Evaluation, read_evaluation, what_differs


@dataclass(frozen=True)
class Compared:
    """One row: a run's model, or one of its rankers."""

    name: str
    evaluation: Evaluation
    ranker: str

    def metrics(self, view: str) -> dict[str, float | None]:
        found: dict[str, float | None] = self.evaluation.result[view][self.ranker]
        return found

    def means(self, view: str, metric: str) -> np.ndarray:
        """Returns a metric and its replicates, (1 + replicates,); of coverage there are none."""
        replicates = self.evaluation.replicates
        if metric not in replicates.metrics:
            return np.array([self.metrics(view)[metric]], float)
        return replicates.means(view, self.ranker, metric)


def compare(runs: Sequence[tuple[str, RunPaths]], out: Console, metric: str | None, filtered: bool) -> None:
    """Prints each run's metrics, its difference to the first run and whether that could be chance.

    Of one run, its rankers are compared with its model. An evaluation of another model than the run's now is told.

    Args:
      runs: what they are called, and where they lie.
      metric: the one that rows are ordered by, best first; default: the first run's headline where it is there, else
        the first recall.
      filtered: whether seen items are.
    Raises: UserError where a run has no evaluation, or one of other users or another catalogue; or has no such metric.
    """
    named = _named(runs)
    evaluations = [read_evaluation(paths, name) for name, paths in named]
    for other in evaluations[1:]:
        differs = what_differs(evaluations[0], other, DIGESTS if filtered else DIGESTS[:-1])
        if differs:
            raise UserError(
                f"RUN {other.run}: not comparable with {evaluations[0].run}: {differs}; expected runs that were "
                "evaluated on the same users and the same catalogue"
            )
    view = FILTERED if filtered else KEPT
    rows = _rows(evaluations, view)
    names = [name for name in rows[0].metrics(view) if all(name in row.metrics(view) for row in rows)]
    shown = evaluations[0].result.get(HEADLINE, DEFAULT_METRIC)
    of_recall = recalls(names)
    if metric is None and not of_recall:
        raise UserError("these evaluations share no metric; run evaluate for them with the same evaluate.cutoffs")
    chosen = metric or (shown if shown in names else of_recall[0])
    if chosen not in names:
        raise UserError(f"--metric {chosen}: these evaluations don't share it" + did_you_mean(chosen, names))
    out.print(_table(rows, view, chosen, names, out.width), crop=False)
    for evaluation, (_, paths) in zip(evaluations, named, strict=True):
        if stale := _stale(evaluation, paths):
            out.print(stale, style="yellow", markup=False)


def _named(runs: Sequence[tuple[str, RunPaths]]) -> list[tuple[str, RunPaths]]:
    """Returns each run with NAME/DATE for its name, or as it was typed where two have the same."""
    short = ["/".join(paths.folder.split("/")[-2:]) for _, paths in runs]
    return [
        (name if short.count(name) == 1 else typed, paths) for name, (typed, paths) in zip(short, runs, strict=True)
    ]


def _stale(evaluation: Evaluation, paths: RunPaths) -> str | None:
    """Says that the run has another model by now; None where it has the one evaluated, or none that can be read."""
    evaluated = evaluation.result["model_version"]
    try:
        now = read_model_manifest(paths.model).model_version
    except UserError:
        return None
    if now == evaluated:
        return None
    return f"{evaluation.run}: evaluated model {evaluated}, its model is now {now}; run evaluate for it"


def _rows(evaluations: Sequence[Evaluation], view: str) -> list[Compared]:
    """Returns what is compared; the first is what the others differ from."""
    if len(evaluations) == 1:
        return [Compared(name, evaluations[0], name) for name in evaluations[0].result[view]]
    return [Compared(evaluation.run, evaluation, MODEL) for evaluation in evaluations]


def _table(rows: Sequence[Compared], view: str, metric: str, names: Sequence[str], width: int) -> RenderableType:
    first = rows[0]
    result, cutoff = first.evaluation.result, metric.partition("@")[2]
    others = sorted(
        (name for name in names if name.startswith("recall@") and name != metric),
        key=lambda name: int(name.partition("@")[2]),
    )
    others += [name for name in (f"ndcg@{cutoff}",) if name in names and name != metric]
    replicates = min(len(row.evaluation.replicates.sums[0, 0]) for row in rows) - 1
    users = result["users_filtered" if view == FILTERED else "users"]
    title = (
        f"{metric}, {VIEWS[view]}: {users:,} users, {result['items']:,} items; differences to {first.name}\n"
        f"{100 * LEVEL:.0f} % intervals and p of {replicates:,} paired replicates of the users; * p < {1 - LEVEL:.2g}"
    )
    shown = []
    for row in sorted(rows, key=lambda row: -(row.metrics(view)[metric] or 0.0)):
        marked = [_with_mark(row, first, view, name) for name in others]
        shown.append([row.name, _measured(row, view, metric), *_differing(row, first, view, metric), *marked])
    return drawn_table(title, ["", metric, "difference", "interval", "p", *others], shown, width)


def _measured(row: Compared, view: str, metric: str) -> str:
    value, (low, high) = row.metrics(view)[metric], interval(row.means(view, metric)[1:])
    return _number(value) if np.isnan(low) else f"{_number(value)} ±{(high - low) / 2:.4f}"


def _differing(row: Compared, first: Compared, view: str, metric: str) -> tuple[str, str, str]:
    if row is first:
        return "", "", ""
    found = _difference(row, first, view, metric)
    if np.isnan(found.p):
        return f"{found.value:+.4f}", "", ""
    return f"{found.value:+.4f}", f"{found.low:+.4f}…{found.high:+.4f}", f"{found.p:.3f}"


def _with_mark(row: Compared, first: Compared, view: str, metric: str) -> str:
    marked = row is not first and _difference(row, first, view, metric).p < 1 - LEVEL
    return _number(row.metrics(view)[metric]) + ("*" if marked else " ")


def _difference(row: Compared, first: Compared, view: str, metric: str) -> Difference:
    one, two = first.means(view, metric), row.means(view, metric)
    shared = min(len(one), len(two))  # of two numbers of replicates the first are the same
    return difference(one[:shared], two[:shared])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
