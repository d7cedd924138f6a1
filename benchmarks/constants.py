"""make bench-constants: what `plan` takes from measurement, to dssm/plan/constants.json.

The demo's feed at two sizes, which `make bench-plan` does not use: times are a line through both, bytes those of the
larger. Training: two numbers of epochs give the time of a step, and two batch sizes that of a step and of a
multiply-add. Scoring and exact search: the item tower and a task's search alone, and the job at two sizes. The jobs are
run as a user runs them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import retrieve, score
from benchmarks.jobs import PAIR, ROW, Demo, Stored, score_seconds, shuffle_written, stored
from dssm.console import table
from dssm.paths import DATASETS, RunPaths
from dssm.plan.constants import FILE, Assumed, Constants, Parquet, Shares, load_constants
from dssm.plan.estimate import step_products
from dssm.plan.network import side_cost
from dssm.plan.rows import wire_bytes
from dssm.plan.scale import PAGE, page

ROUNDS = 3  # of what starts take: the middle one counts
# Far apart, as the time of each holds a start of Spark, which is not the same twice.
EVENTS = (60_000, 1_500_000)
BATCHES = (256, 2048)
EPOCHS = (1, 4)
ITEMS = (150_000, 3_000_000)
BARE_ITEMS = 400_000
SEARCH = (4_000, 100_000, 64)  # users, items, dim
COPY_NUMBERS, COPIES = 64 * 2**20, 8
CORES = len(os.sched_getaffinity(0))
# Of an H100-like card, a tenth of its TF32 peak: small layers leave it mostly idle. Nobody has measured it here.
ASSUMED = Assumed(gpu_products_per_s=2e13, gpu_memory_bytes_per_s=2e12)


def middle(measure: Callable[[], float]) -> float:
    """Returns the median of several measurements."""
    return statistics.median(measure() for _ in range(ROUNDS))


def line(small: tuple[float, float], large: tuple[float, float]) -> tuple[float, float]:
    """Returns (at 0, slope) of the line through two points (x, y).

    >>> line((1, 5), (3, 9))
    (3.0, 2.0)
    """
    slope = (large[1] - small[1]) / (large[0] - small[0])
    return small[1] - slope * small[0], slope


def parquet_of(parts: Mapping[str, Stored]) -> Parquet:
    """Returns bytes a row and a number, of all datasets together where several have the kind."""

    def each(kind: str) -> float:
        of_kind = [part for part in parts.values() if kind in part.size]
        return sum(part.size[kind] for part in of_kind) / sum(part.numbers[kind] for part in of_kind)

    def row(*names: str) -> float:
        return sum(parts[name].size[ROW] for name in names) / sum(parts[name].rows for name in names)

    pairs = parts["interactions"]
    return Parquet(
        sample_row=row("train", "test"), user_row=row("users"), item_row=row("items"),
        pair=pairs.size[PAIR] / pairs.numbers[PAIR],
        **{kind: each(kind) for kind in ("id", "number", "list_id", "list_number", "vector")},
    )  # fmt: skip


def measured_builds(folder: Path) -> tuple[dict[str, object], Demo]:
    """Builds samples of both sizes. Returns: the constants of build_samples, and the larger one."""
    seconds, rows, written, wire = ({} for _ in range(4))
    parts, demo = dict[str, Stored](), None
    for events in EVENTS:
        demo = Demo(folder / f"demo_{events}", events)
        demo.write_feed()
        seconds[events] = demo.run("build_samples")
        settings = demo.settings
        parts = {part: stored(settings, part) for part in DATASETS}
        samples, pairs = parts["train"].rows + parts["test"].rows, parts["interactions"].numbers[PAIR]
        rows[events] = events + parts["items"].rows
        written[events] = shuffle_written(demo.logs)
        if events == EVENTS[0]:
            seconds[events] = statistics.median(
                [seconds[events], *(demo.run("build_samples") for _ in range(ROUNDS - 1))]
            )
        wire[events] = wire_bytes(settings, events, samples, pairs, parts["items"].rows)
    assert demo is not None
    small, large = EVENTS
    fixed_s, event_s = line((rows[small], seconds[small]), (rows[large], seconds[large]))
    fixed_bytes, compression = line((wire[small], written[small]), (wire[large], written[large]))
    users = demo.events // 100
    shares = Shares(
        train=parts["train"].rows / large, test=parts["test"].rows / large,
        pairs=parts["interactions"].numbers[PAIR] / large, test_users=parts["users"].rows / users,
    )  # fmt: skip
    return {
        "parquet": parquet_of(parts),
        "shares": shares,
        "shuffle": {"compression": compression, "fixed_bytes": max(0.0, fixed_bytes)},
        "build_samples": {"fixed_s": max(0.0, fixed_s), "event_core_s": event_s * CORES},
    }, demo


def measured_training(demo: Demo) -> dict[str, float]:
    """Trains with two batch sizes. Returns: the constants of a training."""
    points, fixed = [], []
    rows = stored(demo.settings, "train").rows
    for batch in BATCHES:
        sets = f"train.batch_size={batch}"
        seconds = [demo.train(sets, f"train.epochs={epochs}") for epochs in EPOCHS]
        settings = Demo(demo.folder, demo.events, (sets,)).settings
        steps = math.ceil(rows / batch)
        start_s, epoch_s = line((EPOCHS[0], seconds[0]), (EPOCHS[1], seconds[1]))
        points.append((step_products(settings, 1) / CORES, epoch_s / steps))
        fixed.append(start_s)
    step_s, product_s = line(*points)
    return {"fixed_s": sum(fixed) / len(fixed), "step_s": max(0.0, step_s), "product_core_s": product_s}


def measured_scoring(folder: Path) -> dict[str, float]:
    seconds = [middle(lambda size=items: score_seconds(folder, size)) for items in ITEMS]
    fixed_s, row_s = line((ITEMS[0], seconds[0]), (ITEMS[1], seconds[1]))
    settings = score.settings_of(folder, score.LAYERS["demo"])
    bare = score.bare_tower(f"{RunPaths(settings.run_folder).model}/item_tower", BARE_ITEMS)
    products = side_cost(settings, "item").products
    product_s = bare * CORES / (BARE_ITEMS * products)
    row_core_s = max(0.0, row_s * CORES - products * product_s)
    return {"fixed_s": max(0.0, fixed_s), "row_core_s": row_core_s, "product_core_s": product_s}


def measured_search(folder: Path) -> float:
    """Returns a core's seconds a multiply-add of what a task of `evaluate` does."""
    users, items, dim = SEARCH
    retrieve.write(str(folder), users, items, dim)

    def measure() -> float:
        began = time.process_time()  # of one thread: what else the machine does counts less
        retrieve.evaluated(str(folder), retrieve.blocks_of(users))
        return time.process_time() - began

    with threadpool_limits(1):
        return middle(measure) / (users * items * dim)


