"""Which rows a training passes over, and how often: the epochs, then the last pass over the newest rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dssm.config import Settings
from dssm.errors import UserError
from dssm.manifest import Manifest, read_manifest
from dssm.paths import RunPaths
from dssm.stream.batches import ALL_ROWS, Reading, Span
from dssm.stream.plan import Leg, plan_epoch, rows_done
from dssm.train.shares import ITEM_ROW_PROBABILITY, Shares, catalogue_shares, rows_within


@dataclass(frozen=True)
class Pass:
    """One reading of rows.

    Attributes:
      number: of the epoch, from 0.
      file_rows: rows of each file.
      span: of the events; rows of others are left out.
      shares: of the items in it, where the samples' own are others.
    """

    number: int
    file_rows: tuple[int, ...]
    span: Span
    shares: Shares

    @property
    def rows(self) -> int:
        return sum(self.file_rows)

    def reading(self, seed: int, legs: Sequence[Leg]) -> Reading:
        """Returns what is left to read, by the ranks of the last leg."""
        *before, leg = legs
        done = rows_done(self.file_rows, seed, self.number, before)
        left = [rows - seen for rows, seen in zip(self.file_rows, done, strict=True)]
        plan = plan_epoch(left, seed, self.number, leg.ranks, leg.batch_size, len(before))
        return Reading(plan, (seed, self.number), self.span, done, leg.steps)


@dataclass(frozen=True)
class Passes:
    """Attributes: epochs: over all rows but those of the validation; recent: the last pass's."""

    epochs: list[Pass]
    recent: list[Pass]
    validation: Pass | None

    @property
    def all(self) -> list[Pass]:
        return [*self.epochs, *self.recent]


def plan_passes(settings: Settings, samples: Manifest) -> Passes:
    """Raises: UserError where a pass has no rows."""
    train, folder = settings.train, RunPaths(settings.run_folder).part("train")
    span, rows = ALL_ROWS, [file.rows for file in samples.files]
    shares: Shares = {}
    validation = None
    if train.validation is not None:
        start = settings.day_start_ms(-train.validation.days)
        held = rows_within(folder, samples, Span(since=start), train.staging)
        if not sum(held.files):
            raise UserError(_no_rows("train.validation.days", folder, train.validation.days))
        validation = Pass(0, tuple(held.files), Span(since=start), held.shares)
        span = Span(until=start)
        kept = rows_within(folder, samples, span, train.staging)
        if not sum(kept.files):
            raise UserError(
                f"train.validation.days: {folder} has no rows before the last {train.validation.days} days; "
                "nothing is left to train on: lower it, or raise window.train_days"
            )
        rows, shares = kept.files, kept.shares
    elif any((o.loss or train.loss).draws_all_rows for o in settings.model.all_objectives.values()):
        items = RunPaths(settings.run_folder).part("items")
        shares = {ITEM_ROW_PROBABILITY: catalogue_shares(items, read_manifest(items, "build_samples"), train.staging)}
    epochs = [Pass(number, tuple(rows), span, shares) for number in range(train.epochs)]
    if train.recent is None:
        return Passes(epochs, [], validation)
    newest = Span(since=settings.day_start_ms(-train.recent.days))
    recent = rows_within(folder, samples, newest, train.staging)
    if not sum(recent.files):
        raise UserError(_no_rows("train.recent.days", folder, train.recent.days))
    numbers = range(train.epochs, train.epochs + train.recent.epochs)
    return Passes(epochs, [Pass(number, tuple(recent.files), newest, recent.shares) for number in numbers], validation)


def _no_rows(key: str, folder: str, days: int) -> str:
    return f"{key}: {folder} has no rows of the last {days} days"
