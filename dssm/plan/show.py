"""The plan as tables for a terminal."""

from __future__ import annotations

import itertools
import math

from dssm.config import Settings
from dssm.console import out, table
from dssm.plan.constants import Constants
from dssm.plan.estimate import Cluster, Line, Lines
from dssm.plan.sizes import Sizes

COLUMNS = ("", "figure", "formula", "inputs")


def shown(line: Line) -> str:
    """Returns a figure with its unit."""
    if math.isnan(line.value):
        return "not known"
    if line.unit == "bytes":
        return bytes_shown(line.value)
    return seconds_shown(line.value) if line.unit == "s" else f"{line.value:,.0f}"


def bytes_shown(size: float) -> str:
    """Returns bytes for reading.

    >>> bytes_shown(512), bytes_shown(2_500_000), bytes_shown(1.2e13)
    ('512 B', '2.50 MB', '12.0 TB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} B" if unit == "B" else f"{size:.3g} {unit}" if size >= 100 else f"{_three(size)} {unit}"
        size /= 1000
    return f"{_three(size)} TB" if size < 100 else f"{size:,.0f} TB"


def _three(number: float) -> str:
    return f"{number:.2f}" if number < 10 else f"{number:.1f}" if number < 100 else f"{number:.0f}"


def seconds_shown(seconds: float) -> str:
    """Returns a time for reading.

    >>> seconds_shown(0.0123), seconds_shown(95), seconds_shown(600), seconds_shown(7200), seconds_shown(3e6)
    ('12.3 ms', '95 s', '10 min', '2.0 h', '833 h')
    """
    if seconds < 1:
        return f"{_three(seconds * 1000)} ms"
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 100 else f"{hours:,.0f} h"


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