def measured_memory() -> float:
    """Returns the bytes a second that a core reads and writes where nothing fits its caches."""
    numbers, added = np.zeros(COPY_NUMBERS, np.float32), np.ones(COPY_NUMBERS, np.float32)
    times = []
    for _ in range(COPIES):
        began = time.process_time()
        numbers += added
        times.append(time.process_time() - began)
    return 3 * numbers.nbytes / min(times)


def processor() -> str:
    """Returns the name of the machine's processor, as Linux tells it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench-constants", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.parse_args(argv)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="bench-constants-") as scratch:
        folder = Path(scratch)
        builds, demo = measured_builds(folder)
        found = {
            "machine": f"{CORES} cores of {processor()}",
            "sizes": {"events": EVENTS, "batch sizes": BATCHES, "items": ITEMS, "search": SEARCH},
            **builds,
            "train": measured_training(demo),
            "score": measured_scoring(folder / "score"),
            "search": {"product_core_s": measured_search(folder / "search")},
            "memory_bytes_per_s": measured_memory(),
            "assumed": ASSUMED,
        }
    made = Constants.model_validate(found)
    before = load_constants() if FILE.exists() else None
    FILE.write_text(json.dumps(rounded(made.model_dump()), indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
    show(made, before)
    print(f"measured in {time.perf_counter() - began:.0f} s; docs/scale.md is made anew")


def rounded(value: object) -> object:
    """Returns numbers with four digits that count: more would only be noise in the file."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def show(made: Constants, before: Constants | None) -> None:
    rows = []
    for section, values in made.model_dump().items():
        for name, value in values.items() if isinstance(values, dict) and section != "sizes" else ():
            earlier = getattr(getattr(before, section), name) if before is not None else None
            rows.append([f"{section}.{name}", f"{value:.4g}", "" if earlier is None else f"{earlier:.4g}"])
    table(f"constants of {made.machine}", ("", "measured", "before"), rows)


if __name__ == "__main__":
    main()
