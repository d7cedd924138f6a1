"""docs/scale.md: the plan of the demo's model from 10⁶ to 10¹⁰ events and 10⁵ to 10⁹ items.

python -m dssm.plan.scale        writes docs/scale.md
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from dssm.config import Settings, load_settings
from dssm.plan.constants import Constants, load_constants
from dssm.plan.estimate import Cluster, Line, plan
from dssm.plan.show import shown
from dssm.plan.sizes import EVENTS_OF_A_USER, sizes_of
from dssm.units import bytes_shown

PROJECT = Path(__file__).resolve().parents[2]
PAGE = PROJECT / "docs" / "scale.md"
CONFIG = PROJECT / "conf" / "demo.yaml"
# No run of the demo may decide what the page says; tables are as large as their users and items.
OVERRIDES = ("root=no-runs", "train.optimizer=rowwise_adagrad", "train.batch_size=4096", "train.epochs=1")
EVENTS, ITEMS = tuple(10**power for power in range(6, 11)), tuple(10**power for power in range(5, 10))
CLUSTER = Cluster(nodes=8, cores=16, network=1.25e9)
RANKS = 8

HEAD = """# Scale, on paper

What each job needs, by arithmetic: `./spark-submit.sh plan --config conf/X.yaml --nodes 8` prints it for your own
config and cluster, each figure with its formula and inputs. Rows, widths and bytes between tasks are counted from the
settings; what counting can't tell stands in `dssm/plan/constants.json`, which `make bench-constants` measures;
a GPU's speed alone is assumed.
This page is made from the same code, `python -m dssm.plan.scale`, and a test checks that it is current.
`make bench-plan` runs the jobs at sizes that the constants were not measured at, and prints prediction and
measurement side by side.
"""

TAIL = """
## What the figures leave out

- **Times are of cores like those measured**, used evenly. No skew, no queue, no slow disk: read them as the least.
  `build_samples` has one cost an event, measured on the demo's feed, and counts an item as an event; more features
  cost more.
- **Bytes in files** depend on how full lists are and how well ids compress: constants are of the demo's feed.
- **Look-ups** are counted as if ids were drawn evenly, an upper bound of the rows that travel; see
  `dssm/train/traffic.py`.
- **Vocabularies** of users and items are counted whole. `min_count`, `max_size` and `hash_buckets` cut them, which is
  what to do where a table does not fit.
- **Evaluation** is of all test users against all items by exact search. Above some 10⁷ items, evaluate a sample of
  the users (fewer `window.test_days`), or trust the index's recall. Its start is taken to be that of `score_items`, and
  its baselines come on top.
- **A GPU's speed is assumed** (`assumed` in the constants).
"""


def settings_of_page() -> Settings:
    return load_settings(str(CONFIG), [*OVERRIDES, f"train.ranks={RANKS}"])


def page() -> str:
    """Returns the page, as the settings, the arithmetic and the constants make it."""
    constants, settings = load_constants(), settings_of_page()
    return "\n".join([HEAD, *_constants(constants), *_tables(settings, constants)]) + TAIL


def _constants(constants: Constants) -> Iterator[str]:
    build, train, score = constants.build_samples, constants.train, constants.score
    rows = [
        (
            "an event of `build_samples`",
            f"{build.event_core_s * 1e6:.1f} µs of a core, and {build.fixed_s:.1f} s a run",
        ),
        ("a step of `train`", f"{train.step_s * 1e3:.2f} ms, and {train.product_core_s * 1e12:.0f} ps a multiply-add"),
        (
            "a row of `score_items`",
            f"{_of_row(score.row_core_s)}, and {score.product_core_s * 1e12:.0f} ps a multiply-add",
        ),
        ("exact search", f"{constants.search.product_core_s * 1e12:.0f} ps a multiply-add"),
        ("bytes on the wire", f"{constants.shuffle.compression:.2f} of the rows'"),
    ]
    yield f"## Constants\n\nOf {constants.machine}.\n"
    yield from _table(("", "constant"), rows)


def _of_row(seconds: float) -> str:
    """Tells what a row costs beside its multiply-adds; by bench-constants it may be lost in those and in the starts."""
    return f"{seconds * 1e6:.2f} µs" if seconds > 0 else "too little to be told apart"


def _tables(settings: Settings, constants: Constants) -> Iterator[str]:
    cluster = f"{CLUSTER.nodes} machines of {CLUSTER.cores} cores, {CLUSTER.network * 8 / 1e9:g} Gbit/s each"
    model = (
        f"The demo's model (`conf/demo.yaml`), row-wise Adagrad, {RANKS} ranks, batch {settings.train.batch_size:,}, "
        f"one epoch; {EVENTS_OF_A_USER} events a user. {cluster}."
    )
    yield f"\n## By events\n\n{model} A million items.\n"
    wanted = (
        ("build_samples", "Parquet, samples"), ("build_samples", "shuffle"), ("build_samples", "time"),
        ("train", "steps"), ("train", "time"),
    )  # fmt: skip
    yield from _figures("events", [(n, _lines(settings, constants, n, 10**6)) for n in EVENTS], wanted)
    yield f"\n## By items\n\n{model} 10⁸ events.\n"
    wanted = (
        ("train", "tables and state, replicated, a rank"), ("train", "tables and state, sharded, a rank"),
        ("train", "tables' gradients a step, sparse"), ("train", "tables' gradients a step, dense"),
        ("train", "received a step, as chosen"),
    )  # fmt: skip
    of_items = [(n, _lines(settings, constants, 10**8, n)) for n in ITEMS]
    yield from _figures("items", of_items, wanted)
    yield ""
    wanted = (
        ("evaluate", "item vectors, an executor"), ("evaluate", "time, the model alone"), ("score_items", "table"),
        ("score_items", "time"), ("index_items", "faiss (faiss)"),
    )  # fmt: skip
    yield from _figures("items", of_items, wanted)
    yield "\n## Both: samples and tables, replicated, a rank\n"
    grid = [(f"{events:,}", *(_cell(settings, constants, events, items) for items in ITEMS)) for events in EVENTS]
    yield from _table(("events \\ items", *(f"{items:,}" for items in ITEMS)), grid)


def _lines(settings: Settings, constants: Constants, events: int, items: int) -> dict[tuple[str, str], Line]:
    sizes = sizes_of(settings, constants.shares, events, items)
    return {(line.job, line.what): line for line in plan(settings, sizes, CLUSTER, constants)}


def _cell(settings: Settings, constants: Constants, events: int, items: int) -> str:
    found = _lines(settings, constants, events, items)
    keys = ("build_samples", "Parquet, samples"), ("train", "tables and state, replicated, a rank")
    return " · ".join(bytes_shown(found[key].value) for key in keys)


def _figures(
    what: str, found: Sequence[tuple[int, dict[tuple[str, str], Line]]], wanted: Sequence[tuple[str, str]]
) -> Iterator[str]:
    header = (what, *(f"{job}: {figure}" for job, figure in wanted))
    yield from _table(header, [(f"{n:,}", *(shown(lines[key]) for key in wanted)) for n, lines in found])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" + "---:|" * (len(header) - 1)
    yield from ("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"scale: {PAGE.relative_to(PROJECT)}")
