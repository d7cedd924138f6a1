"""Settings: one YAML file, validated and frozen. The only place that reads YAML.

Every key is documented where it is defined. A file may extend another: `extends: ../demo.yaml`. Paths may hold
`{data}` (the setting `data`) and `{date}` or `{date:%Y%m%d}`: each day of the windows in an event source, else the
run's date. Relative paths are relative to the working directory.
"""

from __future__ import annotations

import datetime as dt
import importlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import fsspec
import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from dssm.checks import check_launch, check_losses, check_model, check_placement, towers_of
from dssm.errors import UserError, did_you_mean
from dssm.features import (
    AnyFeature,
    DenseFeat,
    Feature,
    SparseFeat,
    TextFeat,
    VarLenSparseFeat,
    embedded,
    of_side,
)
from dssm.sections import (
    Catalogue,
    Counter,
    Evaluate,
    EventSource,
    HardNegatives,
    History,
    Index,
    ItemTable,
    Model,
    Observe,
    ProfileTable,
    Report,
    Samples,
    Spark,
    Target,
    Tracking,
    Train,
    UnclickedNegatives,
    UserTable,
    VectorTable,
    Window,
)
from dssm.sections.reporting import category_feature
from dssm.strict import StrictModel

DAY = dt.timedelta(days=1)


