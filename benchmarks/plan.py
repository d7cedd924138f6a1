"""make bench-plan: what `plan` predicts beside what is measured, at three sizes.

None of them is a size that the constants were measured at. build_samples and train run on the demo's feed, score_items
on a catalogue as benchmarks/score.py draws it; each job in a process of its own, started as a user starts it. A
prediction is told the sizes (events, items, rows) and nothing else of the run. Ends with exit code 1 where one is
further off than 30 %.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import report as results
from benchmarks import score
from benchmarks.jobs import Demo, score_seconds, shuffle_written, stored
from benchmarks.report import markdown_table, replace_table, report
from dssm.paths import DATASETS, RunPaths
from dssm.plan.constants import Constants, load_constants
from dssm.plan.estimate import Cluster, plan
from dssm.plan.sizes import Sizes, read_sizes
from dssm.storage import folder_size
from dssm.units import bytes_shown, seconds_shown

EVENTS = (100_000, 200_000, 400_000)
ITEMS = (300_000, 600_000, 1_200_000)
CLUSTER = Cluster(nodes=1, cores=len(os.sched_getaffinity(0)))
COLUMNS = ("", "predicted", "measured", "predicted / measured")
WITHIN = (0.7, 1.3)  # of predicted / measured

Figures = list[tuple[str, str, float, float]]  # what, unit, predicted, measured


def demo_figures(folder: Path, events: int, constants: Constants) -> Figures:
    demo = Demo(folder / f"demo_{events}", events)
    demo.write_feed()
    seconds = demo.run("build_samples")
    settings = demo.settings
    sizes = read_sizes(settings)
    assert sizes is not None
    predicted = {(line.job, line.what): line.value for line in plan(settings, sizes, CLUSTER, constants)}
    parts = {part: stored(settings, part) for part in DATASETS}
    took = demo.train()
    title = f"{events:,} events"
    return [
        (f"{title}: samples", "bytes", predicted["build_samples", "Parquet, samples"],
         parts["train"].total + parts["test"].total),
        (f"{title}: items", "bytes", predicted["build_samples", "Parquet, items"], parts["items"].total),
        (f"{title}: users and interactions", "bytes", predicted["build_samples", "Parquet, users and interactions"],
         parts["users"].total + parts["interactions"].total),
        (f"{title}: shuffle", "bytes", predicted["build_samples", "shuffle"], shuffle_written(demo.logs)),
        (f"{title}: build_samples", "s", predicted["build_samples", "time"], seconds),
        (f"{title}: train", "s", predicted["train", "time"], took),
    ]  # fmt: skip


def score_figures(folder: Path, items: int, constants: Constants) -> Figures:
    settings = score.settings_of(folder, score.LAYERS["demo"])
    seconds = score_seconds(folder, items)
    nothing = Sizes(1, items, 1, 1, 1, 1, 1, 1, {name: spec.size for name, spec in score.vocabularies().items()})
    predicted = {(line.job, line.what): line.value for line in plan(settings, nothing, CLUSTER, constants)}
    table = folder_size(f"{RunPaths(settings.run_folder).folder}/../item_table")
    title = f"{items:,} items"
    return [
        (f"{title}: item table", "bytes", predicted["score_items", "table"], table),
        (f"{title}: score_items", "s", predicted["score_items", "time"], seconds),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench-plan", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--events", type=int, nargs="+", default=EVENTS)
    parser.add_argument("--items", type=int, nargs="+", default=ITEMS)
    given = parser.parse_args(argv)
    constants, found = load_constants(), Figures()
    with tempfile.TemporaryDirectory(prefix="bench-plan-") as scratch:
        for events in given.events:
            found += demo_figures(Path(scratch), events, constants)
        for items in given.items:
            found += score_figures(Path(scratch) / "score", items, constants)
    ratios = show(found, constants, keep=(tuple(given.events), tuple(given.items)) == (EVENTS, ITEMS))
    if off := too_far(ratios):
        sys.exit(f"further off than 30 %: {', '.join(off)}")


def too_far(ratios: Mapping[str, float]) -> list[str]:
    """Returns which predictions are not within 30 % of what was measured."""
    return [what for what, ratio in ratios.items() if not WITHIN[0] <= ratio <= WITHIN[1]]


def show(found: Figures, constants: Constants, keep: bool) -> dict[str, float]:
    """Returns predicted / measured of each figure."""
    shown = {"bytes": bytes_shown, "s": seconds_shown}
    rows = [
        [what, shown[unit](predicted), shown[unit](measured), f"{predicted / measured:.2f}"]
        for what, unit, predicted, measured in found
    ]
    ratios = {what: predicted / measured for what, _, predicted, measured in found}
    farthest = max(ratios, key=lambda what: max(ratios[what], 1 / ratios[what]))
    notes = [
        f"farthest: {farthest}, {ratios[farthest]:.2f}",
        f"constants: {constants.machine}, sizes {constants.sizes}",
    ]
    report("plan", "predicted and measured", COLUMNS, rows, ratios, notes=notes, keep=keep)
    if keep:
        replace_table(results.PAGE, "predictions", markdown(rows))
    return ratios


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Returns the table for docs/performance.md, where a list of the ratios would say its last column again."""
    return markdown_table(COLUMNS, rows)


if __name__ == "__main__":
    main()
