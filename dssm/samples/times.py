"""Columns of times, in whatever unit they come, as Unix milliseconds."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from dssm.errors import UserError
from dssm.samples.sources import is_finite, quoted
from dssm.sections import TimeUnit

LATEST_TIME_MS = 4_102_444_800_000  # 2100-01-01: later times are mistaken units
# Spark takes a time of day alone as of today, which differs from run to run, and a year as its first day.
FULL_DATE, DAY_ALONE = r"^\s*\d{4}-\d\d?-\d\d?", r"^\s*\d{4}-\d\d?-\d\d?\s*$"
TIMES = (T.TimestampType, T.TimestampNTZType)


@dataclass(frozen=True)
class TimeColumn:
    """A column of times as the settings name it.

    Attributes:
      table: the table's key in the settings, such as `sources.events`.
      setting, unit_setting: the table's keys of the column and of its unit.
    """

    table: str
    setting: str
    column: str
    unit_setting: str
    unit: TimeUnit

    @property
    def bad_time(self) -> str:
        """Why a row is unreadable whose time is null."""
        expected = "iso with a full date" if self.unit == "iso" else self.unit
        return f"bad time in '{self.column}' (expected {expected}, 1970 to 2100)"

    def unix_ms(self, frame: DataFrame) -> Column:
        """Returns Unix milliseconds, a day's those of its start; null for what is no time of 1970 to 2100.

        Raises: UserError where the unit is iso and the column's type holds neither text nor times.
        """
        time = self._iso_ms(frame) if self.unit == "iso" else self._number_ms(frame)
        return F.when(time.between(0, LATEST_TIME_MS), time)

    def seen_from(self, frame: DataFrame) -> Column:
        """Returns the Unix milliseconds from which a row of this time is seen; null where it has none.

        A row is seen strictly after its time. Of a day it holds all that happened then: it is seen from the next
        day's start, as a day's file is.
        """
        time = self.unix_ms(frame)
        next_day = F.unix_millis(F.date_add(self._day(frame), 1).cast("timestamp"))
        return F.when(time.isNotNull(), F.coalesce(next_day, time + 1))

    def _day(self, frame: DataFrame) -> Column:
        """Returns the days of what names days alone, else null."""
        given, kind = quoted(self.column), frame.schema[self.column].dataType
        if self.unit != "iso" or isinstance(kind, TIMES):
            return F.lit(None).cast("date")
        if isinstance(kind, T.DateType):
            return given
        text = given.cast("string")
        return F.when(text.rlike(DAY_ALONE), F.to_date(text))

    def _iso_ms(self, frame: DataFrame) -> Column:
        given, kind = quoted(self.column), frame.schema[self.column].dataType
        if isinstance(kind, (T.DateType, *TIMES)):
            return F.unix_millis(given.cast("timestamp"))
        if not isinstance(kind, (T.StringType, T.BinaryType, T.NullType)):
            raise UserError(
                f"{self.table}.{self.setting}: '{self.column}' holds {kind.simpleString()}; expected text such as "
                f"2022-04-25 10:00:00, dates or timestamps, as {self.unit_setting} is iso: set it to ms or s for Unix "
                "times, and write days such as 20220425 as 2022-04-25"
            )
        text = given.cast("string")
        return F.when(text.rlike(FULL_DATE), F.unix_millis(F.to_timestamp(text)))

    def _number_ms(self, frame: DataFrame) -> Column:
        given = quoted(self.column)
        number = given if isinstance(frame.schema[self.column].dataType, T.NumericType) else given.cast("string")
        whole = number.cast("bigint") if self.unit == "ms" else (number.cast("double") * 1000).cast("bigint")
        return F.when(is_finite(number), whole)  # as a bigint, NaN would be 1970