def day_start_ms(day: dt.date, timezone: str) -> int:
    """Unix milliseconds at which a day starts in a time zone."""
    return int(dt.datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(timezone)).timestamp()) * 1000


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
    targets: dict[str, Target] = Field(default_factory=dict)
    vectors: dict[str, VectorTable] = Field(default_factory=dict)
    histories: dict[str, History] = Field(default_factory=dict)
    counters: dict[str, Counter] = Field(default_factory=dict)
    features: dict[str, Feature] = Field(min_length=2)
    samples: Samples = Samples()
    model: Model = Model()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    item_table: ItemTable = ItemTable()
    user_table: UserTable = UserTable()
    index: Index = Index()
    report: Report = Report()
    tracking: Tracking = Tracking()
    observe: Observe = Observe()
    spark: Spark = Spark()
    plugins: tuple[str, ...] = Field(
        (), description="Modules with kinds of your own (towers, encoders, losses …), imported before the rest is read."
    )

    @model_validator(mode="before")
    @classmethod
    def _import_plugins(cls, values: Any) -> Any:
        plugins = values.get("plugins") if isinstance(values, Mapping) else None
        for module in plugins if isinstance(plugins, (list, tuple)) else ():
            try:
                importlib.import_module(str(module))
            except ImportError as error:
                raise UserError(
                    f"plugins: '{module}' can't be imported ({error}); expected a module on Python's path"
                ) from error
        return values

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
        for section in ("sources", "profiles", "vectors", "histories", "counters", "targets", "features"):
            _check_names(section, getattr(self, section))
        _check_names("samples.negatives", self.samples.negatives)
        self._check_log_columns()  # first: a feature that `of` can't list has no table to share either
        _check_features(self.features, self.vectors)
        self._check_targets()
        self._check_samples()
        self._check_placeholders()
        _check_file_system("root", self.root)
        _check_file_system("item_table.location", self.table_location)
        _check_file_system("user_table.location", self._in_root(self.user_table.location))
        for role in ("train", "test"):
            if not any(role in source.roles for source in self.sources.values()):
                raise UserError(f"sources: none has '{role}' in its roles; add it to the roles of one source")
        self._check_split()
        self._check_file_size()
        check_launch(self.train)
        check_placement(self.model, self.train)
        for key, days in (("recent.days", self.train.recent), ("validation.days", self.train.validation)):
            if days is not None and days.days > self.window.train_days:
                raise UserError(
                    f"train.{key}: {days.days} are more than window.train_days, "
                    f"{self.window.train_days}; expected at most those"
                )
        _check_names("model.objectives", self.model.objectives)
        for place, tower in towers_of(self.model):
            _check_names(f"{place}.channels", getattr(tower, "channels", ()))
        check_model(self.model, self.features, self.vectors, self.target_names)
        check_losses(self.model, self.train, self.samples)
        category_feature(self.report, self.features, self.catalogue.key)
        names = ("recall", "precision", "hitrate", "ndcg", "mrr", "coverage")
        metrics = [f"{name}@{k}" for name in names for k in self.evaluate.cutoffs]
        for key, table in (("item_table", self.item_table), ("user_table", self.user_table)):
            if table.gate.metric not in metrics:
                raise UserError(
                    f"{key}.gate.metric: no metric is named '{table.gate.metric}'"
                    + did_you_mean(table.gate.metric, metrics)
                )
        if self.item_table.location == self.user_table.location:
            raise UserError(f"user_table.location: {self.user_table.location} is item_table.location; name another")
        return self

    def _check_log_columns(self) -> None:
        """Checks the sources of histories and counters, and the features that read them."""
        known = {
            **{f"histories.{name}": history.sources for name, history in self.histories.items()},
            **{f"counters.{name}": counter.sources for name, counter in self.counters.items()},
            **{
                f"samples.negatives.{name}": negatives.sources
                for name, negatives in self.samples.negatives.items()
                if isinstance(negatives, UnclickedNegatives)
            },
        }
        for key, sources in known.items():
            for source in sources:
                if source not in self.sources:
                    raise UserError(
                        f"{key}.sources: no event source is named '{source}'" + did_you_mean(source, self.sources)
                    )
        for name in self.counters:
            if name in self.histories:
                raise UserError(f"counters.{name}: a history has this name; rename one of them")
        for feature in self.features.values():
            if feature.source_column in self.histories:
                _check_of_history(feature, self.features)
            elif feature.source_column in self.counters:
                _check_of_counter(feature, self.counters[feature.source_column])
            elif isinstance(feature, VarLenSparseFeat) and feature.of is not None:
                raise UserError(
                    f"features.{feature.name}.of: goes with a history only, and '{feature.source_column}' is none"
                    + did_you_mean(feature.source_column, self.histories)
                )

    def _check_targets(self) -> None:
        given = {name for source in self.sources.values() for name in source.targets}
        for name in self.targets:
            if name not in given:
                raise UserError(f"targets.{name}: no source has it in its targets" + did_you_mean(name, given))
        for key, source in self.sources.items():
            _check_names(f"sources.{key}.targets", source.targets)

    @property
    def target_names(self) -> list[str]:
        """Names of the further labels, in the order of the sources."""
        return list(dict.fromkeys(name for source in self.sources.values() for name in source.targets))

    def _check_samples(self) -> None:
        samples = self.samples
        if samples.unclicked_share < 1 and samples.train_rows == "positives":
            raise UserError("samples.unclicked_share: goes with samples.train_rows: all; set it, or remove the share")
        if samples.train_rows == "positives" and samples.changed("unclicked_weight"):
            raise UserError(
                f"samples.unclicked_weight: found {samples.unclicked_weight:g}, but samples.train_rows is positives; "
                "set that to all, or remove the weight"
            )
        if samples.vocabularies.grow and samples.vocabularies.run is None:
            raise UserError("samples.vocabularies.grow: grows another run's; name that in samples.vocabularies.run")
        needing = [f.name for f in self.features.values() if isinstance(f, DenseFeat) and f.time is not None]
        if needing and self.catalogue.upload_time is None:
            raise UserError(f"features.{needing[0]}.time: needs catalogue.upload_time; name the column there")

    def _check_split(self) -> None:
        """Checks that a user can have rows of training and of the test in one source, where the split needs it."""
        if self.samples.split.kind != "leave_last_out":
            return
        if not any({"train", "test"} <= set(source.roles) for source in self.sources.values()):
            found = ", ".join(f"{name} [{', '.join(source.roles)}]" for name, source in self.sources.items())
            raise UserError(
                "samples.split.kind: leave_last_out tests on training positives of sources with both roles, and none "
                f"has both (found {found}); expected roles: [train, test] of one source, or kind: time"
            )

    def _check_file_size(self) -> None:
        """Checks that the packed columns of a sample file fit Arrow's binary columns, whose offsets are of 31 bits."""
        widths = {f"features.{f.name}": _packed_width(f, self.vectors) for f in self.features.values()}
        widths["samples.negatives"] = sum(kind.count for kind in self.samples.negatives.values())
        widest = max(widths, key=lambda key: widths[key])
        row_bytes = 4 * widths[widest]  # int32 or float32
        if row_bytes and self.samples.rows_per_file > (largest := _rows_that_fit(row_bytes)):
            raise UserError(
                f"samples.rows_per_file: {self.samples.rows_per_file} rows of {widest}, {row_bytes:,} bytes each, "
                f"do not fit one column of a file (2 GiB); expected at most {largest}"
            )

    def _check_placeholders(self) -> None:
        inputs = {f"sources.{name}.path": table.path for name, table in self.sources.items()}
        inputs |= {f"profiles.{name}.path": table.path for name, table in self.profiles.items()}
        inputs |= {f"vectors.{name}.path": table.path for name, table in self.vectors.items()}
        inputs |= {"catalogue.path": self.catalogue.path, "evaluate.oracle": self.evaluate.oracle}
        for name, kind in self.samples.negatives.items():
            if isinstance(kind, HardNegatives):
                inputs |= {f"samples.negatives.{name}.{part}": getattr(kind, part) for part in ("items", "users")}
        outputs = {"item_table.location": self.item_table.location, "item_table.metastore": self.item_table.metastore}
        outputs |= {"user_table.location": self.user_table.location, "index.location": self.index.location}
        metrics = {"observe.metrics_file": self.observe.metrics_file}
        for paths, fill, known in (
            (inputs, self.expand, "{data}, {date}, {date:%Y%m%d}"),
            (outputs, self._in_root, "{root}, {name}"),
            (metrics, lambda _: self.metrics_file("job") or "", "{root}, {name}, {job}"),
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

    def metrics_file(self, job: str) -> str | None:
        """The further file with a job's metrics, if one is asked for."""
        place = self.observe.metrics_file
        return place and place.format(root=self.root, name=self.name, job=job)

    def for_date(self, date: dt.date) -> Settings:
        return self.model_copy(update={"date": date})

    def day_start_ms(self, offset_days: int) -> int:
        """Unix milliseconds at which the day `date + offset_days` starts in the settings' time zone."""
        return day_start_ms(self.date + offset_days * DAY, self.timezone)

    def window_days(self, before: int = 0) -> list[dt.date]:
        """Every day from the first of training, or so many days `before` it, to the last of the test."""
        offsets = range(-self.window.train_days - before, self.window.test_days)
        return [self.date + offset * DAY for offset in offsets]

    def expand(self, path: str, daily: bool = False, before: int = 0) -> list[str]:
        """Returns the path with its placeholders filled: one path, or one a day of the windows.

        Args:
          daily: {date} stands for each day of the windows instead of the run's date.
          before: days before the first of training, read as well.
        """
        days = self.window_days(before) if daily and "{date" in path else [self.date]
        return [path.format(data=self.data, date=day) for day in days]


def _packed_width(feature: AnyFeature, vectors: Mapping[str, VectorTable]) -> int:
    """Returns the numbers in each value of a feature's packed columns (`manifest.encoded_columns`), 0 without one."""
    if isinstance(feature, VarLenSparseFeat):
        return feature.maxlen
    if not isinstance(feature, DenseFeat) or feature.pre_embed is None:
        return 0
    table = vectors[feature.pre_embed]
    if table.storage == "inline":
        return table.width
    return 0 if feature.reduce_type == "none" else feature.maxlen or 0


def _rows_that_fit(row_bytes: int) -> int:
    """Returns the largest rows_per_file whose files' packed columns stay below 2³¹ bytes.

    A file's rows r are drawn, with a deviation of at most √r: room is left for eight of these.

    >>> _rows_that_fit(768 * 4)
    692393
    """
    most = (2**31 - 1) // row_bytes
    return max(1, int((math.sqrt(most + 16) - 4) ** 2))  # r + 8√r = most


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


def _check_features(features: Mapping[str, AnyFeature], vectors: Mapping[str, VectorTable]) -> None:
    """Checks the references between features and vectors.

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
        if feature.changed("hash_buckets"):
            raise UserError(f"features.{feature.name}.hash_buckets: the table of '{owner.name}' has its own; remove it")
        if isinstance(owner, SparseFeat) and (owner.is_bucketised or owner.time is not None):
            raise UserError(f"{key}: the ids of '{owner.name}' are buckets; name a feature of ids")
        if isinstance(feature, TextFeat) != isinstance(owner, TextFeat):
            raise UserError(f"{key}: trigrams and ids share no table; name another {feature.kind}")
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
        if not isinstance(given, DenseFeat) or given.pre_embed is None or given.reduce_type == "none":
            continue
        if vectors[given.pre_embed].storage == "table" and given.maxlen is None:
            raise UserError(
                f"features.{given.name}.maxlen: vectors '{given.pre_embed}' are of storage: table, so that samples "
                "hold lists of row numbers; expected the entries to keep, such as 50"
            )
    for side in ("user", "item"):
        if not of_side(features, side):
            raise UserError(f"features: the {side} tower has none; give at least one feature with side: {side}")


def _check_of_history(feature: AnyFeature, features: Mapping[str, AnyFeature]) -> None:
    key = f"features.{feature.name}"
    if feature.side != "user":
        raise UserError(f"{key}.side: a history is the user's; expected 'user'")
    # Favourites come with the largest shares first: for them the first are the heaviest.
    favourites = isinstance(feature, VarLenSparseFeat) and feature.of is not None and feature.weighted
    if getattr(feature, "keep", "first") not in (("first", "heaviest") if favourites else ("first",)):
        raise UserError(f"{key}.keep: a history is newest first; expected keep: first")
    if isinstance(feature, VarLenSparseFeat) and feature.of is not None:
        counted = features.get(feature.of)
        if counted is None or counted.side != "item":
            items = [f.name for f in of_side(features, "item")]
            raise UserError(f"{key}.of: no item feature is named '{feature.of}'" + did_you_mean(feature.of, items))
        if isinstance(counted, (DenseFeat, TextFeat)):
            raise UserError(f"{key}.of: '{feature.of}' is a {counted.kind} and has no ids to list")
        if isinstance(counted, SparseFeat) and counted.is_bucketised:
            raise UserError(
                f"{key}.of: the ids of '{feature.of}' are the buckets of a number, whose table can't be shared; "
                "expected an item feature of ids"
            )
        if feature.share_embedding != counted.vocabulary:
            raise UserError(
                f"{key}.share_embedding: found {feature.share_embedding!r}, but the ids are those of '{feature.of}'; "
                f"set it to {counted.vocabulary}"
            )
        return
    is_list = isinstance(feature, VarLenSparseFeat) or (
        isinstance(feature, DenseFeat) and feature.pre_embed is not None and feature.reduce_type != "none"
    )
    if not is_list or isinstance(feature, TextFeat) or getattr(feature, "weighted", False):
        raise UserError(
            f"{key}.column: '{feature.source_column}' is a history, a list without weights; "
            "expected a VarLenSparseFeat without weights or with 'of', or a DenseFeat with pre_embed and a reduce_type"
        )


def _check_of_counter(feature: AnyFeature, counter: Counter) -> None:
    key = f"features.{feature.name}"
    if feature.side != counter.side:
        raise UserError(f"{key}.side: the counter '{feature.source_column}' is the {counter.side}'s; set it to that")
    is_number = isinstance(feature, DenseFeat) and feature.is_number and feature.time is None
    if not is_number or getattr(feature, "transform", "") in ("minmax", "standard"):
        raise UserError(
            f"{key}.column: '{feature.source_column}' is a counter, a number that changes with each event; "
            "expected a DenseFeat with transform raw or log1p"
        )
    if isinstance(feature, DenseFeat) and feature.null is not None:
        raise UserError(f"{key}.null: found {feature.null:g}, but a counter is 0 or its prior, never null; remove it")


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


def _read_yaml(path: str, extending: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Reads a file of settings; with `extends`, another one, relative to it, lies below.

    Raises: UserError where a file can't be read, or files extend each other in a ring.
    """
    place = Path(path).resolve()
    if place in extending:
        ring = " → ".join(str(file) for file in (*extending, place))
        raise UserError(f"{path}: extends itself ({ring}); remove one of the `extends`")
    values = _parse_yaml(path)
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise UserError(f"{path}: extends: found {base!r}, expected the path of a YAML file")
    below = Path(path).parent / base
    if not below.is_file():
        raise UserError(f"{path}: extends: {below} is no file; expected a YAML file's path relative to this one")
    return _laid_over(_read_yaml(str(below), (*extending, place)), values)


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lays settings over others: mappings are merged, null takes one away, and another `kind` replaces it whole.

    >>> _laid_over({"a": {"x": 1, "y": 2}, "b": {"kind": "p", "z": 3}}, {"a": {"y": 5}, "b": {"kind": "q"}})
    {'a': {'x': 1, 'y': 5}, 'b': {'kind': 'q'}}
    """
    merged = dict(below)
    for key, value in above.items():
        known = below.get(key)
        if isinstance(known, Mapping) and value is None:
            del merged[key]
        elif isinstance(known, Mapping) and isinstance(value, Mapping):
            other_kind = "kind" in value and value["kind"] != known.get("kind")
            merged[key] = dict(value) if other_kind else _laid_over(known, value)
        else:
            merged[key] = value
    return merged


def _parse_yaml(path: str) -> dict[str, Any]:
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
    return values


def load_settings(path: str, overrides: Sequence[str] = ()) -> Settings:
    """Reads and validates a YAML file.

    Args:
      path: the file.
      overrides: `dotted.key=value`, the value in YAML; they go over the file.
    Raises: UserError with one line a fault.
    """
    values = _read_yaml(path)
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
    if value is None and isinstance(section.get(last), Mapping):
        del section[last]  # as in a file that extends another
    else:
        section[last] = value


def _key_parts(key: str) -> list[str]:
    """Splits a dotted key; the keys of Spark's own settings hold dots themselves."""
    conf = "spark.conf."
    return ["spark", "conf", key.removeprefix(conf)] if key.startswith(conf) else key.split(".")


_FEATURE_KINDS = ("SparseFeat", "VarLenSparseFeat", "TextFeat", "DenseFeat")
_NEGATIVE_KINDS = ("uniform", "popularity", "suppressed", "group", "unclicked", "hard")


def _explain(error: ValidationError) -> Iterator[str]:
    """Yields one line a fault: the dotted key, what was found, what was expected."""
    unknown = {
        fault["loc"] for fault in error.errors() if fault["type"] == "value_error" and "unknown key" in fault["msg"]
    }
    for fault in error.errors():
        if fault["type"] == "extra_forbidden" and fault["loc"][:-1] in unknown:
            continue
        loc = tuple(str(part) for part in fault["loc"])
        kinds = _NEGATIVE_KINDS if loc[:2] == ("samples", "negatives") else _FEATURE_KINDS
        tag = 3 if kinds is _NEGATIVE_KINDS else 2  # where pydantic puts the kind behind the name
        place = ".".join(part for n, part in enumerate(loc) if n != tag or part not in kinds) or "settings"
        message = re.sub(r"^(Value error|Assertion failed), ", "", fault["msg"])
        if fault["type"] == "missing":
            yield f"{place}: required, but not given"
        elif fault["type"] in ("value_error", "extra_forbidden"):
            yield f"{place}: {message}"
        elif fault["type"] in ("union_tag_not_found", "union_tag_invalid"):
            found = fault["input"].get("kind") if isinstance(fault["input"], Mapping) else None
            hint = did_you_mean(str(found), kinds) if found else f" (known: {', '.join(kinds)})"
            what = "feature" if kinds is _FEATURE_KINDS else "negatives"
            yield f"{place}.kind: found {found!r}, expected the kind of the {what}{hint}"
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
