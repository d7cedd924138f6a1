"""The plan of a pipeline on a cluster: a line a figure, with the formula and its inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from dssm.config import Settings
from dssm.features import embedded
from dssm.plan import network, rows
from dssm.plan.constants import Constants
from dssm.plan.sizes import Sizes
from dssm.sections import LossKind, OptimizerKind
from dssm.sections.indexing import NUMBER, ItemBytes
from dssm.train.traffic import ExchangePlan, TableUse, lookups_of, plan_exchange

BACKWARD = 3  # a training's multiply-adds over those of the forward pass
BYTES_OF_A_NUMBER = {"float32": 4, "float16": 2, "int8": 1}


@dataclass(frozen=True)
class Cluster:
    """nodes: machines; cores: of each; gpus: of all together, a rank each; network: bytes a second of each node."""

    nodes: int = 1
    cores: int = 2
    gpus: int = 0
    network: float = 1.25e9

    @property
    def all_cores(self) -> int:
        return self.nodes * self.cores

    def ranks(self, settings: Settings) -> int:
        return self.gpus or settings.train.ranks

    def crossing(self, size: float) -> float:
        """Returns the seconds that a shuffle of so many bytes takes on the wire: all but 1 / nodes of it crosses."""
        return size * (self.nodes - 1) / self.nodes / (self.nodes * self.network)


@dataclass(frozen=True)
class Line:
    """A figure. `formula` names the inputs, and `inputs` gives their values.

    value: in `unit`; NaN where an optimizer or a sink does not say what it needs.
    unit: bytes, s, or count.
    """

    job: str
    what: str
    value: float
    unit: str
    formula: str
    inputs: str


Lines = list[Line]


def plan(settings: Settings, sizes: Sizes, cluster: Cluster, constants: Constants) -> Lines:
    """Returns the figures of all jobs, in their order."""
    parts: tuple[Callable[..., Lines], ...] = (samples_lines, train_lines, evaluate_lines, score_lines, index_lines)
    return [line for part in parts for line in part(settings, sizes, cluster, constants)]


# build_samples -------------------------------------------------------------------------------------------


def samples_lines(settings: Settings, sizes: Sizes, cluster: Cluster, constants: Constants) -> Lines:
    parquet, build = constants.parquet, constants.build_samples
    sample, test = rows.sample_bytes(settings, parquet), rows.sample_bytes(settings, parquet, "test")
    item, user = rows.item_bytes(settings, parquet), rows.user_bytes(settings, parquet)
    found = [
        ("samples", sizes.train_rows * sample + sizes.test_rows * test, "train × row + test × row",
         f"{sizes.train_rows:,} × {sample:,.0f} B + {sizes.test_rows:,} × {test:,.0f} B"),
        ("items", sizes.items * item, "items × row", f"{sizes.items:,} × {item:,.0f} B"),
        ("users and interactions", sizes.test_users * user + sizes.pairs * parquet.pair,
         "test users × row + pairs × pair",
         f"{sizes.test_users:,} × {user:,.0f} B + {sizes.pairs:,} × {parquet.pair:.1f} B"),
    ]  # fmt: skip
    lines = [
        Line("build_samples", f"Parquet, {what}", value, "bytes", formula, inputs)
        for what, value, formula, inputs in found
    ]
    shuffled = shuffle_line(settings, sizes, constants)
    lines.append(shuffled)
    rows_read = sizes.events + sizes.items
    work, wire = build.event_core_s * rows_read / cluster.all_cores, cluster.crossing(shuffled.value)
    lines.append(
        Line("build_samples", "time", build.fixed_s + work + wire, "s", "fixed + (events + items) × s / cores + wire",
             f"{build.fixed_s:.1f} s + {rows_read:,} × {build.event_core_s * 1e6:.1f} µs / {cluster.all_cores} "
             f"+ {wire:,.1f} s")
    )  # fmt: skip
    return lines


def shuffle_line(settings: Settings, sizes: Sizes, constants: Constants) -> Line:
    samples, shuffle = sizes.train_rows + sizes.test_rows, constants.shuffle
    large = sizes.items * rows.item_bytes(settings, constants.parquet) > settings.samples.broadcast_mb * 2**20
    times = 1 + large  # to the items of a large catalogue, before they go to their files
    value = rows.wire_bytes(settings, sizes.events, times * samples, sizes.pairs, sizes.items)
    twice = "2 × " if large else ""
    inputs = (
        f"{shuffle.fixed_bytes / 1e6:.1f} MB + {shuffle.compression:.2f} × ("
        f"{sizes.events:,} × {rows.event_wire_bytes(settings)} B + "
        f"{twice}{samples:,} × {rows.sample_wire_bytes(settings)} B + {sizes.pairs:,} × {rows.PAIR_BYTES} B + "
        f"{sizes.items:,} × {rows.item_wire_bytes(settings)} B)"
    )
    formula = f"fixed + ratio × (events × row + {twice}samples × row + pairs × pair + items × row)"
    return Line("build_samples", "shuffle", shuffle.fixed_bytes + shuffle.compression * value, "bytes", formula, inputs)


# train ---------------------------------------------------------------------------------------------------


def table_uses(settings: Settings, sizes: Sizes) -> list[TableUse]:
    """Returns what a rank's step looks up of each table."""
    dims = {f.vocabulary: f.dim for f in embedded(settings.features) if f.share_embedding is None}
    return [
        TableUse(f"embedding_{name}", sizes.tables[name], dims[name], lookups)
        for name, lookups in lookups_of(settings).items()
    ]


