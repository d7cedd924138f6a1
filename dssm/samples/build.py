"""build_samples: logs, profiles, catalogue and vectors to encoded samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dssm import storage
from dssm.config import Settings
from dssm.console import out, step
from dssm.errors import UserError, did_you_mean
from dssm.features import AnyFeature, DenseFeat, VarLenSparseFeat, embedded, of_side
from dssm.manifest import (
    CLICKED,
    EVENT_TIME,
    ITEM_ID,
    ITEM_INDEX,
    ITEM_KEY,
    ITEM_PROBABILITY,
    LABEL,
    LAST_TIME,
    POSITIVE,
    SOURCE,
    TARGETS,
    USER_ID,
    USER_KEY,
    WARM,
    WEIGHT,
    ColumnSpec,
    FileSpec,
    Manifest,
    SourceCounts,
    VocabularySpec,
    encoded_columns,
    write_manifest,
)
from dssm.paths import RunPaths
from dssm.samples.encoding import encode_features
from dssm.samples.lookups import Lookups
from dssm.samples.point_in_time import EMIT, flag_column, with_histories
from dssm.samples.sources import Quarantine, quoted, read_events, read_keyed, read_vectors
from dssm.samples.vocabulary import token_counts, write_vocabularies
from dssm.samples.writing import write_parts, write_shuffled

RAW = "raw__"  # prefix of raw columns between join and encoding: they can't clash with our own
TRAIN, TEST, QUERY = "train", "test", "query"

NUMBER, TEXT = ColumnSpec(dtype="float32"), ColumnSpec(dtype="string", encoding="text")
KEY = ColumnSpec(dtype="int64")
INDEX_LIST = ColumnSpec(dtype="int32", encoding="list")
SAMPLE_COLUMNS = {
    USER_ID: TEXT,
    ITEM_ID: TEXT,
    EVENT_TIME: KEY,
    SOURCE: TEXT,
    USER_KEY: KEY,
    ITEM_KEY: KEY,
    LABEL: NUMBER,
    WEIGHT: NUMBER,
    ITEM_PROBABILITY: NUMBER,
}
ITEM_COLUMNS = {ITEM_ID: TEXT, ITEM_INDEX: ColumnSpec(dtype="int32"), ITEM_KEY: KEY, ITEM_PROBABILITY: NUMBER}
USER_COLUMNS = {USER_ID: TEXT, WARM: ColumnSpec(dtype="int32"), CLICKED: INDEX_LIST}
INTERACTION_COLUMNS = {
    USER_ID: TEXT,
    ITEM_INDEX: ColumnSpec(dtype="int32"),
    POSITIVE: ColumnSpec(dtype="int32"),
    TARGETS: ColumnSpec(dtype="int32"),
    LAST_TIME: KEY,
}


@dataclass(frozen=True)
class Profile:
    """A readable profile table: `frame` one row a user, with `id`; seen by events from `from_ms` on."""

    frame: DataFrame
    key: str
    from_ms: int


def build_samples(spark: SparkSession, settings: Settings) -> None:
    """Writes samples/{train,test,users,items,interactions} of the run, committed by one rename.

    `users` holds each user with a positive in the test window as of the window's start, and what it
    clicked in the window; `interactions` the distinct (user, item) pairs before the window.
    """
    paths = RunPaths(settings.run_folder)
    with storage.committed_folder(paths.samples) as folder:
        _build(spark, settings, folder)
    spark.catalog.clearCache()


def _build(spark: SparkSession, settings: Settings, folder: str) -> None:
    quarantine = Quarantine(f"{folder}/quarantine", settings.samples.max_quarantine_share)
    features = list(settings.features.values())

    with step("profiles, catalogue and vectors") as remarks:
        user_features, item_features = of_side(settings.features, "user"), of_side(settings.features, "item")
        profiles = {
            name: Profile(
                read_keyed(spark, settings, f"profiles.{name}", table, table.key, user_features, quarantine),
                table.key,
                0 if table.available_from is None else settings.day_start_ms((table.available_from - settings.date).days),
            )
            for name, table in settings.profiles.items()
        }
        catalogue = read_keyed(
            spark, settings, "catalogue", settings.catalogue, settings.catalogue.key, item_features, quarantine
        )
        _check_item_columns(catalogue, item_features)
        providers = _user_columns(settings, profiles)
        for name, table in settings.vectors.items():
            vectors = read_vectors(spark, settings, name, table, quarantine)
            drawn = vectors.withColumn("__table", F.lit(name)).withColumn("__order", F.col("id"))
            write_parts(drawn, f"{folder}/vectors/{name}", "__table", ["__order"], {name: "vectors.parquet"})
        remarks += [f"{name} {counts.rows_read:,}" for name, counts in quarantine.counts.items()]

    with step("event logs") as remarks:
        events = _events(spark, settings, catalogue, quarantine)
        _count_fates(events, quarantine)
        train_rows, test_rows = (
            sum(c.used.get(fate, 0) for n, c in quarantine.counts.items() if n.startswith("sources."))
            for fate in (TRAIN, TEST)
        )
        _check_windows(settings, events, train_rows, test_rows)
        remarks += [f"train {train_rows:,}", f"test {test_rows:,}"]

    train_events = events.filter(F.col("fate") == TRAIN)
    with step("vocabularies") as remarks:
        counts = _token_counts(settings, train_events, profiles, catalogue, providers)
        owners = [f for f in embedded(settings.features) if f.share_embedding is None]
        vocabularies = write_vocabularies(counts, owners, f"{folder}/vocabularies") if owners else {}
        remarks += [f"{name} {spec.size:,}" for name, spec in vocabularies.items()]
        for name, spec in vocabularies.items():
            if spec.size == 2:
                out.print(f"[yellow]features.{name}: no token in the training window; every id is unknown[/yellow]")
    lookups = Lookups(
        {name: f"{folder}/vocabularies/{name}.parquet" for name in vocabularies},
        {name: f"{folder}/vectors/{name}/vectors.parquet" for name in settings.vectors},
    )

    writer = _Writer(settings, folder, vocabularies, quarantine.counts)
    with step("catalogue, encoded") as remarks:
        items = _encoded_items(catalogue, train_events, train_rows, item_features, lookups, settings)
        rows = quarantine.counts["catalogue"].used["read"]
        files = writer.write("items", items, rows, ITEM_COLUMNS, item_features)
        items = spark.read.parquet(*[f"{folder}/items/{file.name}" for file in files])
        remarks.append(f"{rows:,} items")

    with step("histories and users, encoded"):
        rows_of_users = _with_user_features(settings, events, profiles, providers, user_features, lookups).persist(
            StorageLevel.DISK_ONLY
        )
        rows_of_users.count()
    for part, rows in ((TRAIN, train_rows), (TEST, test_rows)):
        with step(f"{part} samples") as remarks:
            samples = rows_of_users.filter(F.col("fate") == part).join(items.drop(ITEM_INDEX), ITEM_ID)
            written = writer.write(part, samples, rows, SAMPLE_COLUMNS, features)
            remarks.append(f"{sum(f.rows for f in written):,} rows in {len(written)} files")
            if sum(f.rows for f in written) != rows:
                raise RuntimeError(f"{part}: {sum(f.rows for f in written)} rows written, {rows} counted")
    with step("users and interactions") as remarks:
        queries = rows_of_users.filter(F.col("fate") == QUERY).join(_clicked(events, settings), USER_ID)
        users = writer.write("users", queries, test_rows // 4, USER_COLUMNS, user_features)
        pairs = _interactions(events, settings)
        seen = writer.write("interactions", pairs, train_rows, INTERACTION_COLUMNS, [])
        remarks += [f"{sum(f.rows for f in users):,} users", f"{sum(f.rows for f in seen):,} pairs"]
    writer.finish()
    _report(quarantine.counts)


# Events ------------------------------------------------------------------------------------------------


def _events(spark: SparkSession, settings: Settings, catalogue: DataFrame, quarantine: Quarantine) -> DataFrame:
    """Reads all logs and says what becomes of each row.

    Grain: one row a readable event; `fate` is train, test, or the reason why it is no sample;
    `in_log` whether it counts as something the user did (for histories, seen items, baselines).
    """
    logs = [read_events(spark, settings, name, source, quarantine) for name, source in settings.sources.items()]
    index = F.row_number().over(Window.orderBy("id")) - 1
    known = catalogue.select(F.col("id").alias(ITEM_ID), index.cast("int").alias(ITEM_INDEX))
    events = reduce(DataFrame.unionByName, logs).join(known, ITEM_ID, "left")
    return events.withColumn("fate", _fate(settings)).withColumn(
        "in_log", F.col("kept") & F.col(ITEM_INDEX).isNotNull()
    ).persist(StorageLevel.DISK_ONLY)


def _fate(settings: Settings) -> Column:
    train_start, test_start = settings.day_start_ms(-settings.window.train_days), settings.day_start_ms(0)
    test_end = settings.day_start_ms(settings.window.test_days)
    time = F.col(EVENT_TIME)

    def has_role(role: str) -> Column:
        return F.col(SOURCE).isin([name for name, source in settings.sources.items() if role in source.roles])

    may_train = F.lit(True) if settings.samples.train_rows == "all" else F.col(LABEL) > 0
    return (
        F.when(~F.col("kept"), "left out by where")
        .when(F.col(ITEM_INDEX).isNull(), "item not in the catalogue")
        .when((time < train_start) | (time >= test_end), "outside the windows")
        .when((time < test_start) & ~has_role(TRAIN), "source has no train role")
        .when((time >= test_start) & ~has_role(TEST), "source has no test role")
        .when(time >= test_start, TEST)
        .when(may_train, TRAIN)
        .otherwise("negative, and train_rows is positives")
    )


def _count_fates(events: DataFrame, quarantine: Quarantine) -> None:
    """Splits each source's readable rows, in the counts, into used and filtered."""
    fates: dict[str, dict[str, int]] = {}
    for row in events.groupBy(SOURCE, "fate").count().collect():
        fates.setdefault(f"sources.{row[SOURCE]}", {})[row["fate"]] = row["count"]
    for name, found in fates.items():
        used = {fate: found[fate] for fate in (TRAIN, TEST) if fate in found}
        filtered = {fate: found[fate] for fate in sorted(found) if fate not in used}
        counts = quarantine.counts[name]
        quarantine.counts[name] = counts.model_copy(update={"used": used, "filtered": filtered})
        total = sum(found.values()) + sum(counts.quarantined.values())
        if total != counts.rows_read:
            raise RuntimeError(f"{name}: {counts.rows_read} rows read, {total} accounted for")


