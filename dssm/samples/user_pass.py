"""One task's users: from their events and profiles to rows that wait to be encoded. Pure Arrow and NumPy.

A task holds all rows of its users. It orders them once, and asks for each sample what was known strictly
before it: histories, counters, profiles. Everything stays numbers: items are places in the catalogue, profiles
are encoded already. A row leaves with a number that its contents decide, by which files are made later, so
that the same rows give the same files however the users were spread over tasks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dssm.features import AnyFeature
from dssm.manifest import (
    EVENT_TIME,
    ITEM_INDEX,
    LABEL,
    NO_ITEM,
    SOURCE,
    USER_ID,
    USER_KEY,
    WEIGHT,
    ColumnSpec,
    target_column,
)
from dssm.packing import pack, unpack
from dssm.samples.candidates import ItemLists
from dssm.samples.days import DAY_MS
from dssm.samples.encoding import encode_features
from dssm.samples.exact_ranks import top_ranks
from dssm.samples.lookups import Lookups
from dssm.samples.negatives import Clicked, PositiveRows, sample_negatives
from dssm.samples.profiles import NOTHING, ProfileEncoder, PublishedUsers, UserVocabulary
from dssm.samples.ragged import Lists
from dssm.samples.splitmix import mixed
from dssm.samples.timeline import Clock, Entries, Moments, appended, group_runs, newest_first, sorted_places
from dssm.samples.words import Words
from dssm.sections import Counter, HardNegatives, History, Negatives, UnclickedNegatives

# Columns of the rows that come in: an event, or (KIND ≥ 0) a row of that profile, seen from EVENT_TIME on.
KIND, FATE_CODE, IN_LOG, HASH, WORDS = "__kind", "__fate_code", "__in_log", "__hash", "__words"
EVENT = -1
NO_SAMPLE, TRAIN_ROW, TEST_ROW = 0, 1, 2
# Columns of the rows that go out, beside those of a sample.
TASK, FILE, ORDER, WARM_USER = "__task", "__file", "__order", "__warm"
DRAWN, PROBABILITY = "__negatives", "__negative_probability"
CLICKED_ITEMS = "__clicked"
SEEN_ITEMS, SEEN_POSITIVE, SEEN_TARGETS, SEEN_TIME = "__seen", "__seen_positive", "__seen_targets", "__seen_time"

USERS_STREAM, SEEN_STREAM = 0x75736572, 0x7365656E  # part a user's two rows' numbers from each other


def history_column(name: str) -> str:
    return f"__history_{name}"


@dataclass(frozen=True)
class Router:
    """Which file a row goes to: `files` of each dataset, in this order; `tasks`: the key of each file's task."""

    files: Mapping[str, int]
    tasks: tuple[int, ...]

    def first(self, dataset: str) -> int:
        names = list(self.files)
        return sum(self.files[name] for name in names[: names.index(dataset)])

    def route(self, dataset: str, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the file and the task of rows with these order numbers, (n,) int32 each."""
        files = self.first(dataset) + (mixed(order.astype(np.uint64)) % np.uint64(self.files[dataset])).astype(np.int64)
        return files.astype(np.int32), np.asarray(self.tasks, np.int32)[files]


@dataclass(frozen=True)
class UserPass:
    """What a task does with its rows: see `run`.

    Attributes:
      sources: names of the event sources, in the order of their codes.
      train_start, test_start: of the windows, in ms.
      by_user: whether each user's own first test row is its split (leave_last_out), instead of `test_start`.
      tested: sources whose positives are what popularity counts.
      user_id_features: features of the user id itself that need no vocabulary of tokens.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    histories: Mapping[str, History]
    counters: Mapping[str, Counter]
    profiles: tuple[ProfileEncoder | UserVocabulary | PublishedUsers, ...]
    user_id_features: tuple[AnyFeature, ...]
    user_id_words: Words
    negatives: Mapping[str, Negatives]
    tested: tuple[str, ...]
    train_start: int
    test_start: int
    by_user: bool
    unclicked_weight: float
    seed: int
    router: Router
    lookups: Lookups

    def run(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Args: batches: all rows of some users, in any order. Yields: their samples, queries and interactions."""
        # Rows of events and of profiles have columns of their own: the others are null.
        tables = [pa.Table.from_batches([batch]) for batch in batches if batch.num_rows]
        if not tables:
            return
        tables.append(pa.schema(input_fields(self)).empty_table())
        table = pa.concat_tables(tables, promote_options="default").combine_chunks()
        yield from _Task(self, table).rows()


def input_fields(plan: UserPass) -> list[tuple[str, pa.DataType]]:
    """Returns the columns that `UserPass.run` reads; WORDS are a profile's, what ITEM_INDEX begins an event's."""
    fields = [(USER_ID, pa.string()), (USER_KEY, pa.int64()), (KIND, pa.int32()), (EVENT_TIME, pa.int64())]
    fields += [(WORDS, pa.binary()), (ITEM_INDEX, pa.int32()), (SOURCE, pa.int32()), (LABEL, pa.float32())]
    fields += [(WEIGHT, pa.float32()), *((target_column(t), pa.float32()) for t in plan.targets)]
    return [*fields, (FATE_CODE, pa.int32()), (IN_LOG, pa.bool_()), (HASH, pa.int64())]


def output_fields(plan: UserPass) -> list[tuple[str, pa.DataType]]:
    """Returns the columns that `UserPass.run` yields; each of its batches has those of its dataset."""
    fields = [(TASK, pa.int32()), (FILE, pa.int32()), (ORDER, pa.int64()), (USER_ID, pa.string())]
    fields += [(USER_KEY, pa.int64()), (ITEM_INDEX, pa.int32()), (EVENT_TIME, pa.int64()), (SOURCE, pa.int32())]
    fields += [(LABEL, pa.float32()), (WEIGHT, pa.float32()), *((target_column(t), pa.float32()) for t in plan.targets)]
    fields += [(WORDS, pa.binary()), *((history_column(name), pa.binary()) for name in plan.histories)]
    fields += [(DRAWN, pa.binary()), (PROBABILITY, pa.binary()), (WARM_USER, pa.int32()), (CLICKED_ITEMS, pa.binary())]
    return [*fields, *((c, pa.binary()) for c in (SEEN_ITEMS, SEEN_POSITIVE, SEEN_TARGETS, SEEN_TIME))]


@dataclass(frozen=True)
class _Log:
    """Some of a task's events: their places in time, items, and the positives before each, in all at the end."""

    entries: Entries
    items: np.ndarray
    positives_before: np.ndarray


class _Task:
    """The rows of one task's users, ordered."""

    def __init__(self, plan: UserPass, table: pa.Table) -> None:
        self.plan = plan
        names = pc.dictionary_encode(table[USER_ID].combine_chunks())
        self.user_ids, codes = names.dictionary, names.indices.to_numpy().astype(np.int64)
        kind, times = _numbers(table[KIND]), _numbers(table[EVENT_TIME])
        events = np.flatnonzero(kind == EVENT)
        self.clock = Clock.over(len(self.user_ids), times, np.array([plan.test_start]))
        item, hashes = _numbers(table[ITEM_INDEX])[events], _numbers(table[HASH])[events]
        # Item and hash order equal times the same way in every build.
        order = events[sorted_places(self.clock.key(codes[events], times[events]), item, hashes)]
        self.user, self.time = codes[order], times[order]
        self.item = _numbers(table[ITEM_INDEX])[order]
        self.source, self.hash = _numbers(table[SOURCE])[order], _numbers(table[HASH])[order]
        self.label, self.weight = _numbers(table[LABEL])[order], _numbers(table[WEIGHT])[order]
        self.targets = {name: _numbers(table[target_column(name)])[order] for name in plan.targets}
        self.fate, self.in_log = _numbers(table[FATE_CODE])[order], _numbers(table[IN_LOG])[order]
        self.user_key = np.zeros(len(self.user_ids), np.int64)
        self.user_key[codes] = _numbers(table[USER_KEY])
        self.key = self.clock.key(self.user, self.time)
        self.positive = self.label > 0
        unclicked = (self.fate == TRAIN_ROW) & ~self.positive
        self.weight = np.where(unclicked, self.weight * np.float32(plan.unclicked_weight), self.weight)
        self._profile_rows = [
            self._profile(table, codes, times, np.flatnonzero(kind == number), profile.default())
            for number, profile in enumerate(plan.profiles)
        ]
        self.split = self._splits()
        self._logs: dict[tuple[object, ...], _Log] = {}

    def _profile(
        self, table: pa.Table, codes: np.ndarray, times: np.ndarray, rows: np.ndarray, default: np.ndarray
    ) -> tuple[Entries, np.ndarray]:
        """Returns one profile's rows, by user and time, and their words, the default's behind: (rows + 1, width)."""
        keys = self.clock.key(codes[rows], times[rows])
        order = np.argsort(keys, kind="stable")
        words = table[WORDS].combine_chunks().take(pa.array(rows[order]))
        spec = ColumnSpec(dtype="int32", shape=default.shape, encoding="packed")
        return Entries(self.clock, keys[order]), np.concatenate([unpack(words, spec), default[None]])

    def _splits(self) -> np.ndarray:
        """Returns, for each user, the time before which its events are known: (users,)."""
        split = np.full(len(self.user_ids), self.plan.test_start)
        if self.plan.by_user:
            tested = self.fate == TEST_ROW
            np.minimum.at(split, self.user[tested], self.time[tested])
        return split

    def rows(self) -> Iterator[pa.RecordBatch]:
        for fate, dataset in ((TRAIN_ROW, "train"), (TEST_ROW, "test")):
            yield from self._samples(np.flatnonzero(self.fate == fate), dataset)
        yield from self._queries()
        yield from self._interactions()

    # What is known at a moment -------------------------------------------------------------------------

    def _known(self, moments: Moments) -> dict[str, pa.Array]:
        plan = self.plan
        profile_words = []
        lists: dict[str, Lists] = {}
        for profile, (entries, words) in zip(plan.profiles, self._profile_rows, strict=True):
            begin, end = entries.before(moments, last=1, inclusive=True)
            place = np.where(end > begin, end - 1, len(words) - 1)
            found = words[place]
            profile_words.append(found[:, : profile.words.width])
            for name, places in profile.places.items():
                more = found[:, places]
                lists[name] = Lists(np.append(0, np.cumsum((more != NOTHING).sum(axis=1))), more[more != NOTHING])
        columns = {}
        for name, history in plan.histories.items():
            log = self._log(history.sources, history.positives)
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

    def _log(self, sources: tuple[str, ...], positives: bool) -> _Log:
        """Returns what users did in some sources; every block of samples asks for the same few."""
        key = (*sources, positives)
        if key not in self._logs:
            rows = self._rows_of(sources)
            self._logs[key] = self._log_of(np.flatnonzero(rows & self.positive if positives else rows))
        return self._logs[key]

    def _rows_of(self, sources: tuple[str, ...]) -> np.ndarray:
        return self.in_log & np.isin(self.source, [self.plan.sources.index(name) for name in sources])

    def _log_of(self, rows: np.ndarray) -> _Log:
        positives = np.concatenate([[0], np.cumsum(self.positive[rows])])
        return _Log(Entries(self.clock, self.key[rows]), self.item[rows], positives)

    def _count(self, counter: Counter, moments: Moments) -> np.ndarray:
        log = self._log(counter.sources, positives=False)
        begin, end = log.entries.before(moments, span_ms=counter.days * DAY_MS)
        return counted(counter, end - begin, log.positives_before[end] - log.positives_before[begin])

    @functools.cached_property
    def _user_id_words(self) -> np.ndarray:
        plan = self.plan
        tables = plan.lookups.tables()
        columns = {feature.source_column: self.user_ids for feature in plan.user_id_features}
        encoded = encode_features(columns, plan.user_id_features, tables)
        return plan.user_id_words.join(encoded, len(self.user_ids))

    # Rows ----------------------------------------------------------------------------------------------

    def _samples(self, rows: np.ndarray, dataset: str) -> Iterator[pa.RecordBatch]:
        draw = self._drawer() if self.plan.negatives and dataset == "train" and len(rows) else None
        # A block at a time: a row's histories and profile take far more than its event.
        for start in range(0, len(rows), BATCH_ROWS):
            block = rows[start : start + BATCH_ROWS]
            columns: dict[str, pa.Array] = {
                ITEM_INDEX: pa.array(self.item[block]),
                EVENT_TIME: pa.array(self.time[block]),
                SOURCE: pa.array(self.source[block]),
                LABEL: pa.array(self.label[block]),
                WEIGHT: pa.array(self.weight[block]),
                **{target_column(name): pa.array(values[block]) for name, values in self.targets.items()},
                **self._known(Moments(self.user[block], self.time[block])),
            }
            if draw is not None:
                items, probability = draw(block)
                columns |= {DRAWN: pack(items), PROBABILITY: pack(probability)}
            yield from self._routed(dataset, self.user[block], self.hash[block], columns)

    def _drawer(self) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """Returns what draws the negatives of some rows.

        It returns items and their chances, (rows, K); a row that is no positive has none.
        """
        plan = self.plan
        catalogue = plan.lookups.catalogue_for_sampling()
        window = self.in_log & self.positive & (self.time >= plan.train_start) & (self.time < plan.test_start)
        clicks = np.flatnonzero(window & (self.fate != TEST_ROW))
        clicked = Clicked(self.user[clicks], self.item[clicks], len(catalogue.upload_ms))
        shown = {}
        for name, kind in plan.negatives.items():
            if isinstance(kind, UnclickedNegatives):
                rows = self._rows_of(kind.sources or plan.sources) & ~self.positive
                rows[rows] = ~clicked.contains(self.user[rows], self.item[rows])
                shown[name] = self._log_of(np.flatnonzero(rows))

        def draw(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            targets = self.positive[rows]
            chosen = rows[targets]
            moments = Moments(self.user[chosen], self.time[chosen])
            lists = {}
            for name, kind in plan.negatives.items():
                if isinstance(kind, UnclickedNegatives):
                    begin, end = shown[name].entries.before(moments, kind.pool, inclusive=True)
                    lists[name] = _windows(shown[name].items, begin, end)
                elif isinstance(kind, HardNegatives):
                    lists[name] = self._ranking(name, kind, moments.users, clicks)
            positives = PositiveRows(moments.users, self.item[chosen], moments.times, self.hash[chosen], lists)
            drawn, chance = sample_negatives(plan.negatives, positives, catalogue, clicked, plan.seed)
            items = np.full((len(rows), drawn.shape[1]), NO_ITEM, np.int32)
            probability = np.zeros(items.shape, np.float32)
            items[targets], probability[targets] = drawn, chance
            return items, probability

        return draw

    def _published_users(self, name: str, users: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the published vectors of some users, (n, width), zeros where there is none, and who has one, (n,)."""
        for profile, (entries, words) in zip(self.plan.profiles, self._profile_rows, strict=True):
            if isinstance(profile, PublishedUsers) and profile.negatives == name:
                begin, end = entries.before(Moments(users, np.full(len(users), self.plan.test_start)), last=1)
                found = words[np.where(end > begin, end - 1, len(words) - 1)]
                return np.ascontiguousarray(found[:, 1:]).view(np.float32), found[:, 0] > 0
        return np.zeros((len(users), width), np.float32), np.zeros(len(users), bool)

    def _ranking(self, name: str, kind: HardNegatives, users: np.ndarray, clicks: np.ndarray) -> ItemLists:
        """Returns ranks a…b of each row's user; none for a user without a vector and without clicks."""
        vectors = self.plan.lookups.published_items(name)
        asked, line = np.unique(users, return_inverse=True)
        queries, has = self._published_users(name, asked, vectors.items.shape[1])
        # The others: the mean vector of what they clicked in the window.
        total = np.zeros(queries.shape)
        counts = np.zeros(len(asked))
        known = vectors.has[self.item[clicks]] & np.isin(self.user[clicks], asked)
        place = np.searchsorted(asked, self.user[clicks][known])
        np.add.at(total, place, vectors.items[self.item[clicks][known]])
        np.add.at(counts, place, 1)
        queries = np.where(has[:, None], queries, total / np.maximum(counts, 1)[:, None]).astype(np.float32)
        with_query = has | (counts > 0)
        ranked = np.full((len(asked), kind.ranks[1] - kind.ranks[0] + 1), NO_ITEM, np.int32)
        ranked[with_query] = top_ranks(queries[with_query], vectors.items, kind.ranks, vectors.has)
        return ItemLists.rankings(ranked, line)

    def _queries(self) -> Iterator[pa.RecordBatch]:
        """Each user with a positive in the test window, as of its split."""
        found = (self.fate == TEST_ROW) & self.positive
        all_users, all_lists = _distinct(self.user[found], self.item[found])
        known = self.in_log & (self.time < self.split[self.user])
        warm = np.zeros(len(self.user_ids), np.int32)
        warm[self.user[known]] = 1
        for start in range(0, len(all_users), BATCH_ROWS):
            users, lists = all_users[start : start + BATCH_ROWS], all_lists.rows(start, start + BATCH_ROWS)
            columns = {
                EVENT_TIME: pa.array(self.split[users]),
                WARM_USER: pa.array(warm[users]),
                CLICKED_ITEMS: _binary(lists),
                **self._known(Moments(users, self.split[users])),
            }
            yield from self._routed("users", users, _mixed(self.user_key[users], USERS_STREAM), columns)

    def _interactions(self) -> Iterator[pa.RecordBatch]:
        """What each user did before its split: distinct items, ascending."""
        known = np.flatnonzero(self.in_log & (self.time < self.split[self.user]))
        pair = self.user[known] * (int(self.item.max(initial=0)) + 1) + self.item[known]
        order = np.argsort(pair, kind="stable")
        known, pair = known[order], pair[order]
        runs = group_runs(pair)
        first = known[runs[:-1]]
        if len(first) == 0:
            return
        positive = np.maximum.reduceat(self.positive[known].astype(np.int32), runs[:-1])
        tested = self.positive & np.isin(self.source, [self.plan.sources.index(name) for name in self.plan.tested])
        targets = np.add.reduceat(tested[known].astype(np.int32), runs[:-1], dtype=np.int32)
        newest = np.maximum.reduceat(self.time[known], runs[:-1])
        offsets = group_runs(self.user[first])
        users = self.user[first[offsets[:-1]]]
        columns = {
            SEEN_ITEMS: _binary(Lists(offsets, self.item[first].astype(np.int32))),
            SEEN_POSITIVE: _binary(Lists(offsets, positive)),
            SEEN_TARGETS: _binary(Lists(offsets, targets)),
            SEEN_TIME: _binary(Lists(offsets, newest)),
        }
        yield from self._routed("interactions", users, _mixed(self.user_key[users], SEEN_STREAM), columns)

    def _routed(
        self, dataset: str, users: np.ndarray, order: np.ndarray, columns: Mapping[str, pa.Array]
    ) -> Iterator[pa.RecordBatch]:
        """Yields rows with the file that they go to, in those of `output_fields` that the dataset has."""
        files, tasks = self.plan.router.route(dataset, order)
        given = {
            TASK: pa.array(tasks),
            FILE: pa.array(files),
            ORDER: pa.array(order.view(np.int64)),
            USER_ID: self.user_ids.take(pa.array(users)),
            USER_KEY: pa.array(self.user_key[users]),
            **columns,
        }
        schema = pa.schema([field for field in output_fields(self.plan) if field[0] in given])
        arrays = [given[field.name].cast(field.type) for field in schema]
        yield from pa.Table.from_arrays(arrays, schema=schema).to_batches(max_chunksize=BATCH_ROWS)


BATCH_ROWS = 16384


def counted(counter: Counter, events: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Returns a counter's value from its events and the positives among them, (n,) float32."""
    if counter.count == "rate":
        worth = events + counter.strength
        rate = (positives + counter.prior * counter.strength) / np.where(worth > 0, worth, 1)
        return np.where(worth > 0, rate, counter.prior).astype(np.float32)
    return (events if counter.count == "events" else positives).astype(np.float32)


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """Returns a column as numbers; null, where a row has no such column, is 0."""
    filled = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if filled.null_count:
        filled = pc.fill_null(filled, pa.scalar(0, filled.type) if filled.type != pa.bool_() else False)
    return filled.to_numpy(zero_copy_only=False)


def _windows(items: np.ndarray, begin: np.ndarray, end: np.ndarray) -> ItemLists:
    """Returns the items of some windows; of all the items only those between the first window and the last."""
    first, last = (int(begin.min()), int(end.max())) if len(begin) else (0, 0)
    return ItemLists.windows(items[first:last], begin - first, end - first)


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


def _mixed(keys: np.ndarray, stream: int) -> np.ndarray:
    return mixed(keys.view(np.uint64) ^ np.uint64(stream)).view(np.int64)