def exchange_plan(settings: Settings, sizes: Sizes, ranks: int) -> ExchangePlan:
    uses = table_uses(settings, sizes)
    spread = [use.name for use in uses if ranks > 1 and settings.model.embedding.shards(use.rows)]
    return plan_exchange(uses, spread, network.model_weights(settings), ranks)


def table_bytes(uses: list[TableUse], optimizer: OptimizerKind) -> tuple[float, float]:
    """Returns the bytes of all tables, and of the optimizer's state of them; NaN where that is not known."""
    slots = [optimizer.slots(use.dim) for use in uses]
    return (
        sum(NUMBER * use.rows * use.dim for use in uses),
        sum(
            NUMBER * use.rows * use.dim * (math.nan if each is None else each)
            for use, each in zip(uses, slots, strict=True)
        ),
    )


def train_lines(settings: Settings, sizes: Sizes, cluster: Cluster, constants: Constants) -> Lines:
    ranks, uses = cluster.ranks(settings), table_uses(settings, sizes)
    return [
        *memory_lines(settings, uses, ranks),
        *exchange_lines(settings, sizes, ranks),
        *step_lines(settings, sizes, cluster, constants),
    ]


def memory_lines(settings: Settings, uses: list[TableUse], ranks: int) -> Lines:
    optimizer = settings.train.optimizer
    tables, state = table_bytes(uses, optimizer)
    shapes = " + ".join(f"{use.rows:,} × {use.dim}" for use in uses)
    formula, inputs = (
        "4 B × Σ rows × dim × (1 + slots)",
        f"4 B × ({shapes}), {optimizer.kind}: {_gb(tables)} + {_gb(state)}",
    )
    lines = [Line("train", "tables and state, replicated, a rank", tables + state, "bytes", formula, inputs)]
    spread = [use for use in uses if use.rows >= settings.model.embedding.min_rows]
    if ranks > 1:
        cut = sum(table_bytes(spread, optimizer))
        lines.append(
            Line("train", "tables and state, sharded, a rank", tables + state - cut + cut / ranks, "bytes",
                 "small + large / ranks", f"{_gb(tables + state - cut)} + {_gb(cut)} / {ranks}")
        )  # fmt: skip
    return lines


def exchange_lines(settings: Settings, sizes: Sizes, ranks: int) -> Lines:
    if ranks == 1:
        return []
    chosen = exchange_plan(settings, sizes, ranks)
    open_tables = plan_exchange([table.use for table in chosen.tables], [], chosen.weights, ranks).tables
    sums = {way: sum(table.bytes_by[way] for table in open_tables) for way in ("sparse", "dense")}
    distinct = ", ".join(f"≤ {table.use.distinct:,.0f} of {table.use.rows:,}" for table in open_tables)
    ways = ", ".join(f"{table.use.name.removeprefix('embedding_')} {table.way}" for table in chosen.tables)
    return [
        Line("train", "tables' gradients a step, sparse", sums["sparse"], "bytes",
             "(N − 1) Σ looked up × (4 dim + 4)", f"N = {ranks}; {distinct}"),
        Line("train", "tables' gradients a step, dense", sums["dense"], "bytes",
             "2 (N − 1) / N Σ rows × (4 dim + 4)", f"N = {ranks}"),
        Line("train", "received a step, as chosen", chosen.expected_bytes, "bytes",
             "Σ the lesser way + 2 (N − 1) / N × 4 × weights", f"{ways}; {_count(chosen.weights)} weights"),
    ]  # fmt: skip


def step_lines(settings: Settings, sizes: Sizes, cluster: Cluster, constants: Constants) -> Lines:
    train, times, ranks = settings.train, constants.train, cluster.ranks(settings)
    steps = train.epochs * math.ceil(sizes.train_rows / (ranks * train.batch_size))
    products = step_products(settings, ranks)
    received = exchange_plan(settings, sizes, ranks).expected_bytes
    wire = received / (cluster.network / max(1, math.ceil(ranks / cluster.nodes))) if cluster.nodes > 1 else 0.0
    moved = train.optimizer.moves_whole_tables
    passed = 0.0 if moved is False else math.nan
    if moved:
        passed = 2 * sum(table_bytes(table_uses(settings, sizes), train.optimizer))  # read and written
    if cluster.gpus:
        rate, memory, what = (
            constants.assumed.gpu_products_per_s,
            constants.assumed.gpu_memory_bytes_per_s,
            "assumed GPU",
        )
    else:
        cores = max(1.0, cluster.all_cores / ranks)
        rate, memory, what = cores / times.product_core_s, cores * constants.memory_bytes_per_s, f"{cores:g} cores"
    step = times.step_s + products / rate + passed / memory + wire
    return [
        Line("train", "steps", steps, "count", "epochs × ⌈rows / (ranks × batch)⌉",
             f"{train.epochs} × ⌈{sizes.train_rows:,} / ({ranks} × {train.batch_size:,})⌉"),
        Line("train", "a step", step, "s", "fixed + products / rate + tables moved / memory + received / wire",
             f"{times.step_s * 1e3:.2f} ms + {_count(products, '.3g')} / {rate:.3g} ({what}) + {_gb(passed)} / "
             f"{_gb(memory)} + {wire * 1e3:.2f} ms"),
        Line("train", "time", times.fixed_s + steps * step, "s", "fixed + steps × step",
             f"{times.fixed_s:.1f} s + {steps:,} × {_ms(step)}"),
    ]  # fmt: skip


