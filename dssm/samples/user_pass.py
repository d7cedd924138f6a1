"""One task's users: from their events and profiles to rows that wait to be encoded. Pure Arrow and NumPy.

A task holds all rows of its users. It orders them once, and asks for each sample what was known strictly
before it: histories, counters, profiles. Everything stays numbers: items are places in the catalogue, profiles
are encoded already. A row leaves with a number that its contents decide, by which files are made later, so
that the same rows give the same files however the users were spread over tasks.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa

from dssm.manifest import EVENT_TIME, ITEM_INDEX, LABEL, SOURCE, USER_ID, USER_KEY, WEIGHT, target_column
from dssm.packing import pack
from dssm.samples.days import DAY_MS
from dssm.samples.encoding import encode_features
from dssm.samples.pass_columns import (
    CLICKED_ITEMS,
    DRAWN,
    FILE,
    ORDER,
    PROBABILITY,
    SEEN_ITEMS,
    SEEN_POSITIVE,
    SEEN_TARGETS,
    SEEN_TIME,
    TASK,
    TEST_ROW,
    TRAIN_ROW,
    WARM_USER,
    WORDS,
    history_column,
    input_fields,
    output_fields,
)
from dssm.samples.pass_plan import PassPlan
from dssm.samples.profiles import NOTHING
from dssm.samples.ragged import Lists
from dssm.samples.splitmix import mixed
from dssm.samples.task_rows import TaskRows, of_users_with_events
from dssm.samples.timeline import Moments, appended, group_runs, newest_first
from dssm.samples.user_negatives import NegativeDrawer
from dssm.sections import Counter

BATCH_ROWS = 16384
USERS_STREAM, SEEN_STREAM = 0x75736572, 0x7365656E  # part a user's two rows' numbers from each other


def user_pass(plan: PassPlan, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Args: batches: all rows of some users, in any order. Yields: their samples, queries and interactions."""
    # Rows of events and of profiles have columns of their own: the others are null.
    tables = [pa.Table.from_batches([batch]) for batch in batches if batch.num_rows]
    if not tables:
        return
    tables.append(pa.schema(input_fields(plan.targets)).empty_table())
    table = of_users_with_events(pa.concat_tables(tables, promote_options="default").combine_chunks())
    if table.num_rows:
        yield from _Pass(plan, TaskRows(plan, table)).rows()


