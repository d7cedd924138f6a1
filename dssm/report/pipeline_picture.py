"""The pipeline's picture: what each job left, how much of it, and how long it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dssm.decisions import tally
from dssm.evaluation import KEPT, MODEL, POPULARITY
from dssm.manifest import Manifest
from dssm.report.html import Html, figure_text, join, tag
from dssm.report.run_facts import RunFacts
from dssm.units import seconds_shown

LINES = 4  # in a box, below its name
LEADING, NAME = 18, 25  # height of a line, of a box's name
BOX_WIDTH, BOX_HEIGHT = 172, NAME + LINES * LEADING + 18
WIDE = (1040, 2 * BOX_HEIGHT + 66)  # the drawing on a wide screen
NARROW_WIDTH, NARROW_GAP = 340, 42
HEAD = 8  # of an arrow
EVENTS = "sources."


@dataclass(frozen=True)
class Box:
    """What a job leaves behind. `lines` is empty where it has not run."""

    key: str
    name: str
    job: str | None
    lines: tuple[str, ...]


def boxes(facts: RunFacts) -> list[Box]:
    """Returns the boxes in the order of the work; users' vectors only where they are published."""
    found = [
        Box("sources", "Sources", None, _sources(facts.run.manifest)),
        Box("samples", "Samples", "build_samples", _samples(facts)),
        Box("towers", "Towers", "train", _towers(facts)),
        Box("evaluation", "Evaluation", "evaluate", _evaluation(facts)),
        Box("items", "Item table", "score_items", _table(facts, "items")),
        Box("indexes", "Indexes", "index_items", _indexes(facts)),
    ]
    users = _table(facts, "users")
    return [*found, Box("users", "User table", "score_users", users)] if users else found


def _sources(manifest: Manifest) -> tuple[str, ...]:
    counts: dict[str, int] = {}
    for name, source in manifest.sources.items():
        what = "events" if name.startswith(EVENTS) else name.split(".")[0]
        counts[what] = counts.get(what, 0) + source.rows_read
    words = {"events": "events", "catalogue": "catalogue rows", "profiles": "profile rows", "vectors": "vectors"}
    return tuple(f"{counts[what]:,} {told}" for what, told in words.items() if what in counts)


def _samples(facts: RunFacts) -> tuple[str, ...]:
    told = {"train": "train rows", "test": "test rows", "items": "items", "users": "users"}
    return tuple(f"{facts.rows[part]:,} {what}" for part, what in told.items() if part in facts.rows)


def _towers(facts: RunFacts) -> tuple[str, ...]:
    model = facts.model
    if model is None:
        return ()
    lines = [f"{model.epochs} epochs, {model.steps:,} steps", f"{model.ranks} ranks, {model.rows_per_s:,.0f} rows/s"]
    if model.loss:
        lines.append(f"loss {figure_text(model.loss[-1])}")
    return (*lines, f"{model.vector_dim} numbers a vector")


def _evaluation(facts: RunFacts) -> tuple[str, ...]:
    evaluation = facts.evaluation
    if evaluation is None:
        return ()
    metric, kept = facts.settings.item_table.gate.metric, evaluation[KEPT]
    lines = [f"{evaluation['users']:,} users"]
    for name in (MODEL, POPULARITY):
        value = kept.get(name, {}).get(metric)
        if value is not None:
            lines.append(f"{metric} {value:.3f}" if name == MODEL else f"{name} {value:.3f}")
    return tuple(lines)


def _table(facts: RunFacts, table: str) -> tuple[str, ...]:
    found = facts.tables.get(table)
    if found is None:
        return ()
    manifest = found.manifest
    lines = [
        f"{manifest.rows:,} vectors",
        f"{manifest.vector_dim} × {manifest.dtype}",
        f"version {manifest.version[:12]}",
    ]
    if manifest.gates:
        passed = tally(manifest.gates).partition(",")[0]  # the rest has no room in a box
        lines.append("gates overruled" if manifest.overridden else passed)
    return tuple(lines)


def _indexes(facts: RunFacts) -> tuple[str, ...]:
    if facts.index is None:
        return ()
    lines = []
    for sink in facts.index.sinks:
        cutoff = min(sink.recall, default=None)
        recall = "" if cutoff is None else f" {sink.recall[cutoff]:.4f}"
        state = "" if sink.switched else ", refused" if sink.failures else ", waits"
        lines.append(f"{sink.sink}{recall}{state}")
    more = len(lines) - LINES
    return tuple(lines if more <= 0 else [*lines[: LINES - 1], f"and {more + 1} more"])


# Drawing -----------------------------------------------------------------------------------------------

# Column and row of each box on a wide screen, where the work goes there and back; a job's arrow comes from `of`.
PLACES = {
    "sources": (0, 0), "samples": (1, 0), "towers": (2, 0), "evaluation": (3, 0),
    "items": (3, 1), "indexes": (2, 1), "users": (1, 1),
}  # fmt: skip
OF = {"samples": "sources", "towers": "samples", "evaluation": "towers", "items": "evaluation", "indexes": "items"}