def step_products(settings: Settings, ranks: int) -> float:
    """Returns the multiply-adds of a rank's step, forward and backward."""
    batch, width = settings.train.batch_size, settings.model.user_tower.width(settings.model.vector_dim)
    drawn = sum(kind.count for kind in settings.samples.negatives.values())
    losses = [objective.loss or settings.train.loss for objective in settings.model.all_objectives.values()]
    user, item = (network.side_cost(settings, side).products for side in ("user", "item"))
    items = batch * (1 + drawn) + max(loss.catalogue_items for loss in losses)
    scores = batch * sum(scored_items(loss, batch, drawn, ranks) for loss in losses)
    return BACKWARD * (batch * user + items * item + scores * width)


def scored_items(loss: LossKind, batch: int, drawn: int, ranks: int) -> int:
    """Returns how many items a loss scores each row's user with, the row's own among them.

    Args:
      batch: rows of a rank.
      drawn: sampled negatives of a row.
    """
    joined = ranks if loss.joins_ranks else 1
    others = joined * (batch + loss.catalogue_items) if loss.reads_candidates else 1
    return others + (drawn if loss.takes_sampled else 0)


# evaluate, score_items, index_items ----------------------------------------------------------------------


def evaluate_lines(settings: Settings, sizes: Sizes, cluster: Cluster, constants: Constants) -> Lines:
    width = vector_width(settings)
    products = sizes.test_users * sizes.items * width
    seconds = products * constants.search.product_core_s / cluster.all_cores
    start = constants.score.fixed_s
    return [
        Line("evaluate", "item vectors, an executor", NUMBER * sizes.items * width, "bytes", "4 B × items × dim",
             f"4 B × {sizes.items:,} × {width}"),
        Line("evaluate", "time, the model alone", start + seconds, "s", "fixed + users × items × dim × s / cores",
             f"{start:.1f} s + {sizes.test_users:,} × {sizes.items:,} × {width} × "
             f"{constants.search.product_core_s * 1e12:.0f} ps / {cluster.all_cores}"),
    ]  # fmt: skip


def vector_width(settings: Settings) -> int:
    """Returns the numbers of a combined vector."""
    model = settings.model
    parts = sum(objective.share > 0 for objective in model.all_objectives.values())
    return parts * model.item_tower.width(model.vector_dim)


def score_lines(settings: Settings, sizes: Sizes, cluster: Cluster, constants: Constants) -> Lines:
    model, score = settings.model, constants.score
    objectives = len(model.objectives)
    numbers = vector_width(settings) + objectives * model.item_tower.width(model.vector_dim)
    size = BYTES_OF_A_NUMBER[settings.item_table.dtype]
    products = network.side_cost(settings, "item").products
    row = score.row_core_s + products * score.product_core_s
    return [
        Line("score_items", "table", sizes.items * (numbers * size + rows.ID_BYTES), "bytes",
             "items × (numbers × size + id)", f"{sizes.items:,} × ({numbers} × {size} B + {rows.ID_BYTES} B)"),
        Line("score_items", "time", score.fixed_s + sizes.items * row / cluster.all_cores, "s",
             "fixed + items × (row + products × s) / cores",
             f"{score.fixed_s:.1f} s + {sizes.items:,} × ({score.row_core_s * 1e6:.2f} µs + {_count(products)} × "
             f"{score.product_core_s * 1e12:.0f} ps) / {cluster.all_cores}"),
    ]  # fmt: skip


def index_lines(settings: Settings, sizes: Sizes, cluster: Cluster, constants: Constants) -> Lines:
    width = vector_width(settings)
    found = []
    for name, sink in settings.index.sinks.items():
        each = sink.item_bytes(width, rows.ID_BYTES) or ItemBytes(math.nan, "bytes of an item", "not known")
        found.append(
            Line("index_items", f"{name} ({sink.kind})", sizes.items * each.size, "bytes", f"items × ({each.formula})",
                 f"{sizes.items:,} × ({each.inputs})")
        )  # fmt: skip
    return found


def _count(number: float, form: str = ",") -> str:
    return "not known" if math.isnan(number) else format(number, form)


def _gb(size: float) -> str:
    return "not known" if math.isnan(size) else f"{size / 1e9:.3g} GB"


def _ms(seconds: float) -> str:
    return "not known" if math.isnan(seconds) else f"{seconds * 1e3:.2f} ms"
