"""The sections of the settings: every key, documented where it is defined."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, PositiveInt, field_validator, model_validator

from dssm.features import StrictModel

TimeUnit = Literal["ms", "s", "iso"]


class Window(StrictModel):
    """Days relative to the run's date D: train on [D − train_days, D), test on [D, D + test_days)."""

    train_days: int = Field(30, ge=1, le=3660)
    test_days: int = Field(1, ge=1, le=3660)


class Table(StrictModel):
    """Where rows come from: files (`path`) or a Hive table (`table`)."""

    path: str | None = Field(None, description="A path or a glob, which may hold {data} and {date}.")
    table: str | None = Field(None, description="A Hive table, as database.table.")
    format: Literal["csv", "json", "parquet"] = Field(
        "csv", description="csv has a header and may be gzipped; json is JSON lines."
    )

    @model_validator(mode="after")
    def _one_place(self) -> Table:
        if (self.path is None) == (self.table is None):
            raise ValueError("give one of 'path' and 'table'")
        if self.table is not None and self.changed("format"):
            raise ValueError(
                f"format: {self.format} goes with path; the metastore knows the format of a table: remove it"
            )
        return self

    @property
    def is_columnar(self) -> bool:
        """Whether single columns can be read, and read again at little cost."""
        return self.table is not None or self.format == "parquet"

    @property
    def place(self) -> str:
        return self.path or f"table {self.table}"


