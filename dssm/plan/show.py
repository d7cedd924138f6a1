"""The plan as tables for a terminal."""

from __future__ import annotations

import itertools
import math

from dssm.config import Settings
from dssm.console import out, table
from dssm.plan.constants import Constants
from dssm.plan.estimate import Cluster, Line, Lines
from dssm.plan.sizes import Sizes
from dssm.units import bytes_shown, seconds_shown

COLUMNS = ("", "figure", "formula", "inputs")


def shown(line: Line) -> str:
    """Returns a figure with its unit."""
    if math.isnan(line.value):
        return "not known"
    if line.unit == "bytes":
        return bytes_shown(line.value)
    return seconds_shown(line.value) if line.unit == "s" else f"{line.value:,.0f}"


def show_plan(settings: Settings, sizes: Sizes, cluster: Cluster, constants: Constants, lines: Lines) -> None:
    gpus = f", {cluster.gpus} GPUs" if cluster.gpus else ""
    out.print(
        f"{sizes.events:,} events, {sizes.items:,} items, {sizes.users:,} users ({sizes.source})\n"
        f"{cluster.nodes} nodes × {cluster.cores} cores{gpus}, {cluster.network * 8 / 1e9:g} Gbit/s a node, "
        f"{cluster.ranks(settings)} ranks",
        markup=False,
    )
    for job, of_job in itertools.groupby(lines, key=lambda line: line.job):
        table(job, COLUMNS, [[line.what, shown(line), line.formula, line.inputs] for line in of_job], texts=(0, 2, 3))
    out.print(f"constants: {constants.machine}; make bench-constants measures them anew", style="dim", markup=False)
    if cluster.gpus:
        out.print("a GPU's speed is assumed, not measured: what a step takes on one is a guess", style="dim")