def _check_windows(settings: Settings, events: DataFrame, train_rows: int, test_rows: int) -> None:
    first, split, last = -settings.window.train_days, 0, settings.window.test_days
    for part, rows, begin, end in ((TRAIN, train_rows, first, split), (TEST, test_rows, split, last)):
        if rows:
            continue
        log = events.agg(F.min(EVENT_TIME), F.max(EVENT_TIME)).select(
            *[F.date_format(F.timestamp_millis(F.col(f"{f}({EVENT_TIME})")), "yyyy-MM-dd").alias(f) for f in ("min", "max")]
        ).first()
        days = settings.window_days()
        begin_day, end_day = days[begin - first], days[end - first - 1]
        raise UserError(
            f"window.{part}_days: no row becomes a {part} sample from {begin_day} to {end_day}; "
            f"the logs span {log['min'] if log else '?'} to {log['max'] if log else '?'}; "
            "expected rows there: check --date, window and the sources' roles and labels"
        )


def _clicked(events: DataFrame, settings: Settings) -> DataFrame:
    """What to find for each user.

    Grain: one row a user with a positive in the test window, as (USER_ID, CLICKED: item indexes, ascending,
    WARM: 1 if it has any event before the window).
    """
    start = settings.day_start_ms(0)
    found = events.filter((F.col("fate") == TEST) & (F.col(LABEL) > 0)).groupBy(USER_ID)
    clicked = found.agg(F.array_sort(F.collect_set(ITEM_INDEX)).alias(CLICKED))
    before = events.filter(F.col("in_log") & (F.col(EVENT_TIME) < start)).select(USER_ID).distinct()
    warm = F.col("before").isNotNull().cast("int").alias(WARM)
    return clicked.join(before.withColumn("before", F.lit(1)), USER_ID, "left").select(USER_ID, CLICKED, warm)


