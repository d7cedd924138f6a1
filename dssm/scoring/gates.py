"""What must hold before a version goes out. Pure functions of what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dssm.decisions import NOT_COMPARABLE, NOT_MEASURED
from dssm.errors import GateError, UserError
from dssm.evaluation import MODEL
from dssm.published import NOT_FINITE, GateDecision, Pointer, PublishedManifest
from dssm.sections import Gate
from dssm.sections.publishing import PublishedTable

BASELINE, LAST = "better than the baseline", "no worse than the last version"
NOT_ROLLED_BACK = "not rolled back"
FIRST = "nothing that can be read was published before"
ROWS, NUMBERS, ZEROS, NORMS = "one row an id", "finite numbers", "no zero vectors", "norms"
UNREADABLE, DRIFT = "unreadable rows", "drift"
NOT_ENCODED = "unreadable rows of the catalogue"


def recall_gates(
    gate: Gate, setting: str, kept: Mapping[str, Mapping[str, Any]] | None, last: PublishedManifest | None, path: str
) -> list[GateDecision]:
    """Returns what the evaluation says.

    Args:
      setting: the table's section of the settings, such as item_table.
      kept: metrics of each ranker, seen items kept; None where there is no evaluation of this model.
      last: of the version published last; None where there is none.
      path: of evaluation.json, for messages.
    Raises: UserError where the evaluation has not what the gate asks for.
    """
    if kept is None:
        asked = [BASELINE] * (gate.better_than != "none") + [LAST] * (gate.margin is not None)
        reason = f"{NOT_MEASURED}: {path} holds no evaluation of this model on these samples"
        return [GateDecision(gate=name, passed=True, reason=reason) for name in asked]
    found = kept[MODEL].get(gate.metric)
    if found is None and (gate.better_than != "none" or gate.margin is not None):
        raise UserError(f"{setting}.gate.metric: {path} has no '{gate.metric}'; run evaluate again")
    decisions = []
    if gate.better_than != "none":
        decisions.append(_against_baseline(gate, setting, kept, path))
    if gate.margin is not None:
        decisions.append(_against_last(gate, setting, float(found or 0), last))
    return decisions


def _against_baseline(gate: Gate, setting: str, kept: Mapping[str, Mapping[str, Any]], path: str) -> GateDecision:
    if gate.better_than not in kept:
        raise UserError(
            f"{setting}.gate.better_than: {path} has no '{gate.better_than}'; expected one of {', '.join(kept)}"
        )
    found, bar = kept[MODEL][gate.metric], kept[gate.better_than].get(gate.metric)
    if bar is None:
        raise UserError(f"{setting}.gate.metric: {path} has no '{gate.metric}'; run evaluate again")
    reason = (
        f"the model's {gate.metric} is {found:.4f}, {gate.better_than} has {bar:.4f} ({setting}.gate.better_than: none "
        "publishes anyway)"
    )
    return _decided(BASELINE, found > bar, found, bar, reason)


def _against_last(gate: Gate, setting: str, found: float, last: PublishedManifest | None) -> GateDecision:
    if last is None:
        return GateDecision(gate=LAST, passed=True, found=found, reason=FIRST)
    before, margin = last.metrics.get(gate.metric), gate.margin
    assert margin is not None
    if before is None:
        reason = f"{NOT_COMPARABLE}: version {last.version} of {last.date} has no {gate.metric}"
        return GateDecision(gate=LAST, passed=True, found=found, reason=reason)
    bar = before * (1 - margin)
    reason = (
        f"the model's {gate.metric} is {found:.4f}, version {last.version} of {last.date} had {before:.4f}: more than "
        f"{setting}.gate.margin {margin:g} of it below"
    )
    return _decided(LAST, found >= bar, found, bar, reason)


def rollback_gates(pointer: Pointer | None, version: str, job: str) -> list[GateDecision]:
    """Returns a refusal where a rollback has left the version, so that a rerun does not undo it in silence.

    Args: pointer: of the date; None where there is none that can be read.
    """
    if pointer is None or version not in pointer.rolled_back:
        return []
    reason = (
        f"version {version} was rolled back, version {pointer.version} has been current since "
        f"{pointer.at:%Y-%m-%d %H:%M} UTC; {job} would move to {version} again"
    )
    return [GateDecision(gate=NOT_ROLLED_BACK, passed=False, reason=reason)]


def content_gates(table: PublishedTable, setting: str, made: PublishedManifest) -> list[GateDecision]:
    """Returns what a version's own rows say.

    Args:
      setting: the table's section of the settings.
      made: the version.
    """
    aside = sum(made.quarantined.values())
    unread = aside - made.quarantined.get(NOT_FINITE, 0)
    expected = made.samples_rows - aside
    share = unread / max(made.samples_rows, 1)
    decisions = [
        _decided(
            ROWS, made.rows == made.distinct == expected > 0, made.rows, expected,
            f"{made.rows:,} rows of {made.distinct:,} {made.side}s, expected one row for each of {expected:,} readable "
            f"{made.side}s of the samples" + ", and some" * (expected <= 0),
        ),
        _decided(
            NUMBERS, made.broken == 0, made.broken, 0,
            f"{made.broken:,} vectors are not {made.vector_dim} finite numbers",
        ),
        _decided(
            ZEROS, made.zeros == 0, made.zeros, 0,
            f"{made.zeros:,} of {made.rows:,} {made.side}s have a vector of zeros alone, such as "
            f"'{made.zero_example}': it scores 0 with everything",
        ),
        _decided(
            UNREADABLE, share <= table.max_quarantine_share, share, table.max_quarantine_share,
            f"{unread:,} of {made.samples_rows:,} rows can't be read ({_counted(made.quarantined)}), "
            f"{setting}.max_quarantine_share is {table.max_quarantine_share:g}",
        ),
    ]  # fmt: skip
    if made.catalogue_rows:
        lost = sum(made.not_encoded.values())
        reason = (
            f"build_samples could not read {lost:,} of {made.catalogue_rows:,} rows of the catalogue "
            f"({_counted(made.not_encoded)}), {setting}.max_quarantine_share is {table.max_quarantine_share:g}"
        )
        share, limit = lost / made.catalogue_rows, table.max_quarantine_share
        decisions.append(_decided(NOT_ENCODED, share <= limit, share, limit, reason))
    if made.norm is not None and made.norm_off is not None:
        reason = (
            f"a vector's norm is off {made.norm:.4g} by {made.norm_off:.2g}, {setting}.norm_tolerance is "
            f"{table.norm_tolerance:.2g}"
        )
        decisions.append(
            _decided(NORMS, made.norm_off <= table.norm_tolerance, made.norm_off, table.norm_tolerance, reason)
        )
    if table.min_drift_cosine is not None:
        decisions.append(_against_vectors(table.min_drift_cosine, setting, made))
    return decisions


def _against_vectors(limit: float, setting: str, made: PublishedManifest) -> GateDecision:
    if made.least_drift is None:
        reason = f"{NOT_COMPARABLE}: {made.incomparable or f'no row is in the files of {made.previous}'}"
        reason = FIRST if made.previous is None else reason
        return GateDecision(gate=DRIFT, passed=True, limit=limit, reason=reason)
    drift, whose = made.least_drift
    reason = (
        f"the mean cosine to the {whose} of {made.previous} is {drift:.4f}, {setting}.min_drift_cosine is {limit:g}"
    )
    return _decided(DRIFT, drift >= limit, drift, limit, reason)


def _counted(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if reason != NOT_FINITE)


def unmeasured(decisions: Sequence[GateDecision]) -> set[str]:
    """Returns the gates that had no evaluation to look at."""
    return {decision.gate for decision in decisions if decision.reason.startswith(NOT_MEASURED)}


def refused(decisions: Sequence[GateDecision]) -> list[str]:
    """Returns the reasons of the gates that refuse."""
    return [decision.reason for decision in decisions if not decision.passed]


def check(decisions: Sequence[GateDecision], forced: bool, aside: str | None = None) -> None:
    """Lets a version through, or not.

    Args: aside: where the rows lie that were put aside, if some were.
    Raises: GateError that says why the gates refuse; not where the version is forced through.
    """
    reasons = refused(decisions)
    if reasons and not forced:
        lines = [f"gate: {reason}" for reason in reasons]
        lines += [f"the rows that were put aside lie in {aside}, with their reasons"] * (aside is not None)
        raise GateError("\n".join([*lines, "the table keeps what it had; --force publishes anyway"]), decisions)


def _decided(gate: str, passed: bool, found: float, limit: float, reason: str) -> GateDecision:
    # JSON has no infinity.
    return GateDecision(
        gate=gate, passed=passed, found=found if math.isfinite(found) else None, limit=limit,
        reason="" if passed else reason,
    )  # fmt: skip
