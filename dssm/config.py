"""Settings: one YAML file, validated and frozen. The only place that reads YAML.

Every key is documented where it is defined. Paths may hold `{data}` (the setting `data`) and `{date}` or
`{date:%Y%m%d}`: each day of the windows in an event source, else the run's date. Relative paths are
relative to the working directory.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import fsspec
import yaml
from pydantic import Field, FiniteFloat, PositiveInt, ValidationError, field_validator, model_validator

from dssm.errors import UserError, did_you_mean
from dssm.features import AnyFeature, DenseFeat, Feature, StrictModel, VarLenSparseFeat, embedded, of_side

DAY = dt.timedelta(days=1)


def day_start_ms(day: dt.date, timezone: str) -> int:
    """Unix milliseconds at which a day starts in a time zone."""
    return int(dt.datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(timezone)).timestamp()) * 1000


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
        return self

    @property
    def place(self) -> str:
        return self.path or f"table {self.table}"


class EventSource(Table):
    """One event log. Ids are read as text; the SQL expressions see the log's own columns."""

    user: str = Field(description="Column of the user id.")
    item: str = Field(description="Column of the item id.")
    time: str = Field(description="Column of the time of the event.")
    time_unit: Literal["ms", "s", "iso"] = Field(
        "ms", description="Unix milliseconds, Unix seconds, or text such as 2022-04-25 10:00:00."
    )
    label: str = Field("1", description="SQL expression of the label: above 0 is a positive.")
    weight: str = Field("1", description="SQL expression of the sample weight, at least 0.")
    where: str | None = Field(
        None, description="SQL condition; the other rows are filtered, whatever they hold, and counted."
    )
    roles: tuple[Literal["train", "test"], ...] = Field(
        ("train", "test"),
        description="What its rows may become. With none they still feed histories, seen items and baselines.",
    )


class ProfileTable(Table):
    """Columns of the users: one row a user."""

    key: str = Field(description="Column of the user id.")
    available_from: dt.date | None = Field(
        None, description="Events before this day do not see the table: it was taken then."
    )


class Catalogue(Table):
    """Columns of the items: one row an item. What is scored and recommended."""

    key: str = Field(description="Column of the item id.")


class VectorTable(StrictModel):
    """Pretrained vectors: JSON lines `{key: id, values: [...]}` or Parquet with the same columns."""

    path: str
    format: Literal["json", "parquet"] = "json"
    key: str = Field("post_id", description="Column of the id.")
    values: str = Field("values", description="Column of the numbers.")
    width: int = Field(ge=1, description="Numbers in each vector; a row of another width is quarantined.")


class History(StrictModel):
    """The items that a user acted on strictly before the event, newest first: a column to build features on."""

    sources: tuple[str, ...] = Field(min_length=1, description="Event sources that it is taken from.")
    last: int = Field(50, ge=1, description="Items kept, the newest.")
    positives: bool = Field(True, description="Only events with a label above 0.")
    then: str | None = Field(
        None, description="A profile's column with an older list (newest first), put after the log's items."
    )
    separator: str = Field(",", min_length=1, max_length=1, description="Between the entries of `then`.")


class Samples(StrictModel):
    train_rows: Literal["positives", "all"] = Field(
        "positives",
        description="Rows of the training window that become samples; in-batch losses need positives only.",
    )
    rows_per_file: int = Field(16384, ge=1, description="Rows of a sample file, which is one row group.")
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
        return {str(k): str(v).lower() if isinstance(v, bool) else str(v) for k, v in value.items()}


