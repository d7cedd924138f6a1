"""The data report of a run: profile.html for a person, profile.json for the next date to compare with."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from rich.markup import escape

from dssm import storage
from dssm.console import out, step, table, warn
from dssm.errors import UserError
from dssm.features import embedded
from dssm.manifest import SourceCounts
from dssm.paths import DATASETS
from dssm.report.dataset import Run, open_run
from dssm.report.decoding import printable
from dssm.report.figures import Coverage, PartProfile, Profile
from dssm.report.measures import PartCounts
from dssm.report.page import page
from dssm.report.popularity import item_positives, popularity, popularity_groups
from dssm.report.runs import page_path, previous_run, profile_path

SAMPLES = ("train", "test")
EXAMPLES = 3  # quarantined rows shown of each reason
EXAMPLE_WIDTH = 300
WORST = 5


def profile(run: Run) -> Profile:
    """Measures a run, compares it with the previous date and writes profile.json and profile.html."""
    reference = previous_profile(run)
    measured = measure(run, reference)
    storage.write_text(profile_path(run.paths), measured.model_dump_json(indent=1) + "\n")
    storage.write_text(page_path(run.paths), page(measured, run.settings))
    _report(measured, page_path(run.paths))
    return measured


def measure(run: Run, reference: Profile | None) -> Profile:
    """Measures a run's datasets, one after the other.

    Args:
      reference: an earlier date's profile, for the drift.
    """
    with step(f"item popularity of {run.manifest.date}") as remarks:
        positives = item_positives(run)
        groups = popularity_groups(positives)
        remarks.append(f"{len(positives):,} items")
    parts, drift = {}, []
    for name in SAMPLES:
        with step(f"{name} samples of {run.manifest.date}") as remarks:
            counts = PartCounts(run, name, groups).read()
            parts[name] = counts.profile()
            if reference is not None and name in reference.parts:
                drift += counts.drift(reference.parts[name])
            remarks.append(f"{parts[name].rows:,} rows")
    return Profile(
        name=run.settings.name,
        date=run.manifest.date,
        build=run.manifest.build,
        previous=reference.date if reference is not None else None,
        rows={name: run.part(name).manifest.rows for name in DATASETS},
        sources=run.manifest.sources,
        joins=run.manifest.joins,
        nulls=run.manifest.nulls,
        quarantine=_quarantine(run),
        parts=parts,
        vocabularies=coverage(run, parts),
        popularity=popularity(positives),
        drift=sorted(drift, key=lambda found: -found.psi),
    )


def previous_profile(run: Run) -> Profile | None:
    """Returns the profile of the newest earlier date: as it was written, else measured now from its samples.

    It is measured again where it is of other samples than now lie there. None, with a remark, where there is
    no earlier date, or one that can't be read.
    """
    paths = previous_run(run.paths)
    if paths is None:
        out.print("[dim]no earlier date of this pipeline: no drift[/dim]")
        return None
    written = _written(profile_path(paths))
    try:
        earlier = open_run(paths)
    except UserError as error:
        if written is None:
            warn(f"no drift: {error}")
        return written
    if written is not None and written.build == earlier.manifest.build:
        return written
    out.print(f"{paths.folder} has no profile of its samples: measuring it first", style="dim", markup=False)
    try:
        return measure(earlier, None)
    except (UserError, OSError, ValueError) as error:  # damaged since: today's report must not fail for it
        warn(f"no drift: {paths.folder} can't be measured: {error}")
        return None


def _written(path: str) -> Profile | None:
    """Reads a profile.json; None where there is none, or one of another version."""
    if not storage.exists(path):
        return None
    try:
        return Profile.model_validate_json(storage.read_bytes(path))
    except ValidationError:
        return None


def coverage(run: Run, parts: dict[str, PartProfile]) -> dict[str, Coverage]:
    """Returns how much of the ids in the rows each vocabulary knows."""
    users: dict[str, list[str]] = {}
    for feature in embedded(run.settings.features):
        users.setdefault(feature.vocabulary, []).append(feature.name)
    return {
        name: Coverage(
            rule=run.vocabulary(name).rule,
            size=run.vocabulary(name).size,
            features=features,
            **{part: _known_share(found, features) for part, found in parts.items()},
        )
        for name, features in users.items()
    }


def _known_share(part: PartProfile, features: Sequence[str]) -> float | None:
    entries, unknown = (sum(getattr(part.features[name], what) for name in features) for what in ("entries", "unknown"))
    return 1 - unknown / entries if entries else None


def _quarantine(run: Run) -> dict[str, dict[str, list[str]]]:
    """Returns up to three quarantined rows of each source and reason."""
    return {name: _examples(run, name, counts) for name, counts in run.manifest.sources.items() if counts.quarantined}


def _examples(run: Run, source: str, counts: SourceCounts) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {reason: [] for reason in counts.quarantined}
    open_reasons = {reason for reason, rows in counts.quarantined.items() if rows}
    path = f"{run.paths.samples}/quarantine/{source}.json.gz"
    if not storage.exists(path):
        return found
    system, place = storage.filesystem(path)
    with system.open(place, "rb") as packed, gzip.open(packed, "rt", encoding="utf-8") as lines:
        for line in lines:
            if not open_reasons:
                break
            entry = json.loads(line)
            reason = entry.get("reason", "")
            if reason in open_reasons:
                found[reason].append(_shortened(entry.get("row")))
                if len(found[reason]) >= min(EXAMPLES, counts.quarantined[reason]):
                    open_reasons.discard(reason)
    return found


def _shortened(row: Any) -> str:
    text = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)
    return text if len(text) <= EXAMPLE_WIDTH else f"{text[:EXAMPLE_WIDTH]}…"


def _report(measured: Profile, path: str) -> None:
    if measured.drift:
        rows = [
            [f"{d.feature} ({d.measure}, {d.part})", f"{d.psi:.3f}", d.verdict, escape(printable(d.moved))]
            for d in measured.drift[:WORST]
        ]
        table(f"largest drifts since {measured.previous}", ["feature", "PSI", "reading", "moved most"], rows)
    out.print(path, markup=False)
