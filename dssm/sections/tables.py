"""Where rows come from: windows, event logs, profiles, catalogue, vectors, and what is derived from a log."""

from __future__ import annotations

import datetime as dt
import re
from typing import Literal

from pydantic import Field, FiniteFloat, field_validator, model_validator

from dssm.strict import StrictModel

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
        "csv", description="csv has a header, commas between its columns, and may be gzipped; json is JSON lines."
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
_MOVING_DAYS = "now|today|yesterday|tomorrow"  # to Spark, in a literal of a date or time, maybe before a time zone
# A call of one of these, of unix_timestamp without a time, one of those that Spark knows without parentheses, or a
# literal such as date 'today'.
_CHANGING_SQL = re.compile(
    rf"\b(?:(?:{'|'.join(_CHANGING)})\s*\(|unix_timestamp\s*\(\s*\)"
    rf"|(?:current_timestamp|current_date)\b|(?:date|timestamp(?:_ltz|_ntz)?)\s*r?'(?:{_MOVING_DAYS})')",
    re.IGNORECASE,
)
_QUOTED_SQL = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`[^`]*`""", re.DOTALL)
_MOVING_DAY = re.compile(rf"""['"]\s*({_MOVING_DAYS})\b[\w\s/:+-]*['"]""", re.IGNORECASE)


def _bare(quoted: re.Match[str]) -> str:
    """Returns a quoted text as an empty one, but for a day that moves."""
    day = _MOVING_DAY.fullmatch(quoted.group())
    return f"'{day.group(1)}'" if day else "''"


def _check_unchanging(expression: str) -> None:
    """Checks that an SQL expression has the same value in every build.

    Raises: ValueError that names what it calls.
    """
    found = _CHANGING_SQL.search(_QUOTED_SQL.sub(_bare, expression))
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
        "ms",
        description="Unix milliseconds, Unix seconds, or iso: text that begins with a full date, such as "
        "2022-04-25 10:00:00, dates and timestamps. A column of numbers is none of these, not of 20220425 either.",
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
        "(numbers by value, times by time, text by order). Without it a repeated id is an error. Of a column of dates "
        "or timestamps, rows of after the windows are left out, so that a past date is built from what was known then; "
        "text and numbers are not taken for dates: there a past date gets the newest row of all.",
    )


class ProfileTable(KeyedTable):
    """Columns of the users: one row a user, or one a snapshot.

    Snapshots come with the column `as_of`, or from a path with {date}, one for each day: the day's snapshot then
    holds that day, and is seen from the next day's start on. An event sees the newest snapshot before it; of those
    before the windows the newest within 60 days is read.
    """

    available_from: dt.date | None = Field(
        None, description="Events before this day do not see the table: it was taken then. Not with snapshots."
    )
    as_of: str | None = Field(None, description="Column of the time that a row was taken: the table holds snapshots.")
    as_of_unit: TimeUnit = Field(
        "iso",
        description="Unit of as_of, as time_unit of a source. A row of a day such as 2022-04-25 holds that day: it is "
        "seen from the next day's start on, as a file of that day is; one of a time strictly after it.",
    )

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

    path: str | None = Field(
        None,
        description="A path or a glob, which may hold {data} and {date}, the run's own date: a day of the test window, "
        "so a file named by it must hold nothing that was learned from that day's events, such as counts.",
    )
    title: str | None = Field(
        None, description="Column whose text names an item for people: in recommendations and reports."
    )
    upload_time: str | None = Field(
        None,
        description="Column of the time from which the item exists; null or blank: always. No event before it is "
        "joined to the item, and no negative is drawn before it.",
    )
    upload_unit: TimeUnit = Field(
        "iso", description="Unit of upload_time, as time_unit of a source; a day such as 2022-04-25 is its start."
    )

    @model_validator(mode="after")
    def _unit_has_a_time(self) -> Catalogue:
        if self.upload_time is None and self.changed("upload_unit"):
            raise ValueError(
                f"upload_unit: {self.upload_unit} is of the column upload_time; name that, or remove the unit"
            )
        return self


class VectorTable(StrictModel):
    """Pretrained vectors: JSON lines `{key: id, values: [...]}` or Parquet with the same columns."""

    path: str = Field(
        description="A path or a glob, which may hold {data} and {date}, the run's own date: a day of the test window, "
        "so a file named by it must hold nothing that was learned from that day's events; vectors trained on the days "
        "before are fine."
    )
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
        description="Only events of the last so many days (of 24 hours); a log in days' files ({date} in its path) is "
        "read so many days before the windows. null: events of any age, but of such a log only the windows' days are "
        "read, and those that another history or counter asks for; build_samples says so where there are earlier ones.",
    )
    positives: bool = Field(True, description="Only events with a label above 0.")
    then: str | None = Field(
        None,
        description="A profile's column with an older list (newest first), put after the log's items. An id that the "
        "catalogue lacks counts where the feature's vocabulary or vectors know it; with hash_buckets it is unknown.",
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