def _interactions(events: DataFrame, settings: Settings) -> DataFrame:
    """Grain: one row a (user, item) with an event before the test window; POSITIVE is 1 if one had a label above 0."""
    before = events.filter(F.col("in_log") & (F.col(EVENT_TIME) < settings.day_start_ms(0)))
    positive = (F.col(LABEL) > 0).cast("int")
    tested = F.col(SOURCE).isin([name for name, source in settings.sources.items() if TEST in source.roles])
    return before.groupBy(USER_ID, ITEM_INDEX).agg(
        F.max(positive).alias(POSITIVE),
        F.sum(positive * tested.cast("int")).cast("int").alias(TARGETS),
        F.max(EVENT_TIME).alias(LAST_TIME),
    )


# Features ----------------------------------------------------------------------------------------------


def _check_item_columns(catalogue: DataFrame, features: Sequence[AnyFeature]) -> None:
    for feature in features:
        if feature.source_column not in catalogue.columns:
            known = [column for column in catalogue.columns if column != "id"]
            raise UserError(
                f"features.{feature.name}.column: the catalogue has no column '{feature.source_column}'"
                + did_you_mean(feature.source_column, known)
            )


def _user_columns(settings: Settings, profiles: Mapping[str, Profile]) -> dict[str, str]:
    """Finds where each column that the user features and histories read comes from.

    Returns: column → name of a profile, or `history`, or `user` for the user id itself.
    Raises: UserError where nothing has the column, or two tables have it.
    """
    ids = {source.user for source in settings.sources.values()} | {profile.key for profile in profiles.values()}
    wanted = {f"features.{f.name}.column": f.source_column for f in of_side(settings.features, "user")}
    wanted |= {f"histories.{name}.then": h.then for name, h in settings.histories.items() if h.then is not None}
    providers = {}
    for key, column in wanted.items():
        found = [f"profiles.{name}" for name, profile in profiles.items() if column in profile.frame.columns]
        if column in settings.histories:
            found = [*found, "history"]
        if column in ids:
            found = ["user"]
        if len(found) > 1:
            raise UserError(f"{key}: column '{column}' stands in {' and '.join(found)}; rename it in one of them")
        if not found:
            known = {*settings.histories, *ids, *(c for p in profiles.values() for c in p.frame.columns if c != "id")}
            raise UserError(f"{key}: no profile or history has a column '{column}'" + did_you_mean(column, known))
        providers[column] = found[0].removeprefix("profiles.")
    return providers


