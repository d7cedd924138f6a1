"""The Spark session, and the few things that only the JVM can tell."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException, ParseException
from pyspark.sql import DataFrame, SparkSession

from dssm.config import Settings
from dssm.errors import UserError
from dssm.paths import SPARK_LOG
from dssm.spark_progress import progress_shown

# Rows of an Arrow batch between Spark and Python: large enough that a vocabulary's hash table, which
# pyarrow builds anew at each look-up, costs little; small enough that 768-wide vectors stay below 100 MB.
ARROW_BATCH_ROWS = 16384
UNBOUNDED = 2**31 - 1  # Spark's own number of executors where none is set
SPARKS_OWN_REDACTION = "(?i)secret|password|token|access[.]?key"  # the default of spark.redaction.regex in Spark 3.5


@contextlib.contextmanager
def spark_session(settings: Settings, job: str, hive: bool = False) -> Iterator[SparkSession]:
    """Yields the session of one job and stops it at the end.

    Args:
      settings: of the run.
      job: name shown in Spark's user interface.
      hive: whether tables of the metastore are read or written.
    """
    builder = SparkSession.builder.appName(f"dssm {settings.name} {job}")
    for key, value in _secret_conf(settings).items():
        builder = builder.config(key, value)
    if hive:
        builder = builder.enableHiveSupport()
    session = builder.getOrCreate()
    if SPARK_LOG not in (session.conf.get("spark.driver.extraJavaOptions", "") or ""):
        session.sparkContext.setLogLevel("ERROR")  # else the log's file has its own level, and the terminal errors only
    for key, value in session_conf(settings).items():
        session.conf.set(key, value)
    _look_up_once(session)
    try:
        with progress_shown(session):
            yield session
    finally:
        session.stop()


def _look_up_once(session: SparkSession) -> None:
    """Keeps the Java classes that PySpark 3.5 asks for by name for every column that it makes.

    Java looks for a class of such a name in each package that PySpark imports, and so in all archives of Spark, each
    time.
    """
    jvm = session.sparkContext._jvm
    for name in ("functions", "PythonUtils"):
        setattr(jvm, name, getattr(jvm, name))


def _secret_conf(settings: Settings) -> dict[str, str]:
    """Returns Spark's secret settings, and what keeps them out of its pages and logs, whatever their names are."""
    secrets = settings.spark.read_secrets()
    if not secrets:
        return {}
    hidden = "|".join([SPARKS_OWN_REDACTION, *(re.escape(key) for key in secrets)])
    return {**secrets, "spark.redaction.regex": settings.spark.conf.get("spark.redaction.regex", hidden)}


def session_conf(settings: Settings) -> dict[str, str]:
    """Returns what every session is set to; the user's own Spark settings go first."""
    conf = {
        "spark.sql.session.timeZone": settings.timezone,
        "spark.sql.shuffle.partitions": str(settings.samples.shuffle_partitions),
        "spark.sql.execution.arrow.maxRecordsPerBatch": str(ARROW_BATCH_ROWS),
        "spark.sql.inMemoryColumnarStorage.compressed": "false",  # a cache is read once or twice: not worth its packing
        "spark.sql.csv.parser.columnPruning.enabled": "false",  # else rows with too many or few fields go unnoticed
    }
    return {key: settings.spark.conf.get(key, value) for key, value in conf.items()}


def needs_hive(settings: Settings) -> bool:
    """Whether any input is a Hive table."""
    tables = [*settings.sources.values(), *settings.profiles.values(), settings.catalogue]
    published = [place for kind in settings.samples.negatives.values() for place in kind.published.values()]
    return any(table.table is not None for table in tables) or any(p.startswith("table:") for p in published)


def matches(spark: SparkSession, key: str, pattern: str) -> bool:
    """Whether a path or glob names at least one existing file or folder, on any file system of Hadoop's.

    Raises: UserError that names `key` where the glob is malformed or the file system can't be asked.
    """
    jvm = spark._jvm
    assert jvm is not None
    try:
        path = jvm.org.apache.hadoop.fs.Path(pattern)
        found = path.getFileSystem(spark._jsc.hadoopConfiguration()).globStatus(path)
    except Py4JJavaError as error:
        reason = " ".join(str(error.java_exception.getMessage()).split())
        raise UserError(f"{key}: {pattern} can't be looked up: {reason}") from error
    return found is not None and len(found) > 0


@contextlib.contextmanager
def explained(key: str, frame: DataFrame | None = None) -> Iterator[None]:
    """Turns Spark's complaint about an expression or a file into a UserError that names the setting."""
    try:
        yield
    except (AnalysisException, ParseException) as error:
        reason = " ".join(str(error.desc if hasattr(error, "desc") else error).split(";\n")[0].split())
        columns = f"; the columns are {', '.join(frame.columns)}" if frame is not None else ""
        raise UserError(f"{key}: {reason}{columns}") from error


def size_in_bytes(frame: DataFrame) -> int:
    """Returns about how many bytes a frame's rows take, as Spark's planner takes it from the files: reads none."""
    return int(frame._jdf.queryExecution().optimizedPlan().stats().sizeInBytes())


def most_tasks(spark: SparkSession, per_core: int) -> int:
    """Returns how many tasks keep every core busy: of the executors that there are, or may come.

    Under dynamic allocation a session starts with none: what it has then says nothing of what it may get.
    """
    context = spark.sparkContext
    conf, cores = context.getConf(), int(context.defaultParallelism)
    if conf.get("spark.dynamicAllocation.enabled", "false") == "true" and not str(context.master).startswith("local"):
        executors = int(conf.get("spark.dynamicAllocation.maxExecutors", str(UNBOUNDED)))
        cores = max(cores, executors * int(conf.get("spark.executor.cores", "1")))
    return per_core * cores
