"""A published table at a date, as publishing knows it: its settings, its folder, and what was published before."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from dssm import published
from dssm.console import warn
from dssm.errors import UserError
from dssm.published import VERSION_FOLDER, Pointer, Published, Side
from dssm.scoring.metastore import Metastore
from dssm.sections.publishing import PublishedTable


@dataclass(frozen=True)
class Table:
    """A table at a date.

    Attributes:
      section: its settings; `setting` is their name.
      name: of the table; `location`: its folder.
      metastore: None where readers go by the pointer alone.
      runs: folder of the pipeline's dates; None where their models are no concern.
      beside: locations of other tables of the same models.
      forced: whether this run publishes whatever the gates say.
    """

    side: Side
    section: PublishedTable
    setting: str
    name: str
    location: str
    date: str
    metastore: Metastore | None = None
    runs: str | None = None
    beside: Sequence[str] = ()
    forced: bool = False

    def folder(self, version: str) -> str:
        return published.version_folder(self.location, self.date, version)

    def last(self, version: str) -> Published | None:
        """Returns what was published last before a version: of its date, else of the newest date before it.

        What can't be read is told and passed over.
        """
        current = self._current(self.date)
        if current is not None and current.manifest.version != version:
            return current
        earlier = (date for date in reversed(published.dates(self.location)) if date < self.date)
        return next(filter(None, map(self._current, earlier)), None)

    def _current(self, date: str) -> Published | None:
        try:
            return published.current(self.location, date)
        except UserError as error:
            warn(f"  {error}; it is passed over")
            return None

    def pointer(self) -> Pointer | None:
        """Returns what `_current` says; None where it is not there, or can't be read."""
        with contextlib.suppress(UserError):
            return published.read_pointer(self.location, self.date)
        return None

    def points_at(self, version: str) -> bool:
        """Whether `_current` names a version of the date."""
        pointer = self.pointer()
        return pointer is not None and pointer.version == version

    def is_seen(self, version: str) -> bool:
        """Whether readers see a version of the date, by `_current` or in the metastore."""
        in_metastore = self.metastore is not None and is_of(self.metastore.location(self.date), version)
        return in_metastore or self.points_at(version)

    def check_dtype(self, last: Published | None) -> None:
        """Raises: UserError where the table's vectors are of another dtype, at the date before, or else at a later."""
        if last is None:
            later = (date for date in published.dates(self.location) if date > self.date)
            last = next(filter(None, map(self._current, later)), None)
        if last is not None and last.manifest.dtype != self.section.dtype:
            raise UserError(
                f"{self.setting}.dtype: found {self.section.dtype}, version {last.manifest.version} of "
                f"{last.manifest.date} in {self.location} holds {last.manifest.dtype}; expected one dtype for all "
                "dates of a table: set it back, or name another table and location"
            )


def is_of(place: str | None, version: str) -> bool:
    """Whether a place that a metastore names is in a version's folder. Args: place: None where it names none.

    >>> is_of("file:/table/dt=2024-01-08/version=v1/data", "v1"), is_of(None, "v1")
    (True, False)
    """
    return place is not None and f"/{VERSION_FOLDER}{version}/" in f"{place}/"