class _Pass:
    """What the rows of one task become."""

    def __init__(self, plan: PassPlan, task: TaskRows) -> None:
        self.plan, self.task = plan, task

    def rows(self) -> Iterator[pa.RecordBatch]:
        for fate, dataset in ((TRAIN_ROW, "train"), (TEST_ROW, "test")):
            yield from self._samples(np.flatnonzero(self.task.fate == fate), dataset)
        yield from self._queries()
        yield from self._interactions()

    # What is known at a moment -------------------------------------------------------------------------

    def _known(self, moments: Moments) -> dict[str, pa.Array]:
        plan, task = self.plan, self.task
        profile_words = []
        lists: dict[str, Lists] = {}
        for profile, (entries, words) in zip(plan.profiles, task.profiles, strict=True):
            begin, end = entries.before(moments, last=1, inclusive=True)
            place = np.where(end > begin, end - 1, len(words) - 1)
            found = words[place]
            profile_words.append(found[:, : profile.words.width])
            for name, places in profile.places.items():
                more = found[:, places]
                lists[name] = Lists(np.append(0, np.cumsum((more != NOTHING).sum(axis=1))), more[more != NOTHING])
        columns = {}
        for name, history in plan.histories.items():
            log = task.log(history.sources, history.positives)
            begin, end = log.entries.before(moments, history.last, history.days and history.days * DAY_MS)
            found_items = newest_first(log.items, begin, end)
            if name in lists:
                found_items = appended(found_items, lists[name], history.last)
            columns[history_column(name)] = _binary(found_items)
        counted = [self._count(counter, moments) for counter in plan.counters.values()]
        counters = np.stack(counted, axis=1) if counted else np.zeros((len(moments.users), 0), np.float32)
        of_id = self._user_id_words[moments.users]
        columns[WORDS] = pack(np.concatenate([*profile_words, of_id, counters.view(np.int32)], axis=1))
        return columns

    def _count(self, counter: Counter, moments: Moments) -> np.ndarray:
        log = self.task.log(counter.sources, positives=False)
        begin, end = log.entries.before(moments, span_ms=counter.days * DAY_MS)
        return counted(counter, end - begin, log.positives_before[end] - log.positives_before[begin])

    @functools.cached_property
    def _user_id_words(self) -> np.ndarray:
        plan = self.plan
        tables = plan.lookups.tables()
        columns = {feature.source_column: self.task.user_ids for feature in plan.user_id_features}
        encoded = encode_features(columns, plan.user_id_features, tables)
        return plan.user_id_words.join(encoded, len(self.task.user_ids))

    # Rows ----------------------------------------------------------------------------------------------

    def _samples(self, rows: np.ndarray, dataset: str) -> Iterator[pa.RecordBatch]:
        task, drawer = self.task, None
        if self.plan.negatives and dataset == "train" and len(rows):
            drawer = NegativeDrawer(self.plan, task)
        # A block at a time: a row's histories and profile take far more than its event.
        for start in range(0, len(rows), BATCH_ROWS):
            block = rows[start : start + BATCH_ROWS]
            columns: dict[str, pa.Array] = {
                ITEM_INDEX: pa.array(task.item[block]),
                EVENT_TIME: pa.array(task.time[block]),
                SOURCE: pa.array(task.source[block]),
                LABEL: pa.array(task.label[block]),
                WEIGHT: pa.array(task.weight[block]),
                **{target_column(name): pa.array(values[block]) for name, values in task.targets.items()},
                **self._known(Moments(task.user[block], task.time[block])),
            }
            if drawer is not None:
                items, probability = drawer.draw(block)
                columns |= {DRAWN: pack(items), PROBABILITY: pack(probability)}
            yield from self._routed(dataset, task.user[block], task.hash[block], columns)

    def _queries(self) -> Iterator[pa.RecordBatch]:
        """Users as of their split: those with a positive in the test window, or all that have an event before, too."""
        task = self.task
        found = (task.fate == TEST_ROW) & task.positive
        all_users, all_lists = _distinct(task.user[found], task.item[found])
        known = task.in_log & (task.time < task.split[task.user])
        if self.plan.all_users:
            all_users, all_lists = _with_more(all_users, all_lists, task.user[known])
        warm = np.zeros(len(task.user_ids), np.int32)
        warm[task.user[known]] = 1
        for start in range(0, len(all_users), BATCH_ROWS):
            users, lists = all_users[start : start + BATCH_ROWS], all_lists.rows(start, start + BATCH_ROWS)
            columns = {
                EVENT_TIME: pa.array(task.split[users]),
                WARM_USER: pa.array(warm[users]),
                CLICKED_ITEMS: _binary(lists),
                **self._known(Moments(users, task.split[users])),
            }
            yield from self._routed("users", users, _mixed(task.user_key[users], USERS_STREAM), columns)

    def _interactions(self) -> Iterator[pa.RecordBatch]:
        """What each user did before its split: distinct items, ascending."""
        task = self.task
        known = np.flatnonzero(task.in_log & (task.time < task.split[task.user]))
        pair = task.user[known] * (int(task.item.max(initial=0)) + 1) + task.item[known]
        order = np.argsort(pair, kind="stable")
        known, pair = known[order], pair[order]
        runs = group_runs(pair)
        first = known[runs[:-1]]
        if len(first) == 0:
            return
        positive = np.maximum.reduceat(task.positive[known].astype(np.int32), runs[:-1])
        tested = task.positive & np.isin(task.source, [self.plan.sources.index(name) for name in self.plan.tested])
        targets = np.add.reduceat(tested[known].astype(np.int32), runs[:-1], dtype=np.int32)
        newest = np.maximum.reduceat(task.time[known], runs[:-1])
        offsets = group_runs(task.user[first])
        users = task.user[first[offsets[:-1]]]
        columns = {
            SEEN_ITEMS: _binary(Lists(offsets, task.item[first].astype(np.int32))),
            SEEN_POSITIVE: _binary(Lists(offsets, positive)),
            SEEN_TARGETS: _binary(Lists(offsets, targets)),
            SEEN_TIME: _binary(Lists(offsets, newest)),
        }
        yield from self._routed("interactions", users, _mixed(task.user_key[users], SEEN_STREAM), columns)

    def _routed(
        self, dataset: str, users: np.ndarray, order: np.ndarray, columns: Mapping[str, pa.Array]
    ) -> Iterator[pa.RecordBatch]:
        """Yields rows with the file that they go to, in those of `output_fields` that the dataset has."""
        plan, task = self.plan, self.task
        files, tasks = plan.router.route(dataset, order)
        given = {
            TASK: pa.array(tasks),
            FILE: pa.array(files),
            ORDER: pa.array(order.view(np.int64)),
            USER_ID: task.user_ids.take(pa.array(users)),
            USER_KEY: pa.array(task.user_key[users]),
            **columns,
        }
        schema = pa.schema([field for field in output_fields(plan.targets, plan.histories) if field[0] in given])
        arrays = [given[field.name].cast(field.type) for field in schema]
        yield from pa.Table.from_arrays(arrays, schema=schema).to_batches(max_chunksize=BATCH_ROWS)


def counted(counter: Counter, events: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Returns a counter's value from its events and the positives among them, (n,) float32."""
    if counter.count == "rate":
        worth = events + counter.strength
        rate = (positives + counter.prior * counter.strength) / np.where(worth > 0, worth, 1)
        return np.where(worth > 0, rate, counter.prior).astype(np.float32)
    return (events if counter.count == "events" else positives).astype(np.float32)


def _binary(lists: Lists) -> pa.BinaryArray:
    """Returns lists of numbers as binaries, each as long as its list."""
    values = np.ascontiguousarray(lists.values)
    offsets = (lists.offsets * values.itemsize).astype(np.int32)
    return pa.BinaryArray.from_buffers(
        pa.binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(values)]
    )


def _distinct(users: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, Lists]:
    """Returns the users, ascending, and each one's items, ascending and each once."""
    size = int(items.max(initial=0)) + 1
    pairs = np.unique(users * size + items)
    offsets = group_runs(pairs // size)
    return pairs[offsets[:-1]] // size, Lists(offsets, (pairs % size).astype(np.int32))


def _with_more(users: np.ndarray, lists: Lists, more: np.ndarray) -> tuple[np.ndarray, Lists]:
    """Adds users, each once, with empty lists to users, ascending, and their lists."""
    both = np.union1d(users, more)
    counts = np.zeros(len(both), np.int64)
    counts[np.searchsorted(both, users)] = np.diff(lists.offsets)
    return both, Lists(np.append(0, np.cumsum(counts)), lists.values)


def _mixed(keys: np.ndarray, stream: int) -> np.ndarray:
    return mixed(keys.view(np.uint64) ^ np.uint64(stream)).view(np.int64)
