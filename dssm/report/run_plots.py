"""The plots of a run's report; see `plots` for how they become part of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from dssm.report.html import figure_text
from dssm.report.plots import FAINT, INK, OF_PART, OTHER, STYLE, TRAIN, WIDTH, page_svg, short_count
from dssm.report.run_style import CATEGORIES

THIRD = 4.2  # inches: of plots that stand three in a row on a wide screen
Bounds = Sequence[float | None] | None
"""Low and high end of an interval."""


def by_epoch(title: str, curves: Mapping[str, Sequence[float | None]], best: int | None = None) -> str:
    """Draws a metric after each epoch.

    Args:
      title: what a screen reader says.
      curves: train, test or validation → one value an epoch; None where there is none.
      best: the epoch whose weights were taken up, from 1.
    """
    with mpl.rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(THIRD, 2.4), layout="constrained")
        axes = figure.subplots()
        epochs = max(map(len, curves.values()))
        if best is not None:
            axes.axvline(best, color=FAINT, linestyle=(0, (3, 3)), linewidth=1)
        for part, values in curves.items():
            points = [np.nan if value is None else value for value in values]
            axes.plot(range(1, len(points) + 1), points, color=OF_PART[part], marker="o", markersize=4, linewidth=1.8)
            _name_last(axes, points, OF_PART[part])
        axes.set_xlim(0.8, epochs + 0.2)
        axes.margins(y=0.2)
        axes.xaxis.set_major_locator(MaxNLocator(min(epochs, 10), integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
        axes.set_xlabel("epoch")
        return page_svg(figure, title)


def _name_last(axes: Axes, points: Sequence[float], colour: str) -> None:
    """Writes the last value of a curve beside its point, where the curve does not come from."""
    known = np.flatnonzero(np.isfinite(points))
    if len(known):
        last = int(known[-1])
        falls = len(known) > 1 and points[last] < points[int(known[-2])]
        axes.annotate(
            figure_text(points[last]), (last + 1, points[last]), (0, -13 if falls else 6), textcoords="offset points",
            color=colour, ha="right", fontsize=9, annotation_clip=False,
        )  # fmt: skip


def rankers(
    title: str, values: Mapping[str, float | None], bounds: Mapping[str, Bounds], first: str, bound: str
) -> str:
    """Draws a metric of several rankers as bars, the best on top.

    Args:
      title: what a screen reader says.
      values: by ranker; those that are None are left out.
      bounds: of some of them: a whisker.
      first: the ranker that stands out.
      bound: the one that no model can be better than: drawn as an outline.
    """
    shown = sorted(((value, name) for name, value in values.items() if value is not None), reverse=True)
    with mpl.rc_context({**STYLE, "svg.hashsalt": title, "axes.grid.axis": "x"}):
        figure = Figure(figsize=(THIRD, 0.5 + 0.27 * len(shown)), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(shown))[::-1]
        colours = [TRAIN if name == first else "none" if name == bound else OTHER for _, name in shown]
        edges = [FAINT if name == bound else "none" for _, name in shown]
        axes.barh(places, [value for value, _ in shown], 0.68, color=colours, edgecolor=edges, linestyle=(0, (3, 2)))
        for place, (value, name) in zip(places, shown, strict=True):
            low, high = _ends(bounds.get(name))
            axes.plot([low, high], [place, place], color=INK, linewidth=1.2)
            at = (value if np.isnan(high) else max(value, high), place)
            axes.annotate(f"{value:.3f}", at, (4, 0), textcoords="offset points", va="center", fontsize=9)
        axes.set_yticks(places, [name.replace("_", " ") for _, name in shown])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlim(0, 1.22 * max([value for value, _ in shown] + [_ends(b)[1] for b in bounds.values()], default=1))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        return page_svg(figure, title)


def _ends(bounds: Bounds) -> tuple[float, float]:
    if bounds is None:
        return np.nan, np.nan
    low, high = (np.nan if end is None else end for end in bounds)
    return low, high


def tenths(
    title: str,
    series: Mapping[str, Sequence[float | None]],
    bounds: Mapping[str, Sequence[Bounds]],
    counts: Sequence[int],
    of: str,
) -> str:
    """Draws a metric of ten groups side by side, above how much each group holds.

    Args:
      title: what a screen reader says.
      series: (10,) each. The first stands out; two stand side by side, of more the others are lines.
      bounds: of some of them: whiskers of the bars.
      counts: (10,), and `of`: what they count.
    """
    with mpl.rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        groups, beside = np.arange(1, len(counts) + 1), len(series) if len(series) <= 2 else 1
        for number, (name, values) in enumerate(series.items()):
            heights = np.array([np.nan if value is None else value for value in values])
            if number >= beside:
                above.plot(groups, heights, color=CATEGORIES[number], marker="o", markersize=3.5, linewidth=1.2)
                continue
            centres = groups + (number - (beside - 1) / 2) * 0.8 / beside
            above.bar(centres, np.nan_to_num(heights), 0.92 * 0.8 / beside, color=OTHER if number else TRAIN)
            ends = np.array([_ends(found) for found in bounds.get(name, ())])
            if len(ends):
                above.vlines(centres, ends[:, 0], ends[:, 1], color=INK, linewidth=1)
        above.set_ylim(bottom=0)
        above.yaxis.set_major_locator(MaxNLocator(4))
        above.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        below.bar(groups, counts, 0.8, color=OTHER)
        below.set_ylabel(of)
        below.set_xticks(groups)
        below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        below.yaxis.set_major_formatter(FuncFormatter(lambda count, _: short_count(count)))
        return page_svg(figure, title)


def occurrences(title: str, counts: np.ndarray, neighbours: int) -> str:
    """Draws how many items are among the nearest neighbours of how many others.

    Args:
      counts: (items,), of how many others each is a neighbour.
      neighbours: of each item: the mean of the counts.
    """
    with mpl.rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
        axes = figure.subplots()
        width = max(1, -(-(int(counts.max()) + 1) // 60))
        edges = np.arange(0, counts.max() + width + 1, width)
        heights, _ = np.histogram(counts, edges)
        axes.bar(edges[:-1] + (width - 1) / 2, heights, 0.9 * width, color=TRAIN)
        axes.axvline(neighbours, color=FAINT, linestyle=(0, (3, 3)), linewidth=1)
        axes.set(xlabel=f"other items that have it among their {neighbours} nearest", ylabel="items")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: short_count(count)))
        return page_svg(figure, title)
