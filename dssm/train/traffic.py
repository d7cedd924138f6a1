"""How the gradients of each table travel between ranks, chosen at the start by the bytes that a rank receives a step.

Of N ranks, for a table of R rows of D float32 of which a rank's step looks U up:

- sparse, an allgather of the rows looked up and their ids: (N − 1) · U · (4 D + 4);
- dense, in the ring allreduce that the other weights share: 2 (N − 1) / N · R · (4 D + 4), the further number of a row
  being how often it was looked up, so that an optimizer moves the same rows either way;
- sharded, where `model.embedding` spreads the table: ids asked for, their rows, and the rows' gradients with the same
  further number, each (N − 1) / N of what a rank looks up: (N − 1) / N · U · (4 + 4 D + 4 D + 4).

In such collectives a rank sends on average what it receives. Dense is less than sparse where a rank looks up more than
the share 2 / N of the table.

U is what L look-ups of ids drawn uniformly from R find: R (1 − (1 − 1 / R)^L). For look-ups that are drawn one by one
from any other distribution the expectation is smaller, as 1 − (1 − p)^L is concave in p, and padded lists have fewer
look-ups: so U is an upper bound of the expected rows, closer than min(L, R), and a table that goes sparse costs at most
what is said here. Its weakness: a table whose look-ups are very uneven may go dense though sparse would be less.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from dssm.config import Settings
from dssm.features import VarLenSparseFeat, embedded
from dssm.units import bytes_shown

NUMBER_BYTES = 4  # of a float32, and of a table's id as int32

Way = Literal["sparse", "dense", "sharded"]


@dataclass(frozen=True)
class TableUse:
    """What a rank's step does with a table.

    Attributes:
      name: of its variable's layer.
      rows, dim: its shape, over all ranks.
      lookups: ids that the step looks up, at most, each as often as it occurs.
    """

    name: str
    rows: int
    dim: int
    lookups: int

    @property
    def distinct(self) -> float:
        """Rows that the step looks up: an upper bound of their expectation, see above."""
        if self.rows == 1:
            return min(self.lookups, 1)
        return -self.rows * math.expm1(self.lookups * math.log1p(-1 / self.rows))


@dataclass(frozen=True)
class TableExchange:
    """The way of one table's gradients, and the bytes that a rank expects a step by each way."""

    use: TableUse
    way: Way
    bytes_by: Mapping[Way, float]

    @property
    def expected_bytes(self) -> float:
        return self.bytes_by[self.way]


@dataclass(frozen=True)
class ExchangePlan:
    """How a step's gradients travel.

    Attributes:
      ranks: N.
      tables: in the order of the vocabularies.
      weights: numbers in the other trained variables, whose gradients are summed by one fused allreduce.
    """

    ranks: int
    tables: tuple[TableExchange, ...]
    weights: float

    @property
    def weight_bytes(self) -> float:
        """Bytes that a rank receives for the other weights: 2 (N − 1) / N of their gradients."""
        return allreduce_share(self.ranks) * self.weights * NUMBER_BYTES

    @property
    def expected_bytes(self) -> float:
        """Bytes that a rank receives a step, at most on average."""
        return self.weight_bytes + sum(table.expected_bytes for table in self.tables)

    @property
    def dense(self) -> frozenset[str]:
        """Names of the tables whose gradients go dense."""
        return frozenset(table.use.name for table in self.tables if table.way == "dense")

    def forced(self, ways: Mapping[str, Way]) -> ExchangePlan:
        """Returns the plan with other ways for some tables that are not sharded, by name."""
        tables = (replace(table, way=ways.get(table.use.name, table.way)) for table in self.tables)
        return replace(self, tables=tuple(tables))

    @property
    def arithmetic(self) -> str:
        """The formulas of the tables' `rows`, as a line for a reader."""
        sharded = ", sharded (N − 1) / N U (8 D + 8)" if any(table.way == "sharded" for table in self.tables) else ""
        return (
            f"  bytes that a rank receives a step, N = {self.ranks} ranks, U rows expected of a table's R, D wide: "
            f"sparse (N − 1) U (4 D + 4), dense 2 (N − 1) / N R (4 D + 4){sharded}"
        )

    def rows(self) -> list[tuple[str, ...]]:
        """Returns the choice as a table for a reader, its header first: bytes are those that a rank receives a step."""
        header = ("table", "rows × dim", "look-ups", "expected rows", "sparse", "dense", "goes")
        lines: list[tuple[str, ...]] = [header]
        for table in self.tables:
            use, cost = table.use, table.bytes_by
            lines.append(
                (
                    use.name, f"{use.rows:,} × {use.dim}", f"{use.lookups:,}", f"≤ {use.distinct:,.0f}",
                    *(bytes_shown(cost[way]) if way in cost else "–" for way in ("sparse", "dense")),
                    f"{table.way}, {bytes_shown(table.expected_bytes)}",
                )
            )  # fmt: skip
        lines.append(("other weights", f"{self.weights:,}", "", "", "", "", f"dense, {bytes_shown(self.weight_bytes)}"))
        lines.append(("together", "", "", "", "", "", bytes_shown(self.expected_bytes)))
        return lines

    def beside(self, received: float) -> str:
        """Returns a line for a reader. Args: received: bytes a step, as the steps have counted them."""
        planned = bytes_shown(self.expected_bytes)
        return f"  gradients and rows: {bytes_shown(received)} a step received, {planned} planned at most on average"


def allreduce_share(ranks: int) -> float:
    """Returns 2 (N − 1) / N: what a rank receives in a ring allreduce, as a share of the tensor."""
    return 2 * (ranks - 1) / ranks


def plan_exchange(uses: Iterable[TableUse], sharded: Iterable[str], weights: float, ranks: int) -> ExchangePlan:
    """Chooses for each table the way that takes fewer bytes, sparse where both take the same.

    Args:
      uses: of all tables.
      sharded: names of those that are spread over the ranks.
      weights: numbers in the other trained variables.
      ranks: of the training.
    """
    spread = frozenset(sharded)
    return ExchangePlan(ranks, tuple(_exchange(use, use.name in spread, ranks) for use in uses), weights)


def _exchange(use: TableUse, is_sharded: bool, ranks: int) -> TableExchange:
    marked = (use.dim + 1) * NUMBER_BYTES  # a row with its id, or with how often it was looked up
    if is_sharded:
        others = (ranks - 1) / ranks * use.distinct
        return TableExchange(use, "sharded", {"sharded": others * 2 * marked})
    sparse = (ranks - 1) * use.distinct * marked
    dense = allreduce_share(ranks) * use.rows * marked
    return TableExchange(use, "sparse" if sparse <= dense else "dense", {"sparse": sparse, "dense": dense})


def lookups_of(settings: Settings) -> dict[str, int]:
    """Returns how many ids of each vocabulary a rank's step looks up, at most: those of its batch, of the rows'
    sampled negatives, and of the items that it draws from the catalogue.
    """
    batch = settings.train.batch_size
    drawn = sum(kind.count for kind in settings.samples.negatives.values())
    losses = [objective.loss or settings.train.loss for objective in settings.model.all_objectives.values()]
    catalogue = max(loss.catalogue_items for loss in losses)
    rows = {"user": batch, "item": batch * (1 + drawn) + catalogue}
    lookups: dict[str, int] = {}
    for feature in embedded(settings.features):
        entries = feature.maxlen if isinstance(feature, VarLenSparseFeat) else 1
        lookups[feature.vocabulary] = lookups.get(feature.vocabulary, 0) + rows[feature.side] * entries
    return lookups