_CHANGING = (
    "rand", "randn", "random", "uuid", "shuffle", "now", "current_timestamp", "current_date", "curdate",
    "localtimestamp", "monotonically_increasing_id", "spark_partition_id",
)  # fmt: skip
# A call of one of these, of unix_timestamp without a time, or one of those that Spark knows without parentheses.
_CHANGING_SQL = re.compile(
    rf"\b(?:(?:{'|'.join(_CHANGING)})\s*\(|unix_timestamp\s*\(\s*\)"
    r"|(?:current_timestamp|current_date)\b)",
    re.IGNORECASE,
)
_QUOTED_SQL = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`[^`]*`""", re.DOTALL)


def _check_unchanging(expression: str) -> None:
    """Checks that an SQL expression has the same value in every build.

    Raises: ValueError that names what it calls.
    """
    found = _CHANGING_SQL.search(_QUOTED_SQL.sub("''", expression))
    if found is not None:
        raise ValueError(
            f"'{expression}' holds {found.group().rstrip('( )')}, which differs from run to run; "
            "the samples must be the same in every build: expected the row's own columns"
        )


class EventSource(Table):
    """One event log. Ids are read as text; the SQL expressions see the log's own columns."""

    user: str = Field(description="Column of the user id.")
    item: str = Field(description="Column of the item id.")
    time: str = Field(description="Column of the time of the event.")
    time_unit: TimeUnit = Field(
        "ms", description="Unix milliseconds, Unix seconds, or text such as 2022-04-25 10:00:00."
    )
    label: str = Field("1", description="SQL expression of the label: above 0 is a positive.")
    targets: dict[str, str] = Field(
        default_factory=dict,
        description="SQL expressions of further labels by name, such as like, long_view, watch_share; null: not known. "
        "A name in the section `targets` is scaled as said there; the others must lie in 0…1.",
    )
    weight: str = Field("1", description="SQL expression of the sample weight, at least 0.")
    where: str | None = Field(
        None, description="SQL condition; the other rows are filtered, whatever they hold, and counted."
    )
    roles: tuple[Literal["train", "test"], ...] = Field(
        ("train", "test"),
        description="What its rows may become. With none they still feed histories, seen items and baselines.",
    )
    check_upload: bool = Field(
        True,
        description="An event before its item's upload (catalogue.upload_time) is filtered, and never in a history.",
    )

    @field_validator("label", "weight", "where")
    @classmethod
    def _is_unchanging(cls, value: str | None) -> str | None:
        _check_unchanging(value or "")
        return value

    @field_validator("targets")
    @classmethod
    def _are_unchanging(cls, value: dict[str, str]) -> dict[str, str]:
        for name, expression in value.items():
            try:
                _check_unchanging(expression)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        return value

    @model_validator(mode="after")
    def _rows_become_samples(self) -> EventSource:
        if not self.roles and (of_samples := self.changed("weight", "targets")):
            raise ValueError(
                f"{' and '.join(of_samples)}: found with roles: [], of which no row becomes a sample; "
                "remove it, or add train or test to the roles"
            )
        return self


class Target(StrictModel):
    """The scale of a further label: low…high becomes 0…1; a value outside is quarantined."""

    low: FiniteFloat = 0.0
    high: FiniteFloat = 1.0

    @model_validator(mode="after")
    def _has_a_width(self) -> Target:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low:g} and high {self.high:g}; expected low below high")
        return self


class KeyedTable(Table):
    """Rows by id."""

    key: str = Field(description="Column of the id.")
    latest_by: str | None = Field(
        None,
        description="Where an id stands in several rows, the one with the largest value of this column is read "
        "(numbers by value, times by time, text by order). Without it a repeated id is an error.",
    )


class ProfileTable(KeyedTable):
    """Columns of the users: one row a user, or one a snapshot.

    Snapshots come with the column `as_of`, or from a path with {date}: the day's snapshot then holds that
    day, and is seen from the next day's start on. An event sees the newest snapshot before it; of those before
    the windows the newest within 60 days is read.
    """

    available_from: dt.date | None = Field(
        None, description="Events before this day do not see the table: it was taken then. Not with snapshots."
    )
    as_of: str | None = Field(None, description="Column of the time that a row was taken: the table holds snapshots.")
    as_of_unit: TimeUnit = Field("iso", description="Unit of as_of; a day such as 2022-04-25 is its start.")

    @property
    def has_snapshots(self) -> bool:
        return self.as_of is not None or "{date" in (self.path or "")

    @model_validator(mode="after")
    def _one_time(self) -> ProfileTable:
        if self.available_from is not None and self.has_snapshots:
            raise ValueError("available_from goes with a table without snapshots; remove it, or as_of and {date}")
        if self.as_of is None and self.changed("as_of_unit"):
            raise ValueError(f"as_of_unit: {self.as_of_unit} is of the column as_of; name that, or remove the unit")
        return self


class Catalogue(KeyedTable):
    """Columns of the items: one row an item. What is scored and recommended."""

    upload_time: str | None = Field(
        None,
        description="Column of the time from which the item exists; null or blank: always. No event before it is "
        "joined to the item, and no negative is drawn before it.",
    )
    upload_unit: TimeUnit = Field("iso", description="Unit of upload_time; a day such as 2022-04-25 is its start.")

    @model_validator(mode="after")
    def _unit_has_a_time(self) -> Catalogue:
        if self.upload_time is None and self.changed("upload_unit"):
            raise ValueError(
                f"upload_unit: {self.upload_unit} is of the column upload_time; name that, or remove the unit"
            )
        return self


class VectorTable(StrictModel):
    """Pretrained vectors: JSON lines `{key: id, values: [...]}` or Parquet with the same columns."""

    path: str
    format: Literal["json", "parquet"] = "json"
    key: str = Field("post_id", description="Column of the id.")
    values: str = Field("values", description="Column of the numbers.")
    width: int = Field(ge=1, description="Numbers in each vector; a row of another width is quarantined.")
    storage: Literal["inline", "table"] = Field(
        "inline",
        description="inline: samples hold the vectors, pooled for a list. table: samples hold row numbers of one "
        "frozen table, which the towers hold: smaller samples, larger models.",
    )


class History(StrictModel):
    """The items that a user acted on strictly before the event, newest first: a column to build features on."""

    sources: tuple[str, ...] = Field(min_length=1, description="Event sources that it is taken from.")
    last: int = Field(50, ge=1, description="Items kept, the newest.")
    days: int | None = Field(
        None,
        ge=1,
        description="Only events of the last so many days (of 24 hours); a log of "
        "daily files is read so many days before the windows. null: those in the windows' files, whatever their age.",
    )
    positives: bool = Field(True, description="Only events with a label above 0.")
    then: str | None = Field(
        None, description="A profile's column with an older list (newest first), put after the log's items."
    )
    separator: str = Field(",", min_length=1, max_length=1, description="Between the entries of `then`.")

    @model_validator(mode="after")
    def _parts_a_list(self) -> History:
        if self.then is None and self.changed("separator"):
            raise ValueError(f"separator: {self.separator!r} is of the list in 'then'; name that, or remove it")
        return self


class Counter(StrictModel):
    """A number from the log as of the event, strictly before it: a column to build DenseFeats on.

    Of a user: over the last `days` times 24 hours. Of an item: over the last `days` whole days before the
    event's day, over all users.
    """

    side: Literal["user", "item"]
    sources: tuple[str, ...] = Field(min_length=1, description="Event sources that are counted.")
    days: int = Field(ge=1, le=366)
    count: Literal["events", "positives", "rate"] = Field(
        "positives", description="rate: (positives + prior · strength) / (events + strength), a click-through rate."
    )
    prior: FiniteFloat = Field(0.1, ge=0, le=1, description="The rate where nothing is known.")
    strength: FiniteFloat = Field(10.0, ge=0, description="Events that the prior is worth.")

    @model_validator(mode="after")
    def _prior_is_of_a_rate(self) -> Counter:
        if self.count != "rate" and (of_rate := self.changed("prior", "strength")):
            raise ValueError(f"{' and '.join(of_rate)}: found with count: {self.count}; remove it, or set count: rate")
        return self


class _Negatives(StrictModel):
    count: int = Field(4, ge=1, le=1000, description="Negatives of each positive, drawn independently.")
    weight: FiniteFloat = Field(1.0, ge=0, description="Factor on the positive's sample weight.")


class UniformNegatives(_Negatives):
    """Uniform over the catalogue's items that existed at the event's time."""

    kind: Literal["uniform"] = "uniform"


class PopularityNegatives(_Negatives):
    """In proportion to popularity^exponent, popularity being the item's positives in the training window.

    0.75 is word2vec's. Below 0, the rarer an item the likelier it is. An item without positives is never drawn.
    """

    kind: Literal["popularity"] = "popularity"
    exponent: FiniteFloat = Field(0.75, ge=-4, le=4)


class SuppressedNegatives(_Negatives):
    """In proportion to popularity, with that of the most popular items suppressed by word2vec's rule.

    An item with share f of the positives has the weight f · min(1, √(t/f) + t/f) (Mikolov et al., 2013, as in
    the published code), so that negatives follow the positives that the same threshold leaves.
    """

    kind: Literal["suppressed"] = "suppressed"
    threshold: FiniteFloat = Field(1e-3, gt=0, le=1, description="t: items with a smaller share are not suppressed.")


class GroupNegatives(_Negatives):
    """Hard: uniform over the items of the positive's group that existed at the event's time."""

    kind: Literal["group"] = "group"
    column: str = Field(description="Column of the catalogue that names the group, such as city or author.")


class UnclickedNegatives(_Negatives):
    """Shown and not clicked: drawn from the user's newest unclicked impressions at or before the event."""

    kind: Literal["unclicked"] = "unclicked"
    sources: tuple[str, ...] = Field((), description="Event sources that they come from; default: all.")
    pool: int = Field(50, ge=1, le=1000, description="Impressions drawn from, each equally likely; the newest.")


class HardNegatives(_Negatives):
    """Hard: from ranks a…b of a previous model's ranking of the catalogue for the user (Huang et al., KDD 2020).

    The user's vector is the published one, where `users` names such a table and has the user; else the mean
    of the published vectors of what the user clicked in the training window.
    """

    kind: Literal["hard"] = "hard"
    items: str = Field(
        description="The model's published item vectors: a Parquet folder, or table:NAME, whose newest partition dt "
        "before the run's date is read. With {date} in the folder's path, that of the newest day before the run's "
        "date is read, at most 60 days back."
    )
    users: str | None = Field(None, description="Its user vectors, in the same way.")
    id: str = Field("item_id", description="Column of the item id.")
    user_id: str = Field("user_id", description="Column of the user id.")
    values: str = Field("vector", description="Column of the numbers.")
    ranks: tuple[PositiveInt, PositiveInt] = Field((101, 500), description="First and last rank drawn from.")

    @model_validator(mode="after")
    def _ranks_ascend(self) -> HardNegatives:
        if self.ranks[0] > self.ranks[1]:
            raise ValueError(f"ranks: {self.ranks[0]} is above {self.ranks[1]}; expected [first, last]")
        if self.users is None and self.changed("user_id"):
            raise ValueError(f"user_id: '{self.user_id}' is a column of 'users'; name that table, or remove user_id")
        return self


Negatives = Annotated[
    UniformNegatives | PopularityNegatives | SuppressedNegatives | GroupNegatives | UnclickedNegatives | HardNegatives,
    Field(discriminator="kind"),
]


class Split(StrictModel):
    """Which events are tested on.

    time: [D, D + test_days). Nothing from after D trains, as in production. Its weakness: one window is one
    season and one set of trends, and users or items new in it are cold.

    leave_last_out: each user's last `rows` positives before D are tested on, with at least one positive left
    to train on. Its weakness: other users' later events train the model that is tested on earlier ones, so that
    item popularity and fashions leak from the future; recall is flattered. Use it to compare with papers. What
    is left out of a user may be drawn as its negative in training: to exclude it would tell training of the test.
    """

    kind: Literal["time", "leave_last_out"] = "time"
    rows: int = Field(1, ge=1, description="Positives left out of each user (leave_last_out).")
    drop_cold: tuple[Literal["users", "items"], ...] = Field(
        (),
        description="Leaves out test rows whose user or item has no training row. The test then knows no newcomers, "
        "whom production must serve: results are flattered.",
    )

    @model_validator(mode="after")
    def _rows_are_left_out(self) -> Split:
        if self.kind != "leave_last_out" and self.changed("rows"):
            raise ValueError(f"rows: {self.rows} goes with kind: leave_last_out; set it, or remove rows")
        return self


class Frozen(StrictModel):
    """An earlier run whose vocabularies and statistics are used.

    Its ids stay the same, so that vectors and models of both runs can be compared, and a later model can start
    from the tables of an earlier one.
    """

    run: str | None = Field(None, description="Its folder, or NAME/DATE below root. Given by --vocabularies too.")
    grow: bool = Field(
        False, description="New tokens go behind the known ones, whose ids stay; else they are unknown. Also --grow."
    )


class Samples(StrictModel):
    train_rows: Literal["positives", "all"] = Field(
        "positives",
        description="Rows of the training window that become samples; in-batch losses need positives only.",
    )
    unclicked_share: FiniteFloat = Field(
        1.0, gt=0, le=1, description="With train_rows all: share of the rows without a positive label that is kept."
    )
    unclicked_weight: FiniteFloat = Field(1.0, ge=0, description="Factor on those rows' sample weight.")
    negatives: dict[str, Negatives] = Field(
        default_factory=dict, description="Drawn for each positive of the training window, by name of your choice."
    )
    popular_threshold: FiniteFloat | None = Field(
        None,
        gt=0,
        le=1,
        description="Positives of an item with share f of them are kept with probability min(1, √(t/f) + t/f), "
        "word2vec's rule with this t; null: all.",
    )
    max_positives_per_user: int | None = Field(
        None, ge=1, description="At most so many training positives of a user, drawn at random; null: all."
    )
    split: Split = Split()
    vocabularies: Frozen = Frozen()
    rows_per_file: int = Field(16384, ge=1, description="Rows of a sample file, which is one row group.")
    rows_per_task: int = Field(
        500_000, ge=1, description="Events that a task orders by user and time in memory: about 100 bytes each."
    )
    broadcast_mb: int = Field(
        256,
        ge=0,
        description="An encoded catalogue above this size is joined to the samples by a shuffle instead of being "
        "looked up in each worker's memory; a table of vectors above it is mapped from a file on the worker's disk.",
    )
    max_quarantine_share: FiniteFloat = Field(
        0.01, ge=0, le=1, description="Share of a source's rows that may be unreadable before the job stops."
    )
    shuffle_partitions: int = Field(8, ge=1, description="Tasks of each Spark shuffle.")


class Tower(StrictModel):
    layers: tuple[PositiveInt, ...] = Field((256, 128), description="Widths of the hidden layers.")
    activation: Literal["relu", "tanh", "elu", "gelu", "swish"] = "relu"
    dropout: FiniteFloat = Field(0.0, ge=0, lt=1, description="Share of each hidden layer that is dropped in training.")


class Model(StrictModel):
    user_tower: Tower = Tower()
    item_tower: Tower = Tower()
    vector_dim: int = Field(64, ge=1, description="Width of both towers' vectors.")
    temperature: FiniteFloat = Field(0.1, gt=0, description="τ of s = ⟨u, v⟩ / τ; the vectors have unit norm.")


class Train(StrictModel):
    launch: Literal["spark", "horovodrun", "single"] = Field(
        "spark", description="horovod.spark.run inside the Spark job, horovodrun, or one process."
    )
    ranks: int = Field(1, ge=1, description="Processes that train together; `single` takes 1.")
    hosts: str | None = Field(None, description="Hosts for horovodrun, as host:slots,…; default: this machine.")
    loss: Literal["in_batch_softmax", "weighted_bce"] = "in_batch_softmax"
    positive_weight: FiniteFloat = Field(1.0, gt=0, description="w₊ of weighted_bce.")
    candidates: Literal["all_ranks", "rank"] = Field(
        "all_ranks", description="Whose items are the in-batch candidates."
    )
    logq: Literal["frequency", "batch", "off"] = Field(
        "frequency",
        description="Sampling probability q of the correction: the item's share of the training rows, "
        "its share of the batch, or no correction.",
    )
    logq_strength: FiniteFloat = Field(
        1.0, ge=0, le=1, description="Factor on log q; below 1, popular items are pushed down."
    )
    mask_accidental_hits: bool = Field(
        True, description="Leave out candidates that are the row's own item again, or another positive of its user."
    )
    batch_size: int = Field(1024, ge=1, description="Rows a rank and step.")
    epochs: int = Field(3, ge=1)
    optimizer: Literal["adam", "adagrad"] = Field(
        "adam", description="Adam moves the whole embedding tables every step; Adagrad only the rows of the batch."
    )
    learning_rate: FiniteFloat = Field(0.001, gt=0)
    reader_threads: int = Field(2, ge=1, le=16, description="Petastorm's reader threads of each rank.")
    prefetch: int = Field(4, ge=1, description="Batches made ahead of the step.")
    threads: int | None = Field(None, ge=1, description="TensorFlow's threads a rank; default: cores / ranks.")
    start_timeout_s: int = Field(300, ge=1, description="Wait for all ranks to start.")
    stall_shutdown_s: int = Field(120, ge=1, description="A rank that is silent for so long ends the job.")

    @model_validator(mode="after")
    def _options_of_the_loss(self) -> Train:
        if self.loss != "weighted_bce" and self.changed("positive_weight"):
            raise ValueError(
                f"positive_weight: {self.positive_weight:g} goes with loss: weighted_bce; set it, or remove the weight"
            )
        if self.logq == "off" and self.changed("logq_strength"):
            raise ValueError(
                f"logq_strength: {self.logq_strength:g} with logq: off; remove it, or set logq: frequency or batch"
            )
        return self


class Evaluate(StrictModel):
    cutoffs: tuple[PositiveInt, ...] = Field((10, 50, 100), min_length=1, description="K of the metrics.")
    users_per_block: int = Field(512, ge=1, description="Users scored against the catalogue at once.")
    itemcf_neighbours: int = Field(200, ge=1, description="Most similar items of each item that ItemCF adds up.")
    itemcf_max_interactions: int = Field(
        20_000_000, ge=0, description="Above so many training interactions ItemCF is left out, and the output says so."
    )
    oracle: str | None = Field(
        None, description="Folder with a generated feed's planted tastes: adds the best reachable row."
    )


class Gate(StrictModel):
    """What `evaluate` must have found before the table moves; exit code 3 otherwise."""

    metric: str = Field("recall@50", description="A metric of evaluation.json, seen items kept.")
    better_than: Literal["popularity", "itemcf", "none"] = "popularity"


class ItemTable(StrictModel):
    name: str | None = Field(
        None,
        pattern=r"^([A-Za-z_]\w*\.)?[A-Za-z_]\w*$",
        description="Hive table, as [database.]table; default: the pipeline's name and _items.",
    )
    location: str = Field("{root}/{name}/item_table", description="Folder of the table's immutable versions.")
    metastore: str | None = Field(
        "{root}/metastore_db", description="Folder of the embedded Derby metastore; null: the cluster's own Hive."
    )
    gate: Gate = Gate()
    norm_tolerance: FiniteFloat = Field(1e-3, gt=0, description="How far a vector's norm may be from 1.")


class Spark(StrictModel):
    master: str | None = Field(
        None, description="Spark master; the environment's MASTER goes first; default local[*], all cores."
    )
    conf: dict[str, str] = Field(default_factory=dict, description="Further Spark settings, for every job.")

    @field_validator("conf", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        for key, given in value.items():
            if given is None or isinstance(given, (Mapping, list)):
                raise ValueError(
                    f"'{key}' holds {given!r}; expected a text, a number, true or false, "
                    "and Spark's key in one piece, such as spark.sql.ansi.enabled: false"
                )
        if (zone := value.get("spark.sql.session.timeZone")) is not None:
            raise ValueError(
                f"'spark.sql.session.timeZone' holds '{zone}', but the days are cut in the settings' timezone; "
                "remove it, and set timezone instead"
            )
        return {str(k): str(v).lower() if isinstance(v, bool) else str(v) for k, v in value.items()}
