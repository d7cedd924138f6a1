"""How much there is: rows of everything, from a run's samples or from what is asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import pyarrow.parquet as pq

from dssm import storage
from dssm.config import Settings
from dssm.features import TIME_VALUES, AnyFeature, SparseFeat, VarLenSparseFeat, embedded
from dssm.manifest import MANIFEST, SEEN, Manifest, data_files
from dssm.paths import DATASETS, RunPaths
from dssm.plan.constants import Shares

EVENTS, ITEMS, EVENTS_OF_A_USER = 100_000_000, 1_000_000, 50  # where neither a run nor the command says
OTHER_TOKENS = 10_000  # of a vocabulary that is neither of users nor of items, where nothing is known of it
PADDING_AND_UNKNOWN = 2
FOOTERS_AT_ONCE = 16


@dataclass(frozen=True)
class Sizes:
    """Rows.

    Attributes:
      events: of the logs, over the windows.
      pairs: of a user and an item that it has an event with.
      user_rows: of samples/users: all test users, and with `samples.users: all` whoever has an event before, too.
      test_users: with a positive in the test window, whom `evaluate` ranks for; by a run's own files of `users: all` at
        most so many.
      tables: rows of each embedding table, by vocabulary.
      source: where the sizes come from, for a reader.
    """

    events: int
    items: int
    users: int
    train_rows: int
    test_rows: int
    pairs: int
    user_rows: int
    test_users: int
    tables: Mapping[str, int] = field(default_factory=dict)
    source: str = ""


def sizes_of(
    settings: Settings, shares: Shares, events: int | None = None, items: int | None = None, users: int | None = None
) -> Sizes:
    """Returns what is asked; whatever is not comes from the run's samples, else from the demo feed's shares."""
    run = read_sizes(settings)
    if run is not None:
        if events is None and items is None and users is None:
            return run
        factor = 1.0 if events is None else events / run.events
        scaled = {name: round(getattr(run, name) * factor) for name in ("train_rows", "test_rows", "pairs")}
        many = round(run.users * factor) if users is None else users
        sizes = replace(
            run, **scaled, events=run.events if events is None else events, items=run.items if items is None else items,
            users=many, source=f"scaled from {run.source}",
            **{name: round(getattr(run, name) * many / max(1, run.users)) for name in ("user_rows", "test_users")},
        )  # fmt: skip
        grown = {name: known_rows(settings, name, sizes) for name in run.tables}
        return replace(sizes, tables={name: rows or run.tables[name] for name, rows in grown.items()})
    events = EVENTS if events is None else events
    items = ITEMS if items is None else items
    users = max(1, events // EVENTS_OF_A_USER) if users is None else users
    train = 1.0 if settings.samples.train_rows == "all" else shares.train
    test = shares.test if settings.samples.train_rows == "positives" else shares.test / shares.train
    tested = round(users * shares.test_users)
    sizes = Sizes(
        events, items, users, round(events * train), round(events * test), round(events * shares.pairs),
        users if settings.samples.users == "all" else tested, tested, source="given, or the shares of the demo's feed",
    )  # fmt: skip
    names = dict.fromkeys(feature.vocabulary for feature in embedded(settings.features))
    return replace(sizes, tables={n: known_rows(settings, n, sizes) or _other_rows(settings, n) for n in names})


def read_sizes(settings: Settings) -> Sizes | None:
    """Returns the sizes of the run's samples; None where there are none."""
    paths = RunPaths(settings.run_folder)
    if not storage.exists(f"{paths.samples}/{MANIFEST}"):
        return None
    whole = Manifest.model_validate_json(storage.read_bytes(f"{paths.samples}/{MANIFEST}"))
    made = {p: Manifest.model_validate_json(storage.read_bytes(f"{paths.part(p)}/{MANIFEST}")) for p in DATASETS}
    rows = {part: manifest.rows for part, manifest in made.items()}
    read = [source for name, source in whole.sources.items() if name.startswith("sources.")]
    events = sum(source.rows_read for source in read)
    tables = {name: spec.size for name, spec in whole.vocabularies.items()}
    pairs = _entries(data_files(paths.part("interactions"), made["interactions"]), SEEN)
    return Sizes(
        events, rows["items"], rows["interactions"], rows["train"], rows["test"], pairs, rows["users"],
        rows["users"], tables, source=paths.samples,
    )  # fmt: skip


def _entries(files: Iterable[str], column: str) -> int:
    """Returns how many entries the lists of a column have together, by its files' footers; an empty one has one."""

    def entries(path: str) -> int:
        system, place = storage.filesystem(path)
        with system.open(place, "rb") as opened:
            footer = pq.read_metadata(opened)
        groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
        chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
        return sum(chunk.num_values for chunk in chunks if chunk.path_in_schema.split(".")[0] == column)

    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:  # each is a round trip or two to a store
        return sum(pool.map(entries, files))


def known_rows(settings: Settings, vocabulary: str, sizes: Sizes) -> int | None:
    """Returns the rows of a table of users, of items or of hash buckets, at most; None of another."""
    owner = settings.features[vocabulary]
    if (fixed := _fixed_ids(owner)) is not None:
        return fixed + PADDING_AND_UNKNOWN
    entries = sizes.items if _is_of_items(settings, owner) else sizes.users if _is_of_users(settings, owner) else None
    if entries is None:
        return None
    limit = getattr(owner, "max_size", None)
    return (entries if limit is None else min(entries, limit)) + PADDING_AND_UNKNOWN


def _fixed_ids(feature: AnyFeature) -> int | None:
    """Returns the ids of a vocabulary that the settings alone decide; None of one of tokens."""
    if buckets := getattr(feature, "hash_buckets", None):
        return int(buckets)
    if not isinstance(feature, SparseFeat):
        return None
    if feature.time is not None:
        return TIME_VALUES[feature.time]
    return len(feature.boundaries) + 1 if feature.boundaries is not None else feature.quantiles


def _other_rows(settings: Settings, vocabulary: str) -> int:
    limit = getattr(settings.features[vocabulary], "max_size", None)
    return (OTHER_TOKENS if limit is None else limit) + PADDING_AND_UNKNOWN


def _is_of_items(settings: Settings, feature: AnyFeature) -> bool:
    if isinstance(feature, VarLenSparseFeat) and feature.source_column in settings.histories:
        return feature.of is None
    return feature.side == "item" and feature.source_column == settings.catalogue.key


def _is_of_users(settings: Settings, feature: AnyFeature) -> bool:
    return feature.side == "user" and feature.source_column in settings.user_keys