def _token_counts(
    settings: Settings,
    train_events: DataFrame,
    profiles: Mapping[str, Profile],
    catalogue: DataFrame,
    providers: Mapping[str, str],
) -> list[DataFrame]:
    """Counts, for each feature with an embedding, the training events that carry each token."""
    by_item = train_events.groupBy(F.col(ITEM_ID).alias("id")).agg(F.count("*").alias("__events")).cache()
    by_user = train_events.groupBy(F.col(USER_ID).alias("id")).agg(F.count("*").alias("__events")).cache()
    counts = []
    for feature in embedded(settings.features):
        column = feature.source_column
        provider = "catalogue" if feature.side == "item" else providers[column]
        if provider == "catalogue":
            frame = catalogue.join(by_item, "id")
        elif provider == "user":
            frame = by_user.withColumn(column, F.col("id"))
        elif provider == "history":
            if feature.share_embedding is not None:
                continue  # its tokens are events themselves: the table's owner counts them
            frame = by_item.withColumn(column, F.col("id"))
        else:
            profile = profiles[provider]
            seen = train_events.filter(F.col(EVENT_TIME) >= profile.from_ms).groupBy(F.col(USER_ID).alias("id"))
            events = by_user if profile.from_ms == 0 else seen.agg(F.count("*").alias("__events"))
            frame = profile.frame.join(events, "id")
        counts.append(token_counts(frame, feature, "__events"))
    return counts


def _encoded_items(
    catalogue: DataFrame,
    train_events: DataFrame,
    train_rows: int,
    features: Sequence[AnyFeature],
    lookups: Lookups,
    settings: Settings,
) -> DataFrame:
    """Grain: one row a catalogue item, encoded, with its place by id and its share of the training rows."""
    drawn = train_events.groupBy(F.col(ITEM_ID).alias("id")).agg(F.count("*").alias("rows"))
    share = (F.coalesce("rows", F.lit(0)) / train_rows).cast("float")
    raw = catalogue.join(drawn, "id", "left").select(
        F.col("id").alias(ITEM_ID),
        (F.row_number().over(Window.orderBy("id")) - 1).cast("int").alias(ITEM_INDEX),
        F.xxhash64("id").alias(ITEM_KEY),
        share.alias(ITEM_PROBABILITY),
        *_raw(features),
    )
    return _encode(raw, features, lookups, settings)


