"""The versions of a run's table at its date, and what a publish made, as a person sees them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from dssm import published
from dssm.console import out
from dssm.errors import UserError
from dssm.manifest import read_manifest
from dssm.paths import RunPaths
from dssm.published import Published, PublishedManifest

CURRENT_MARK = "●"


def show_versions(paths: RunPaths, table: str) -> None:
    """Prints the versions of a table at the run's date, the oldest first.

    Args: table: `items` or `users`.
    Raises: UserError where none was published.
    """
    location = published.run_table(paths.folder, table)
    date = read_manifest(paths.part(table), "build_samples").date
    known = published.versions(location, date)
    if not known:
        raise UserError(f"{location}: no version of {date} is published; run score_{table} for this date first")
    try:
        pointer = published.read_pointer(location, date)
    except UserError as error:
        pointer = None
        out.print(str(error), style="yellow", markup=False)
    out.print(table_of_versions(known, pointer.version if pointer is not None else None))
    for version in known:
        for reason in version.manifest.overridden:
            out.print(f"  {version.manifest.version} was forced: {reason}", markup=False)
    out.print(f"  {location}/{published.DATE_FOLDER}{date}")


def table_of_versions(known: Sequence[Published], current: str | None) -> Table:
    """Returns one row a version, the current one marked."""
    first = known[0].manifest
    drawn = Table(title=f"{first.table} dt={first.date}: {CURRENT_MARK} is current", title_justify="left")
    for column in ("", "version", "model", "rows", "quarantined", "metric", "made at (UTC)", "forced"):
        number = column in ("rows", "quarantined")
        drawn.add_column(column, justify="right" if number else "left", overflow="fold", no_wrap=number)
    for version in known:
        made = version.manifest
        drawn.add_row(
            CURRENT_MARK if made.version == current else "",
            made.version,
            made.model_version,
            f"{made.rows:,}",
            f"{sum(made.quarantined.values()):,}",
            _metric(made),
            f"{made.at:%Y-%m-%d %H:%M:%S}",
            "yes" if made.forced else "",
        )
    return drawn


def remarks_of(manifest: PublishedManifest) -> list[str]:
    """Returns what a publish says of the rows."""
    remarks = [f"{manifest.rows:,} {manifest.side}s"]
    if manifest.previous is not None:
        remarks.append(f"{manifest.scored:,} scored, {manifest.copied:,} taken from {manifest.previous}")
    if manifest.least_drift is not None:
        drift, whose = manifest.least_drift
        remarks.append(f"mean cosine to its {whose} {drift:.4f}")
    if manifest.incomparable is not None:
        remarks.append(manifest.incomparable)
    aside = (("quarantined", manifest.quarantined), ("rows of the catalogue not encoded", manifest.not_encoded))
    for what, rows in aside:
        if rows:
            told = ", ".join(f"{count:,} {reason}" for reason, count in rows.items())
            remarks.append(f"{sum(rows.values()):,} {what} ({told})")
    return remarks


def _metric(made: PublishedManifest) -> str:
    value = None if made.metric is None else made.metrics.get(made.metric)
    return "" if value is None else f"{made.metric} {value:.4f}"
