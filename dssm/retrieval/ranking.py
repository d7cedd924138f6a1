"""What a task of `evaluate` does with a block of users, and what the blocks' findings add up to. No Spark."""

from __future__ import annotations

import itertools
import pickle
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from dssm.evaluation import FILTERED, KEPT, MODEL, POPULARITY
from dssm.manifest import NO_ITEM
from dssm.retrieval.arrays import gathered
from dssm.retrieval.bootstrap import SEED, poisson_weights
from dssm.retrieval.rankers import COLD_ITEMS, ITEM_KEYS, Block, Rankers
from dssm.retrieval.search import Ranked, Scores, best_items, contains, pairs
from dssm.retrieval.tally import TENTHS, ItemGroups, Tally, UserGroups, popularity_tenths
from dssm.samples.splitmix import mixed, uniforms

COLD = "cold_users"  # beside the views: users without an event before the window
EXAMPLE_ITEMS = 10  # recommended to an example's user
USERS, RELEVANT, RELEVANT_UNSEEN = "users", "relevant", "relevant_unseen"


@dataclass(frozen=True)
class Activity:
    """How many users have an event with so many items before the window.

    Attributes:
      items: (n,), ascending.
      users: (n,), warm users of the test window with so many.
    """

    items: np.ndarray
    users: np.ndarray

    def places(self, items: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Returns where users stand from the most active, 0, to the least, below 1: (users,).

        Among users with equally many items a hash of the user decides, so that tenths of the places hold about a
        tenth of the users each.
        """
        at_least = np.concatenate([np.cumsum(self.users[::-1])[::-1], [0]])
        before, upto = (at_least[np.searchsorted(self.items, items, side)] for side in ("right", "left"))
        places = (before + uniforms(SEED, "activity", 0, keys, 0) * (upto - before)) / max(int(at_least[0]), 1)
        return np.minimum(places, np.nextafter(1.0, 0.0))

    def ranges(self) -> list[tuple[int, int] | None]:
        """Returns the most and the fewest items of the users in each tenth; None where it is empty."""
        falling, ends = self.items[::-1], np.cumsum(self.users[::-1])
        bounds = np.arange(TENTHS + 1) * (int(ends[-1]) if len(ends) else 0) / TENTHS
        found: list[tuple[int, int] | None] = []
        for first, last in itertools.pairwise(bounds):
            high, low = np.searchsorted(ends, first, "right"), np.searchsorted(ends, last, "left")
            found.append((int(falling[high]), int(falling[low])) if last > first else None)
        return found


@dataclass(frozen=True)
class Example:
    """A user to show. Items by index.

    Attributes:
      drawn: by which it was chosen; the smallest counts.
      recommended, scores: best first, seen items left out.
    """

    drawn: float
    user: str
    seen: int
    clicked: list[int]
    clicked_seen: list[bool]
    recommended: list[int]
    scores: list[float]


@dataclass(frozen=True)
class Asked:
    """What is measured: K, replicates of the bootstrap, examples, and the users' activity."""

    cutoffs: tuple[int, ...]
    replicates: int
    examples: int
    activity: Activity


@dataclass
class Found:
    """What the rankings add up to.

    Attributes:
      tallies: by view (KEPT, FILTERED and COLD) and ranker.
      cold_users: users without an event before the window, who count in COLD alone.
      digests: of the other users and of what is relevant to them: sums of hashes modulo 2⁶⁴, whatever the order.
      examples: by their place, the most active user's first.
    """

    tallies: dict[tuple[str, str], Tally]
    cold_users: int = 0
    digests: dict[str, int] = field(default_factory=lambda: dict.fromkeys((USERS, RELEVANT, RELEVANT_UNSEEN), 0))
    examples: dict[int, Example] = field(default_factory=dict)

    @classmethod
    def empty(cls, rankers: Rankers, asked: Asked) -> Found:
        names = {KEPT: rankers.names, FILTERED: rankers.names, COLD: rankers.cold_names}
        keys = [(view, name) for view, of_view in names.items() for name in of_view]
        return cls({key: Tally.empty(asked.cutoffs, rankers.items, asked.replicates) for key in keys})

    def merge(self, other: Found) -> None:
        self.cold_users += other.cold_users
        for key, tally in self.tallies.items():
            tally.merge(other.tallies[key])
        self.digests = {name: (value + other.digests[name]) % 2**64 for name, value in self.digests.items()}
        for place, example in other.examples.items():
            self.keep(place, example)

    def keep(self, place: int, example: Example) -> None:
        held = self.examples.get(place)
        if held is None or (example.drawn, example.user) < (held.drawn, held.user):
            self.examples[place] = example

    def packed(self) -> bytes:
        return zlib.compress(pickle.dumps(self), level=1)

    @classmethod
    def unpacked(cls, data: bytes) -> Found:
        found: Found = pickle.loads(zlib.decompress(data))
        return found


class Ranking:
    """Ranks blocks of users and adds up what is found."""

    def __init__(self, rankers: Rankers, asked: Asked) -> None:
        arrays = rankers.arrays()
        self.found, self.items = Found.empty(rankers, asked), rankers.items
        self._rankers, self._asked = rankers, asked
        self._groups = ItemGroups(popularity_tenths(arrays[POPULARITY]), gathered(arrays, COLD_ITEMS))
        self._item_keys = gathered(arrays, ITEM_KEYS)

    def add(self, block: Block) -> None:
        """Ranks for users with an event before the window."""
        places = self._asked.activity.places(np.diff(block.seen.indptr), block.keys)
        users = UserGroups(poisson_weights(block.keys, self._asked.replicates), (places * TENTHS).astype(np.int64))
        clicked, seen = pairs(block.clicked), pairs(block.seen)
        unseen = clicked[~contains(seen, clicked)]
        self._add_digests(block.keys, clicked, unseen)
        for name, scores in self._rankers.scores(block):
            kept, filtered = self._best(scores, len(block.keys), seen)
            self.found.tallies[KEPT, name].count(kept.items, clicked, users, self._groups)
            self.found.tallies[FILTERED, name].count(filtered.items, unseen, users, self._groups)
            if name == MODEL:
                self._choose_examples(block, places, filtered, unseen)

    def add_cold(self, block: Block) -> None:
        """Ranks for users without an event before the window: by the model and by what needs no history."""
        self.found.cold_users += len(block.keys)
        users = UserGroups(poisson_weights(block.keys, self._asked.replicates), np.zeros(len(block.keys), np.int64))
        clicked = pairs(block.clicked)
        for name, scores in self._rankers.scores(block, with_history=False):
            best, _ = self._best(scores, len(block.keys), None)
            self.found.tallies[COLD, name].count(best.items, clicked, users, self._groups)

    def _best(self, scores: Iterable[Scores], users: int, seen: np.ndarray | None) -> tuple[Ranked, Ranked]:
        count = max(*self._asked.cutoffs, EXAMPLE_ITEMS)
        return best_items(scores, users, self.items, count, seen)

    def _add_digests(self, keys: np.ndarray, clicked: np.ndarray, unseen: np.ndarray) -> None:
        hashes = mixed(keys.astype(np.uint64))
        self._digest(USERS, hashes)
        for name, found in ((RELEVANT, clicked), (RELEVANT_UNSEEN, unseen)):
            rows, items = np.divmod(found, self.items)
            self._digest(name, mixed(hashes[rows] ^ self._item_keys[items].astype(np.uint64)))

    def _digest(self, name: str, hashes: np.ndarray) -> None:
        self.found.digests[name] = (self.found.digests[name] + int(hashes.sum(dtype=np.uint64))) % 2**64

    def _choose_examples(self, block: Block, places: np.ndarray, best: Ranked, unseen: np.ndarray) -> None:
        """Keeps of each stretch of activity the user with the smallest hash, of those who clicked something unseen."""
        able = np.unique(unseen // self.items)
        drawn = uniforms(SEED, "examples", 0, block.keys[able], 0)
        stretches = (places[able] * self._asked.examples).astype(np.int64)
        for stretch in np.unique(stretches) if self._asked.examples else ():
            inside = np.flatnonzero(stretches == stretch)
            chosen = inside[drawn[inside].argmin()]
            self.found.keep(int(stretch), _example(block, int(able[chosen]), float(drawn[chosen]), best))


def _example(block: Block, row: int, drawn: float, best: Ranked) -> Example:
    clicked, seen = (matrix.indices[slice(*matrix.indptr[row : row + 2])] for matrix in (block.clicked, block.seen))
    first = best.items[row, :EXAMPLE_ITEMS]
    there = first != NO_ITEM
    return Example(
        drawn=drawn,
        user=block.ids[row].as_py(),
        seen=len(seen),
        clicked=clicked.tolist(),
        clicked_seen=np.isin(clicked, seen).tolist(),
        recommended=first[there].tolist(),
        scores=best.scores[row, :EXAMPLE_ITEMS][there].tolist(),
    )