def _with_user_features(
    settings: Settings,
    events: DataFrame,
    profiles: Mapping[str, Profile],
    providers: Mapping[str, str],
    features: Sequence[AnyFeature],
    lookups: Lookups,
) -> DataFrame:
    """Grain: one row a train or test sample, and one a user to recommend for (fate query, at the window's start)."""
    start = settings.day_start_ms(0)
    queries = events.filter((F.col("fate") == TEST) & (F.col(LABEL) > 0)).select(USER_ID).distinct()
    columns = [USER_ID, ITEM_ID, EVENT_TIME, SOURCE, LABEL, WEIGHT, "fate", "in_log"]
    asked = queries.select(
        USER_ID,
        F.lit(None).cast("string").alias(ITEM_ID),
        F.lit(start).alias(EVENT_TIME),
        F.lit("").alias(SOURCE),
        F.lit(0.0).cast("float").alias(LABEL),
        F.lit(0.0).cast("float").alias(WEIGHT),
        F.lit(QUERY).alias("fate"),
        F.lit(False).alias("in_log"),
    )
    rows = events.select(columns).unionByName(asked).withColumn(EMIT, F.col("fate").isin(TRAIN, TEST, QUERY))
    flags = {
        flag_column(name): F.col("in_log")
        & F.col(SOURCE).isin(list(history.sources))
        & ((F.col(LABEL) > 0) if history.positives else F.lit(True))
        for name, history in settings.histories.items()
    }
    rows = rows.withColumns(flags).drop("in_log").filter(reduce(Column.__or__, map(F.col, flags), F.col(EMIT)))
    rows = _add_histories(rows, {name: history.last for name, history in settings.histories.items()})
    for name, profile in profiles.items():
        wanted = [column for column, provider in providers.items() if provider == name]
        if wanted:
            visible = F.col(EVENT_TIME) >= profile.from_ms
            chosen = profile.frame.select(F.col("id").alias(USER_ID), *[quoted(c).alias(f"{RAW}{c}") for c in wanted])
            rows = rows.join(chosen, USER_ID, "left")
            rows = rows.withColumns({f"{RAW}{c}": F.when(visible, F.col(f"`{RAW}{c}`")) for c in wanted})
    rows = rows.withColumns({f"{RAW}{c}": F.col(USER_ID) for c, provider in providers.items() if provider == "user"})
    for name, history in settings.histories.items():
        if history.then is not None:
            then = F.col(f"`{RAW}{history.then}`")
            if not isinstance(rows.schema[f"{RAW}{history.then}"].dataType, T.ArrayType):
                then = F.split(then, f"\\Q{history.separator}\\E")
            trimmed = F.filter(F.transform(then, F.trim), lambda item: item != "")
            both = F.concat(f"{RAW}{name}", F.coalesce(trimmed, F.array().cast("array<string>")))
            rows = rows.withColumn(f"{RAW}{name}", F.slice(both, 1, history.last))
    raw = rows.select(
        USER_ID, ITEM_ID, EVENT_TIME, SOURCE, F.xxhash64(USER_ID).alias(USER_KEY), LABEL, WEIGHT, "fate",
        *[F.col(f"`{RAW}{column}`") for column in dict.fromkeys(f.source_column for f in features)],
    )  # fmt: skip
    return _encode(raw, features, lookups, settings)


def _add_histories(rows: DataFrame, lengths: Mapping[str, int]) -> DataFrame:
    """Runs `with_histories` on each user's rows, sorted by time; other columns order equal times."""
    flags = [flag_column(name) for name in lengths]
    order = [USER_ID, EVENT_TIME, ITEM_ID, SOURCE, LABEL, WEIGHT, "fate"]
    ordered = rows.repartition(USER_ID).sortWithinPartitions(*order)
    kept = [field for field in rows.schema.fields if field.name not in (EMIT, *flags)]
    lists = [T.StructField(f"{RAW}{name}", T.ArrayType(T.StringType())) for name in lengths]

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in with_histories(batches, lengths):
            names = [f"{RAW}{name}" if name in lengths else name for name in batch.schema.names]
            yield pa.RecordBatch.from_arrays(batch.columns, names=names)

    return ordered.mapInArrow(run, T.StructType([*kept, *lists]))


def _raw(features: Sequence[AnyFeature]) -> list[Column]:
    columns = dict.fromkeys(feature.source_column for feature in features)
    return [quoted(column).alias(f"{RAW}{column}") for column in columns]


