"""What arithmetic can't know, measured by `make bench-constants` and kept beside this module."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

FILE = Path(__file__).with_name("constants.json")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Parquet(_Frozen):
    """Bytes in the samples' files, snappy included.

    Of a row beside its features (ids as text, keys, label, weight, times): `sample_row`, `user_row`, `item_row`; of a
    pair of a user and an item in `interactions`: `pair`. Of one number of a feature: `id`, a number alone `number`, an
    entry of a list `list_id`, its weight `list_number`, a number of a pretrained vector `vector`.
    """

    sample_row: float
    user_row: float
    item_row: float
    pair: float
    id: float
    number: float
    list_id: float
    list_number: float
    vector: float


class Shares(_Frozen):
    """Of the events of the demo's feed: for a pipeline whose own samples are not there to ask.

    train, test: rows that are positives; pairs: of a user and an item, in `interactions`; test_users: of the users,
    those with a positive in the test window.
    """

    train: float
    test: float
    pairs: float
    test_users: float


class Shuffle(_Frozen):
    """compression: bytes on the wire over bytes of the rows; fixed_bytes: of tables and counts."""

    compression: float
    fixed_bytes: float


class BuildTime(_Frozen):
    """fixed_s: starting and planning; event_core_s: a core's seconds an event."""

    fixed_s: float
    event_core_s: float


class TrainTime(_Frozen):
    """fixed_s: starting, tracing, saving; step_s: of each step, whatever its batch; product_core_s: a core's seconds a
    multiply-add, forward and backward together.
    """

    fixed_s: float
    step_s: float
    product_core_s: float


class ScoreTime(_Frozen):
    """fixed_s: Spark, the towers, the move; row_core_s: reading and writing a row; product_core_s: a multiply-add."""

    fixed_s: float
    row_core_s: float
    product_core_s: float


class SearchTime(_Frozen):
    """product_core_s: a core's seconds a multiply-add of exact search, the selection of the best included."""

    product_core_s: float


class Assumed(_Frozen):
    """Not measured: of a GPU, multiply-adds a second, forward and backward, and bytes a second of its memory."""

    gpu_products_per_s: float
    gpu_memory_bytes_per_s: float


class Constants(_Frozen):
    machine: str
    sizes: Mapping[str, object] = Field(description="That they were measured at.")
    parquet: Parquet
    shares: Shares
    shuffle: Shuffle
    build_samples: BuildTime
    train: TrainTime
    score: ScoreTime
    search: SearchTime
    memory_bytes_per_s: float = Field(description="A core's, reading and writing.")
    assumed: Assumed


def load_constants(path: Path = FILE) -> Constants:
    return Constants.model_validate_json(path.read_bytes())
