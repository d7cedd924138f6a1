"""Ids looked up one at a time, in arrays: without an object for each id."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dssm.errors import did_you_mean

NEIGHBOURS = 20  # in the order of the ids, on either side of a missing one: words that it may be meant for


class Lookup(Sequence[str]):
    """Ids in their order, (n,) text, each once, and where each stands."""

    def __init__(self, ids: pa.Array) -> None:
        self.ids = ids
        self._order = pc.sort_indices(ids).to_numpy()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, place: Any) -> Any:
        return self.ids[int(place)].as_py()

    def place(self, wanted: str) -> int | None:
        """Returns where an id stands; None where it is not there."""
        at = self._at(wanted)
        if at == len(self) or self[self._order[at]] != wanted:
            return None
        return int(self._order[at])

    def hint(self, wanted: str) -> str:
        """Returns what may have been meant by an id that is not there; see `did_you_mean`."""
        at = self._at(wanted)
        near = [self[place] for place in self._order[max(0, at - NEIGHBOURS) : at + NEIGHBOURS]]
        told = did_you_mean(wanted, near)
        return told if told.startswith(" (did") or len(near) <= 3 else f" (such as {', '.join(near[:3])})"

    def _at(self, wanted: str) -> int:
        """Returns the place in the sorted order that the id has, or would have; texts sort by their bytes."""
        return bisect.bisect_left(self._order, wanted.encode(), key=lambda place: self[place].encode())