class Settings(StrictModel):
    """All settings of one pipeline at one date."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$", description="Name of the pipeline; its runs lie in root/name/date.")
    date: dt.date = Field(description="The date to run where the command names none.")
    root: str = Field("runs", description="Folder of the runs: any that Spark can write.")
    data: str = Field("data", description="What {data} stands for in paths.")
    timezone: str = Field("UTC", description="Time zone of the days.")
    seed: int = Field(0, ge=0, description="Seed of every random choice.")
    window: Window = Window()
    sources: dict[str, EventSource] = Field(min_length=1)
    profiles: dict[str, ProfileTable] = Field(default_factory=dict)
    catalogue: Catalogue
    vectors: dict[str, VectorTable] = Field(default_factory=dict)
    histories: dict[str, History] = Field(default_factory=dict)
    features: dict[str, Feature] = Field(min_length=2)
    samples: Samples = Samples()
    model: Model = Model()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    item_table: ItemTable = ItemTable()
    spark: Spark = Spark()

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"'{value}' is no time zone; expected a name such as UTC or Asia/Shanghai") from error
        return value

    @field_validator("features", mode="before")
    @classmethod
    def _name_features(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {k: {**v, "name": str(k)} if isinstance(v, Mapping) else v for k, v in value.items()}

    @model_validator(mode="after")
    def _parts_fit(self) -> Settings:
        for section in ("sources", "profiles", "vectors", "histories", "features"):
            _check_names(section, getattr(self, section))
        _check_features(self.features, self.vectors, self.histories)
        self._check_placeholders()
        _check_file_system("root", self.root)
        _check_file_system("item_table.location", self.table_location)
        for name, history in self.histories.items():
            for source in history.sources:
                if source not in self.sources:
                    raise UserError(
                        f"histories.{name}.sources: no event source is named '{source}'"
                        + did_you_mean(source, self.sources)
                    )
        for role in ("train", "test"):
            if not any(role in source.roles for source in self.sources.values()):
                raise UserError(f"sources: none has '{role}' in its roles; add it to the roles of one source")
        if self.train.launch == "single" and self.train.ranks != 1:
            raise UserError(
                f"train.ranks: {self.train.ranks} ranks with launch: single; expected 1, or launch: spark or horovodrun"
            )
        if self.train.hosts is not None and self.train.launch != "horovodrun":
            raise UserError(
                f"train.hosts: '{self.train.hosts}' with launch: {self.train.launch}; "
                "remove it, or set launch: horovodrun"
            )
        if self.train.loss == "weighted_bce" and self.samples.train_rows == "positives":
            raise UserError(
                "samples.train_rows: 'positives' leaves weighted_bce without negatives; expected 'all', "
                "or train.loss: in_batch_softmax"
            )
        gate = self.item_table.gate
        metrics = [f"{m}@{k}" for m in ("recall", "precision", "hitrate", "ndcg") for k in self.evaluate.cutoffs]
        if gate.metric not in metrics:
            raise UserError(
                f"item_table.gate.metric: no metric is named '{gate.metric}'" + did_you_mean(gate.metric, metrics)
            )
        return self

    def _check_placeholders(self) -> None:
        inputs = {f"sources.{name}.path": table.path for name, table in self.sources.items()}
        inputs |= {f"profiles.{name}.path": table.path for name, table in self.profiles.items()}
        inputs |= {f"vectors.{name}.path": table.path for name, table in self.vectors.items()}
        inputs |= {"catalogue.path": self.catalogue.path, "evaluate.oracle": self.evaluate.oracle}
        outputs = {"item_table.location": self.item_table.location, "item_table.metastore": self.item_table.metastore}
        for paths, fill, known in (
            (inputs, self.expand, "{data}, {date}, {date:%Y%m%d}"),
            (outputs, self._in_root, "{root}, {name}"),
        ):
            for key, path in paths.items():
                try:
                    fill(path or "")
                except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
                    raise UserError(
                        f"{key}: {path!r} holds an unknown placeholder ({error}); known: {known}"
                    ) from error

    # Paths -----------------------------------------------------------------------------------------

    @property
    def run_folder(self) -> str:
        return f"{self.root}/{self.name}/{self.date.isoformat()}"

    @property
    def table_name(self) -> str:
        return self.item_table.name or f"{self.name.replace('-', '_')}_items"

    @property
    def table_location(self) -> str:
        return self._in_root(self.item_table.location)

    @property
    def metastore(self) -> str | None:
        place = self.item_table.metastore
        return place and self._in_root(place)

    def _in_root(self, path: str) -> str:
        return path.format(root=self.root, name=self.name)

    def for_date(self, date: dt.date) -> Settings:
        return self.model_copy(update={"date": date})

    def day_start_ms(self, offset_days: int) -> int:
        """Unix milliseconds at which the day `date + offset_days` starts in the settings' time zone."""
        return day_start_ms(self.date + offset_days * DAY, self.timezone)

    def window_days(self) -> list[dt.date]:
        """Every day from the first of training to the last of the test."""
        return [self.date + offset * DAY for offset in range(-self.window.train_days, self.window.test_days)]

    def expand(self, path: str, daily: bool = False) -> list[str]:
        """Returns the path with its placeholders filled: one path, or one a day of the windows.

        Args:
          daily: {date} stands for each day of the windows instead of the run's date.
        """
        days = self.window_days() if daily and "{date" in path else [self.date]
        return [path.format(data=self.data, date=day) for day in days]


