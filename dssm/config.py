"""Settings: one YAML file, validated and frozen.

Every key is documented where it is defined. A file may extend another: `extends: ../demo.yaml`. Paths may hold
`{data}` (the setting `data`) and `{date}` or `{date:%Y%m%d}`: each day of the windows in an event source, else the
run's date. Relative paths are relative to the working directory.
"""

from __future__ import annotations

import datetime as dt
import importlib
from collections.abc import Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from dssm.checks import check_launch, check_losses, check_model, check_placement, towers_of
from dssm.errors import UserError, did_you_mean
from dssm.feature_checks import (
    check_features,
    check_file_system,
    check_names,
    check_of_counter,
    check_of_history,
    packed_width,
    rows_that_fit,
)
from dssm.features import DenseFeat, Feature, VarLenSparseFeat
from dssm.sections import (
    Catalogue,
    Counter,
    Evaluate,
    EventSource,
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
    UserTable,
    VectorTable,
    Window,
)
from dssm.sections.reporting import category_feature
from dssm.strict import StrictModel
from dssm.yaml_file import apply_override, explain, read_yaml

DAY = dt.timedelta(days=1)
MADE = "made"  # the context of settings that something was made with: whether it could learn is asked no more


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
    def _parts_fit(self, info: ValidationInfo) -> Settings:
        for section in ("sources", "profiles", "vectors", "histories", "counters", "targets", "features"):
            check_names(section, getattr(self, section))
        check_names("samples.negatives", self.samples.negatives)
        self._check_log_columns()  # first: a feature that `of` can't list has no table to share either
        check_features(self.features, self.vectors)
        self._check_targets()
        self._check_samples()
        self._check_placeholders()
        check_file_system("root", self.root)
        check_file_system("item_table.location", self.table_location)
        check_file_system("user_table.location", self.in_root(self.user_table.location))
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
        check_names("model.objectives", self.model.objectives)
        for place, tower in towers_of(self.model):
            check_names(f"{place}.channels", getattr(tower, "channels", ()))
        check_model(self.model, self.features, self.vectors, self.target_names)
        if info.context != MADE:
            graded = any(source.label != "1" for source in self.sources.values() if "train" in source.roles)
            check_losses(self.model, self.train, self.samples, graded)
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
            **{f"samples.negatives.{name}": negatives.logs for name, negatives in self.samples.negatives.items()},
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
                check_of_history(feature, self.features)
            elif feature.source_column in self.counters:
                check_of_counter(feature, self.counters[feature.source_column])
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
            check_names(f"sources.{key}.targets", source.targets)

    @property
    def target_names(self) -> list[str]:
        """Names of the further labels, in the order of the sources."""
        return list(dict.fromkeys(name for source in self.sources.values() for name in source.targets))

    @property
    def user_keys(self) -> set[str]:
        """Names of the columns that hold users' ids: of the sources and the profiles."""
        return {source.user for source in self.sources.values()} | {table.key for table in self.profiles.values()}

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
        widths = {f"features.{f.name}": packed_width(f, self.vectors) for f in self.features.values()}
        widths["samples.negatives"] = sum(kind.count for kind in self.samples.negatives.values())
        widest = max(widths, key=lambda key: widths[key])
        row_bytes = 4 * widths[widest]  # int32 or float32
        if row_bytes and self.samples.rows_per_file > (largest := rows_that_fit(row_bytes)):
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
            inputs |= {f"samples.negatives.{name}.{part}": place for part, place in kind.published.items()}
        outputs = {"item_table.location": self.item_table.location, "item_table.metastore": self.item_table.metastore}
        outputs |= {"user_table.location": self.user_table.location, "index.location": self.index.location}
        metrics = {"observe.metrics_file": self.observe.metrics_file}
        for paths, fill, known in (
            (inputs, self.expand, "{data}, {date}, {date:%Y%m%d}"),
            (outputs, self.in_root, "{root}, {name}"),
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
    def table_location(self) -> str:
        """Folder of the item table's versions."""
        return self.in_root(self.item_table.location)

    @property
    def metastore(self) -> str | None:
        place = self.item_table.metastore
        return place and self.in_root(place)

    def in_root(self, path: str) -> str:
        """Fills {root} and {name} in."""
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


def load_settings(path: str, overrides: Sequence[str] = ()) -> Settings:
    """Reads and validates a YAML file.

    Args:
      path: the file.
      overrides: `dotted.key=value`, the value in YAML; they go over the file.
    Raises: UserError with one line a fault.
    """
    values = read_yaml(path)
    for override in overrides:
        apply_override(values, override)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise UserError("\n".join(f"{path}: {line}" for line in explain(error))) from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


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
