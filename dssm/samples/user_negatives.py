"""The negatives of one task's positives, from what its users did. Pure NumPy."""

from __future__ import annotations

import numpy as np

from dssm.manifest import NO_ITEM
from dssm.samples.candidates import ItemLists
from dssm.samples.exact_ranks import top_ranks
from dssm.samples.negatives import Clicked, PositiveRows, sample_negatives
from dssm.samples.pass_columns import CLICK_ONLY, TEST_ROW
from dssm.samples.pass_plan import PassPlan
from dssm.samples.profiles import PublishedUsers
from dssm.samples.task_rows import TaskRows
from dssm.samples.timeline import Moments
from dssm.sections import HardNegatives, UnclickedNegatives


class NegativeDrawer:
    """Draws the negatives of a task's rows."""

    def __init__(self, plan: PassPlan, task: TaskRows) -> None:
        self._plan, self._task = plan, task
        self._catalogue = plan.lookups.catalogue_for_sampling()
        window = task.positive & (task.time >= plan.train_start) & (task.time < plan.test_start)
        clicks = window & (task.in_log | (task.fate == CLICK_ONLY)) & (task.fate != TEST_ROW)
        self._clicks = np.flatnonzero(clicks & task.in_log)
        self._clicked = Clicked(task.user[clicks], task.item[clicks], len(self._catalogue.upload_ms))
        self._shown = {}
        for name, kind in plan.negatives.items():
            if isinstance(kind, UnclickedNegatives):
                rows = task.rows_of(kind.sources or plan.sources) & ~task.positive
                rows[rows] = ~self._clicked.contains(task.user[rows], task.item[rows])
                self._shown[name] = task.log_of(np.flatnonzero(rows))

    def draw(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns items and their chances, (rows, K) each; a row that is no positive has none."""
        plan, task = self._plan, self._task
        targets = task.positive[rows]
        chosen = rows[targets]
        moments = Moments(task.user[chosen], task.time[chosen])
        lists = {}
        for name, kind in plan.negatives.items():
            if not kind.from_lists:
                continue
            if isinstance(kind, UnclickedNegatives):
                shown = self._shown[name]
                begin, end = shown.entries.before(moments, kind.pool, inclusive=True)
                lists[name] = _windows(shown.items, begin, end)
            elif isinstance(kind, HardNegatives):
                lists[name] = self._ranking(name, kind, moments.users)
            else:
                raise NotImplementedError(
                    f"samples.negatives.{name}: nothing makes the lists of kind: {kind.kind}; add it to NegativeDrawer"
                )
        positives = PositiveRows(moments.users, task.item[chosen], moments.times, task.hash[chosen], lists)
        drawn, chance = sample_negatives(plan.negatives, positives, self._catalogue, self._clicked, plan.seed)
        items = np.full((len(rows), drawn.shape[1]), NO_ITEM, np.int32)
        probability = np.zeros(items.shape, np.float32)
        items[targets], probability[targets] = drawn, chance
        return items, probability

    def _published_users(self, name: str, users: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the published vectors of some users, (n, width), zeros where there is none, and who has one, (n,)."""
        for profile, (entries, words) in zip(self._plan.profiles, self._task.profiles, strict=True):
            if isinstance(profile, PublishedUsers) and profile.negatives == name:
                begin, end = entries.before(Moments(users, np.full(len(users), self._plan.test_start)), last=1)
                found = words[np.where(end > begin, end - 1, len(words) - 1)]
                return np.ascontiguousarray(found[:, 1:]).view(np.float32), found[:, 0] > 0
        return np.zeros((len(users), width), np.float32), np.zeros(len(users), bool)

    def _ranking(self, name: str, kind: HardNegatives, users: np.ndarray) -> ItemLists:
        """Returns ranks a…b of each row's user; none for a user without a vector and without clicks."""
        vectors = self._plan.lookups.published_items(name)
        asked, line = np.unique(users, return_inverse=True)
        queries, has = self._published_users(name, asked, vectors.items.shape[1])
        # The others: the mean vector of what they clicked in the window.
        total = np.zeros(queries.shape)
        counts = np.zeros(len(asked))
        user, item = self._task.user[self._clicks], self._task.item[self._clicks]
        known = vectors.has[item] & np.isin(user, asked)
        place = np.searchsorted(asked, user[known])
        np.add.at(total, place, vectors.items[item[known]])
        np.add.at(counts, place, 1)
        queries = np.where(has[:, None], queries, total / np.maximum(counts, 1)[:, None]).astype(np.float32)
        with_query = has | (counts > 0)
        ranked = np.full((len(asked), kind.ranks[1] - kind.ranks[0] + 1), NO_ITEM, np.int32)
        ranked[with_query] = top_ranks(queries[with_query], vectors.items, kind.ranks, vectors.has)
        return ItemLists.rankings(ranked, line)


def _windows(items: np.ndarray, begin: np.ndarray, end: np.ndarray) -> ItemLists:
    """Returns the items of some windows; of all the items only those between the first window and the last."""
    first, last = (int(begin.min()), int(end.max())) if len(begin) else (0, 0)
    return ItemLists.windows(items[first:last], begin - first, end - first)