def _encode(rows: DataFrame, features: Sequence[AnyFeature], lookups: Lookups, settings: Settings) -> DataFrame:
    """Replaces the raw columns by the features' encoded ones."""
    kinds = {"int32": T.IntegerType(), "float32": T.FloatType()}
    specs = _feature_columns(settings, features)
    sparse = [f.source_column for f in features if not isinstance(f, (VarLenSparseFeat, DenseFeat))]
    sparse += [f.source_column for f in features if isinstance(f, DenseFeat) and f.reduce_type == "none" and f.pre_embed]
    rows = rows.withColumns({f"{RAW}{c}": F.col(f"`{RAW}{c}`").cast("string") for c in dict.fromkeys(sparse)})
    kept = [field for field in rows.schema.fields if not field.name.startswith(RAW)]
    encoded = [
        T.StructField(name, T.BinaryType() if spec.encoding == "packed" else kinds[spec.dtype])
        for name, spec in specs.items()
    ]

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        vocabularies, vectors = lookups.load()
        for batch in batches:
            columns = {name: batch.column(name) for name in batch.schema.names}
            raw = {name.removeprefix(RAW): column for name, column in columns.items() if name.startswith(RAW)}
            arrays = encode_features(raw, features, vocabularies, vectors)
            yield pa.RecordBatch.from_arrays(
                [columns[field.name] for field in kept] + [arrays[name] for name in specs],
                names=[field.name for field in kept] + list(specs),
            )

    return rows.mapInArrow(run, T.StructType([*kept, *encoded]))


def _feature_columns(settings: Settings, features: Sequence[AnyFeature]) -> dict[str, ColumnSpec]:
    widths = {name: table.width for name, table in settings.vectors.items()}
    return {name: spec for feature in features for name, spec in encoded_columns(feature, widths).items()}


# Writing -----------------------------------------------------------------------------------------------


class _Writer:
    """Writes the run's datasets, then all their manifests, which share one build digest."""

    def __init__(
        self,
        settings: Settings,
        folder: str,
        vocabularies: Mapping[str, VocabularySpec],
        counts: Mapping[str, SourceCounts],
    ) -> None:
        self._settings, self._folder, self._vocabularies, self._counts = settings, folder, vocabularies, counts
        self._parts: dict[str, tuple[dict[str, ColumnSpec], list[FileSpec]]] = {}

    def write(
        self, part: str, rows: DataFrame, count: int, columns: Mapping[str, ColumnSpec], features: Sequence[AnyFeature]
    ) -> list[FileSpec]:
        """Writes one dataset of about `count` rows; the manifest comes with `finish`."""
        specs = {**columns, **_feature_columns(self._settings, features)}
        seed, size = self._settings.seed, self._settings.samples.rows_per_file
        files = write_shuffled(rows.select(*specs), f"{self._folder}/{part}", count, size, seed)
        self._parts[part] = (specs, files)
        return files

    def finish(self) -> None:
        settings = self._settings
        content = settings.model_dump_json(include={"seed", "window", "sources", "features", "histories", "vectors", "samples"})
        files = repr({part: files for part, (_, files) in self._parts.items()})
        vocabularies = repr(sorted((name, spec.digest) for name, spec in self._vocabularies.items()))
        build = storage.digest(settings.date.isoformat(), content, files, vocabularies)
        common = {"date": settings.date.isoformat(), "build": build, "seed": settings.seed}
        shared = {"vocabularies": dict(self._vocabularies), "sources": dict(self._counts)}
        for part, (columns, files) in self._parts.items():
            write_manifest(f"{self._folder}/{part}", Manifest(kind=part, columns=columns, files=files, **common, **shared))
        write_manifest(self._folder, Manifest(kind="samples", **common, **shared))


def _report(counts: Mapping[str, SourceCounts]) -> None:
    """Says what was left out: nothing is dropped silently."""
    for name, count in counts.items():
        for what, reasons in (("filtered", count.filtered), ("quarantined", count.quarantined)):
            for reason, rows in reasons.items():
                colour = "yellow" if what == "quarantined" else "dim"
                out.print(f"  [{colour}]{name}: {rows:,} of {count.rows_read:,} rows {what}: {reason}[/{colour}]")
        if count.missing_days:
            out.print(f"  [yellow]{name}: no files for {', '.join(count.missing_days)}[/yellow]")