def picture(facts: RunFacts) -> Html:
    """Draws the pipeline twice: for a wide screen and for a phone; the style sheet shows one of them."""
    drawn = boxes(facts)
    label = "; ".join(
        f"{box.job or box.name}: {', '.join(box.lines) or 'has not run'}{_time(facts, box, ' in ')}" for box in drawn
    )
    return tag("div", _wide(facts, drawn, label), _narrow(facts, drawn, label), class_="pipeline")


def _time(facts: RunFacts, box: Box, before: str = "") -> str:
    used = facts.used.get(box.job or "")
    return f"{before}{seconds_shown(used.seconds)}" if used is not None and box.lines else ""


def _wide(facts: RunFacts, drawn: Sequence[Box], label: str) -> Html:
    step = (WIDE[0] - BOX_WIDTH - 2) / 3
    corners = {
        box.key: (1 + PLACES[box.key][0] * step, 1 + PLACES[box.key][1] * (WIDE[1] - BOX_HEIGHT - 2)) for box in drawn
    }
    parts = []
    for box in drawn:
        x, y = corners[box.key]
        parts.append(_box(box, x, y))
        if box.key in OF:
            from_x, from_y = corners[OF[box.key]]
            if from_y == y:
                right = x > from_x
                start, end = (from_x + BOX_WIDTH, x) if right else (from_x, x + BOX_WIDTH)
                parts.append(_arrow((start, y + BOX_HEIGHT / 2), (end, y + BOX_HEIGHT / 2)))
                parts.append(_arrow_text(facts, box, (start + end) / 2, y + BOX_HEIGHT / 2, "middle"))
                continue
        if box.job is not None:  # from the box above
            middle = x + BOX_WIDTH / 2
            parts.append(_arrow((middle, y - (WIDE[1] - 2 * BOX_HEIGHT - 2)), (middle, y)))
            parts.append(_arrow_text(facts, box, middle - 10, y - 29, "end"))
    return _svg(parts, WIDE[0], WIDE[1], "wide", label)


def _narrow(facts: RunFacts, drawn: Sequence[Box], label: str) -> Html:
    parts, y = [], 1.0
    for place, box in enumerate(drawn):
        height = NAME + max(len(box.lines), 1) * LEADING + 18
        if place:
            if box.key in OF:
                parts.append(_arrow((44, y), (44, y + NARROW_GAP)))
            parts.append(_arrow_text(facts, box, 58, y + NARROW_GAP / 2, "start"))
            y += NARROW_GAP
        parts.append(_box(box, 1, y, NARROW_WIDTH - 2, height))
        y += height
    return _svg(parts, NARROW_WIDTH, y + 1, "narrow", label)


def _svg(parts: Sequence[Html], width: float, height: float, kind: str, label: str) -> Html:
    view = f"0 0 {width:.0f} {height:.0f}"
    return tag("svg", *parts, class_=f"picture {kind}", viewBox=view, role="img", aria_label=label)


def _box(box: Box, x: float, y: float, width: float = BOX_WIDTH, height: float = BOX_HEIGHT) -> Html:
    lines = box.lines or ("not there yet",)
    return tag(
        "g",
        tag("rect", x=f"{x:.1f}", y=f"{y:.1f}", width=f"{width:.1f}", height=f"{height:.1f}", rx=8),
        tag("text", box.name, x=f"{x + 12:.1f}", y=f"{y + NAME:.1f}", class_="name"),
        *[
            tag("text", line, x=f"{x + 12:.1f}", y=f"{y + NAME + 3 + LEADING * (place + 1):.1f}")
            for place, line in enumerate(lines)
        ],
        class_="box" if box.lines else "box missing",
    )


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> Html:
    """Draws a line with a head, along one of the axes."""
    (x0, y0), (x, y) = start, end
    if y == y0:
        back = HEAD if x > x0 else -HEAD
        tip, ends = x - back / 4, f"{x - 1.25 * back:.1f},{y - 5:.1f} {x - 1.25 * back:.1f},{y + 5:.1f}"
        line = tag("line", x1=f"{x0:.1f}", y1=f"{y:.1f}", x2=f"{x - back:.1f}", y2=f"{y:.1f}")
        return join([line, tag("polygon", points=f"{tip:.1f},{y:.1f} {ends}")])
    ends = f"{x - 5:.1f},{y - 1.25 * HEAD:.1f} {x + 5:.1f},{y - 1.25 * HEAD:.1f}"
    line = tag("line", x1=f"{x:.1f}", y1=f"{y0:.1f}", x2=f"{x:.1f}", y2=f"{y - HEAD:.1f}")
    return join([line, tag("polygon", points=f"{x:.1f},{y - HEAD / 4:.1f} {ends}")])


def _arrow_text(facts: RunFacts, box: Box, x: float, y: float, anchor: str) -> Html:
    """Writes the job above the line's middle, and its time below."""
    time = _time(facts, box)
    above, below = (-7, 16) if anchor == "middle" else (-2, 14)
    parts = [tag("text", box.job, x=f"{x:.1f}", y=f"{y + above:.1f}", text_anchor=anchor, class_="job")]
    if time:
        parts.append(tag("text", time, x=f"{x:.1f}", y=f"{y + below:.1f}", text_anchor=anchor, class_="time"))
    return join(parts)