def _check_file_system(key: str, path: str) -> None:
    """Checks that the job's own files can be written with fsspec; Spark's inputs may lie anywhere."""
    scheme, is_url, _ = path.partition("://")
    if is_url:
        try:
            fsspec.get_filesystem_class(scheme)
        except (ValueError, ImportError) as error:
            raise UserError(f"{key}: '{path}' is on no known file system ({error})") from error


def _check_names(section: str, names: Iterable[str]) -> None:
    """Checks the names that become parts of columns and files.

    Raises: UserError that names the key.
    """
    seen: dict[str, str] = {}
    for name in names:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or "__" in name:
            hint = " (the log's own column name goes into 'column')" if section == "features" else ""
            raise UserError(
                f"{section}.{name}: not a name; expected letters, digits and single underscores, a letter first{hint}"
            )
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise UserError(
                f"{section}.{name}: differs from '{other}' only by case, which Spark's columns don't know; rename one"
            )


def _check_features(
    features: Mapping[str, AnyFeature], vectors: Mapping[str, VectorTable], histories: Mapping[str, History]
) -> None:
    """Checks the references between features, vectors and histories.

    Raises: UserError that names the key, what was found and what would fit.
    """
    if "row" in features:
        raise UserError(
            "features.row: the name is taken; expected another (the log's own column name goes into 'column')"
        )
    with_table = {feature.name: feature for feature in embedded(features)}
    for feature in with_table.values():
        key = f"features.{feature.name}.share_embedding"
        if feature.share_embedding is None:
            continue
        if feature.share_embedding not in features:
            raise UserError(
                f"{key}: no feature is named '{feature.share_embedding}'"
                + did_you_mean(feature.share_embedding, features)
            )
        owner = with_table.get(feature.share_embedding)
        if owner is None:
            raise UserError(f"{key}: '{feature.share_embedding}' is a DenseFeat and has no embedding")
        if owner is feature:
            raise UserError(f"{key}: names the feature itself; remove it")
        if owner.share_embedding is not None:
            raise UserError(f"{key}: '{owner.name}' itself shares '{owner.share_embedding}'; name that one")
        if feature.dim != owner.dim:
            raise UserError(
                f"features.{feature.name}.dim: {feature.dim}, but the table of '{owner.name}' is {owner.dim} wide; "
                f"set it to {owner.dim}"
            )
    for given in features.values():
        if isinstance(given, DenseFeat) and given.pre_embed is not None and given.pre_embed not in vectors:
            raise UserError(
                f"features.{given.name}.pre_embed: no vectors are named '{given.pre_embed}'"
                + did_you_mean(given.pre_embed, vectors)
            )
        if given.source_column in histories:
            if given.side != "user":
                raise UserError(f"features.{given.name}.side: a history is the user's; expected 'user'")
            is_list = isinstance(given, VarLenSparseFeat) or (
                isinstance(given, DenseFeat) and given.pre_embed is not None and given.reduce_type != "none"
            )
            if not is_list or getattr(given, "weighted", False):
                raise UserError(
                    f"features.{given.name}.column: '{given.source_column}' is a history, a list without weights; "
                    "expected a VarLenSparseFeat without weights, or a DenseFeat with pre_embed and a reduce_type"
                )
    for side in ("user", "item"):
        if not of_side(features, side):
            raise UserError(f"features: the {side} tower has none; give at least one feature with side: {side}")


