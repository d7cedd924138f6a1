"""The report's plots, as SVG that stands in a page: its colours and letters are the page's."""

from __future__ import annotations

import datetime as dt
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.dates import date2num
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

# Drawn in colours that nothing else has, and then replaced by what the page's style says.
INK, GRID, TRAIN, TEST = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
FAINT, OTHER, VALIDATION = "#0a0b05", "#0a0b06", "#0a0b07"
IN_PAGE = {
    INK: "currentColor", GRID: "var(--line)", TRAIN: "var(--train)", TEST: "var(--test)", FAINT: "var(--faint)",
    OTHER: "var(--other)", VALIDATION: "var(--validation)",
}  # fmt: skip
OF_PART = {"train": TRAIN, "test": TEST, "validation": VALIDATION}
STYLE: Mapping[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}
TICKS = 5
WIDTH = 5.0  # inches of 72 points: a phone's width, so that the letters keep their size there

Points = tuple[Sequence[dt.date], Sequence[float | None]]


def rate_by_day(title: str, rates: Mapping[str, Points], rows: Mapping[str, Points]) -> str:
    """Draws a rate above the rows it is of, by day.

    Args:
      title: what a screen reader says.
      rates: part → days and shares; None on a day without a row.
      rows: part → days and counts.
    """
    with mpl.rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        for part, (days, shares) in rates.items():
            values = [np.nan if share is None else share for share in shares]  # a day without rows is a gap
            above.plot([date2num(day) for day in days], values, color=OF_PART[part], marker="o", markersize=3.5)
        for part, (days, counts) in rows.items():
            below.bar([date2num(day) for day in days], [count or 0 for count in counts], 0.8, color=OF_PART[part])
        highest = max((share for _, shares in rates.values() for share in shares if share is not None), default=0)
        above.set_ylim(0, 1.15 * highest or 1)
        above.yaxis.set_major_locator(MaxNLocator(4))
        above.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.3g}"))
        below.set_ylabel("rows")
        below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        below.yaxis.set_major_formatter(FuncFormatter(lambda count, _: short_count(count)))
        ticks = few_days([day for days, _ in rows.values() for day in days])
        below.set_xticks([date2num(day) for day in ticks], [f"{day:%b} {day.day}" for day in ticks])
        return page_svg(figure, title)


def popularity_curve(title: str, ranks: Sequence[int], counts: Sequence[float]) -> str:
    """Draws the items' training positives by rank, both on logarithmic axes."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": title, "axes.grid.axis": "both"}):
        figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.plot(ranks, counts, color=TRAIN, linewidth=1.8)
        axes.set(xscale="log", yscale="log", xlabel="rank of the item", ylabel="training positives")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda count, _: short_count(count)))
            axis.set_minor_formatter(NullFormatter())
        return page_svg(figure, title)


def short_count(count: float) -> str:
    """Returns a count in few letters.

    >>> short_count(900), short_count(12_000), short_count(2_500_000)
    ('900', '12 k', '2.5 M')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= size:
            return f"{count / size:.3g} {letter}"
    return f"{count:.3g}"


def few_days(days: Iterable[dt.date]) -> list[dt.date]:
    """Returns at most TICKS of the days, as many places apart, the last among them."""
    ordered = sorted(set(days))
    step = max(1, -(-(len(ordered) - 1) // (TICKS - 1)))
    return ordered[::-1][::step][::-1]


def page_svg(figure: Figure, title: str) -> str:
    """Returns the figure as an <svg> that fits its container and shares nothing with the page's other plots."""
    written = io.StringIO()
    figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)
    for drawn, shown in IN_PAGE.items():
        svg = svg.replace(drawn, shown)
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