# Reading ---------------------------------------------------------------------------------------------


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML in which a key given twice is an error: the first would be lost silently."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # what only looks like a date or a number: PyYAML lets it through
            raise yaml.constructor.ConstructorError(None, None, f"'{node.value}': {error}", node.start_mark) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge" or not isinstance(key_node, yaml.ScalarNode):
                continue  # `<<: *defaults` gives way to the mapping's own keys; a list as key fails below
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    "while reading a mapping", node.start_mark, f"found key '{key}' twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_settings(path: str, overrides: Sequence[str] = ()) -> Settings:
    """Reads and validates a YAML file.

    Args:
      path: the file.
      overrides: `dotted.key=value`, the value in YAML; they go over the file.
    Raises: UserError with one line a fault.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"--config {path}: {error.strerror or error}; expected a YAML file, such as conf/demo.yaml"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"--config {path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    try:
        values = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: malformed YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: found {type(values).__name__}, expected a mapping of settings")
    for override in overrides:
        _apply(values, override)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise UserError("\n".join(f"{path}: {line}" for line in _explain(error))) from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {override}: expected key=value, such as train.epochs=2")
    try:
        value = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        braces = text.startswith(("{", "[")) and '"' not in text
        quote = f"; a text with braces or brackets needs quotes: --set '{key}=\"{text}\"'" if braces else ""
        raise UserError(f"--set {override}: malformed value: {' '.join(str(error).split())}{quote}") from error
    *parents, last = _key_parts(key.strip())
    section = values
    for depth, parent in enumerate(parents):
        if section.get(parent) is None:
            section[parent] = {}
        section = section[parent]
        if not isinstance(section, dict):
            raise UserError(f"--set {override}: '{'.'.join(parents[: depth + 1])}' is not a section")
    section[last] = value


def _key_parts(key: str) -> list[str]:
    """Splits a dotted key; the keys of Spark's own settings hold dots themselves."""
    conf = "spark.conf."
    return ["spark", "conf", key.removeprefix(conf)] if key.startswith(conf) else key.split(".")


_FEATURE_KINDS = ("SparseFeat", "VarLenSparseFeat", "DenseFeat")


def _explain(error: ValidationError) -> Iterator[str]:
    """Yields one line a fault: the dotted key, what was found, what was expected."""
    unknown = {
        fault["loc"] for fault in error.errors() if fault["type"] == "value_error" and "unknown key" in fault["msg"]
    }
    for fault in error.errors():
        if fault["type"] == "extra_forbidden" and fault["loc"][:-1] in unknown:
            continue
        place = ".".join(str(part) for part in fault["loc"] if part not in _FEATURE_KINDS) or "settings"
        message = re.sub(r"^(Value error|Assertion failed), ", "", fault["msg"])
        if fault["type"] == "missing":
            yield f"{place}: required, but not given"
        elif fault["type"] in ("value_error", "extra_forbidden"):
            yield f"{place}: {message}"
        elif fault["type"] in ("union_tag_not_found", "union_tag_invalid"):
            found = fault["input"].get("kind") if isinstance(fault["input"], Mapping) else None
            hint = did_you_mean(str(found), _FEATURE_KINDS) if found else f" (known: {', '.join(_FEATURE_KINDS)})"
            yield f"{place}.kind: found {found!r}, expected the kind of the feature{hint}"
        else:
            yield f"{place}: found {fault['input']!r}: {message[:1].lower()}{message[1:]}"


def parse_dates(date: str | None, dates: str | None) -> list[dt.date] | None:
    """Returns the days of `--date D` or `--dates A..B` (both included), or None where neither is given.

    >>> parse_dates(None, "2024-01-30..2024-02-01")
    [datetime.date(2024, 1, 30), datetime.date(2024, 1, 31), datetime.date(2024, 2, 1)]
    """
    if date is not None and dates is not None:
        raise UserError("--date and --dates: give one of them")
    if date is not None:
        return [_parse_date("--date", date)]
    if dates is None:
        return None
    first_text, dots, last_text = dates.partition("..")
    if not dots:
        raise UserError(f"--dates {dates}: expected A..B, such as 2024-01-01..2024-01-07")
    first, last = _parse_date("--dates", first_text), _parse_date("--dates", last_text)
    if last < first:
        raise UserError(f"--dates {dates}: the last day is before the first")
    return [first + offset * DAY for offset in range((last - first).days + 1)]


def _parse_date(option: str, text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"{option} {text}: not a date; expected YYYY-MM-DD") from error
