"""A map of item vectors: neighbours in all dimensions stay neighbours in two, coloured by category."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from dssm.report.html import Html, tag
from dssm.report.item_words import ItemWords

FEWEST = 10  # items that make a map
PERPLEXITY = 30
DIMENSIONS = 50  # kept by PCA before t-SNE, as its authors do
ITERATIONS, ANGLE = 400, 0.8
VERSION = 1  # of what `layout` does beside these numbers: raised with it, maps that are kept are laid out anew
HOW = (VERSION, PERPLEXITY, DIMENSIONS, ITERATIONS, ANGLE)
SIDE, MARGIN, RADIUS = 720, 14, 4.2  # of the drawing
SHOWN, COLOURS = 48, 16  # categories told apart, and colours for them, as many as run_style has
SMALLEST = 3  # items of a category that is told apart
TOGETHER = 0.06  # spread of a category, of the map's side, up to which its name stands on the map
LABEL = 18  # letters of that


def layout(vectors: np.ndarray, seed: int) -> np.ndarray | None:
    """Lays vectors out in a plane by t-SNE (van der Maaten and Hinton, JMLR 2008), begun from their PCA.

    Near points are near in the vectors' space; how far apart groups lie, and how large they are drawn, says nothing.
    Vectors are compared by their directions. One thread: the sums of several end differently each time, and where
    cores are shared they wait for each other.

    Args:
      vectors: (items, dim), finite.
    Returns: (items, 2) in 0…1, None where there are too few, or all are one.
    """
    from sklearn.decomposition import PCA  # 1.5 s of every job's start otherwise, and most draw no map
    from sklearn.manifold import TSNE

    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions = vectors / np.where(norms > 0, norms, 1)
    if len(vectors) < FEWEST or np.allclose(directions, directions[0], atol=1e-6):
        return None
    with threadpool_limits(1):
        width = min(DIMENSIONS, *directions.shape)
        reduced = PCA(width, random_state=seed, svd_solver="full").fit_transform(directions)
        perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
        init = reduced[:, :2] / max(float(reduced[:, 0].std()), 1e-12) * 1e-4
        if init.shape[1] < 2:
            init = np.column_stack([init[:, 0], np.zeros(len(init))])
        model = TSNE(2, perplexity=perplexity, init=init, max_iter=ITERATIONS, angle=ANGLE, random_state=seed)
        places: np.ndarray = model.fit_transform(reduced)
    centred = places - (places.min(axis=0) + places.max(axis=0)) / 2
    return centred / np.ptp(places, axis=0).max() + 0.5


@dataclass(frozen=True)
class Legend:
    """The categories that are told apart, the largest first; all others share one colour.

    Attributes:
      colours: of each category: a place in the palette; categories that lie far apart may have the same one.
      centres: (categories, 2), where most of each lies.
      spreads: (categories,), median distance of its items to there.
      others, kinds: items of other categories, and how many categories there are at all.
    """

    categories: tuple[str, ...]
    counts: tuple[int, ...]
    colours: tuple[int, ...]
    centres: np.ndarray
    spreads: np.ndarray
    others: int
    kinds: int


def legend(categories: Sequence[str | None], places: np.ndarray) -> Legend:
    """Gives colours to the categories with the most items, SMALLEST at least; ties by name.

    Args:
      categories: (items,), None where items have none.
      places: (items, 2) in 0…1.
    """
    counts = Counter(category for category in categories if category is not None)
    ordered = sorted(counts.items(), key=lambda found: (-found[1], found[0]))
    shown = [found for found in ordered if found[1] >= SMALLEST][:SHOWN]
    names = np.array([category or "" for category in categories])
    centres, spreads = np.zeros((len(shown), 2)), np.zeros(len(shown))
    for number, (name, _) in enumerate(shown):
        own = places[names == name]
        centres[number] = np.median(own, axis=0)
        spreads[number] = np.median(np.linalg.norm(own - centres[number], axis=1))
    others = len(categories) - sum(count for _, count in shown)
    return Legend(
        tuple(name for name, _ in shown), tuple(count for _, count in shown), _colours(centres), centres, spreads,
        others, len(counts),
    )  # fmt: skip


def _colours(centres: np.ndarray) -> tuple[int, ...]:
    """Gives each centre the colour that is not yet given, or whose nearest centre is the furthest away."""
    given = np.full(len(centres), -1)
    for number, centre in enumerate(centres):
        away = [
            np.linalg.norm(centres[given == colour] - centre, axis=1).min() if (given == colour).any() else np.inf
            for colour in range(COLOURS)
        ]
        given[number] = int(np.argmax(away))
    return tuple(given.tolist())


def drawing(items: Sequence[ItemWords], places: np.ndarray, told: Legend) -> Html:
    """Draws the map: each point with a title, that a browser shows where the mouse rests.

    Args:
      places: (items, 2) in 0…1.
    """
    groups: dict[int, list[Html]] = {}
    numbers = {name: number for number, name in enumerate(told.categories)}
    for item, (x, y) in zip(items, _drawn(places), strict=True):
        said = item.name if item.category is None else f"{item.name} · {item.category}"
        point = tag("circle", tag("title", said), cx=f"{x:.1f}", cy=f"{y:.1f}", r=RADIUS)
        groups.setdefault(numbers.get(item.category or "", len(numbers)), []).append(point)
    colours = (*told.colours, COLOURS)
    drawn = [
        tag("g", *groups[number], class_=f"k{number} c{colours[number]}") for number in sorted(groups, reverse=True)
    ]
    label = f"map of {len(items):,} items by their vectors"
    if told.categories:
        label += f"; the largest of {told.kinds:,} categories is {told.categories[0]}, {told.counts[0]:,} items"
    view = f"0 0 {SIDE} {SIDE}"
    return tag("svg", *drawn, _labels(told), class_="map", viewBox=view, role="img", aria_label=label)


def _drawn(places: np.ndarray) -> np.ndarray:
    return MARGIN + places * (SIDE - 2 * MARGIN)


def _labels(told: Legend) -> Html:
    """Writes the names of categories that lie together above their items, where no larger one's name stands."""
    written: list[tuple[float, float, float]] = []
    texts = []
    for name, centre, spread in zip(told.categories, _drawn(told.centres), told.spreads, strict=True):
        short = name if len(name) <= LABEL else f"{name[: LABEL - 1]}…"
        x, y = centre[0], max(centre[1] - 2.2 * spread * SIDE - 4, 12)
        half = 4.2 * len(short)
        x = min(max(x, half + 2), SIDE - half - 2)
        free = all(abs(x - other) > half + width or abs(y - line) > 15 for other, line, width in written)
        if spread < TOGETHER and free:
            written.append((x, y, half))
            texts.append(tag("text", short, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor="middle"))
    return tag("g", *texts, class_="names", aria_hidden="true")


def keys(told: Legend) -> Html:
    """Draws the legend: buttons, each of which leaves only its own points bright."""
    numbers = range(len(told.categories))
    entries = list(zip(numbers, told.colours, told.categories, told.counts, strict=True))
    if told.others and entries:
        rest = told.kinds - len(entries)
        named = f"{rest:,} other categories" if rest > 1 else "other"
        entries.append((len(entries), COLOURS, named, told.others))
    buttons = [
        tag(
            "button", tag("i", class_=f"c{colour}"), f"{name} ", tag("span", f"{count:,}", class_="faint"),
            type="button", aria_pressed="false", data_group=f"k{number}",
        )
        for number, colour, name, count in entries
    ]  # fmt: skip
    return tag("div", *buttons, class_="keys", role="group", aria_label="categories on the map")


# A point's name beside the mouse or the finger at once, and one category alone. Where scripts are off, a browser
# shows the points' titles after a while.
SCRIPT = """(() => {
  const map = document.querySelector("svg.map");
  if (!map) return;
  const tip = map.parentElement.querySelector(".tip");
  const points = [...map.querySelectorAll("circle")].map((dot) => {
    const title = dot.querySelector("title"), text = title.textContent;
    title.remove();
    return { dot, text, x: dot.cx.baseVal.value, y: dot.cy.baseVal.value };
  });
  let near = null, only = null;
  const show = (point) => {
    if (near) near.dot.classList.remove("near");
    near = point;
    tip.hidden = !point;
    if (!point) return;
    point.dot.classList.add("near");
    tip.textContent = point.text;
    const box = map.getBoundingClientRect(), scale = box.width / map.viewBox.baseVal.width;
    const left = Math.min(Math.max(point.x * scale - tip.offsetWidth / 2, 0), box.width - tip.offsetWidth);
    const above = point.y * scale - tip.offsetHeight - 10;
    tip.style.left = `${left}px`;
    tip.style.top = `${above < 0 ? point.y * scale + 12 : above}px`;
  };
  const find = (event) => {
    const box = map.getBoundingClientRect(), scale = map.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
    let best = null, least = (14 * scale) ** 2;
    for (const point of points) {
      if (only && !point.dot.parentElement.classList.contains(only)) continue;
      const distance = (point.x - x) ** 2 + (point.y - y) ** 2;
      if (distance < least) [best, least] = [point, distance];
    }
    show(best);
  };
  map.addEventListener("pointermove", find);
  map.addEventListener("pointerdown", find);
  map.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") show(null); });
  const buttons = document.querySelectorAll(".keys button");
  for (const button of buttons) button.addEventListener("click", () => {
    only = only === button.dataset.group ? null : button.dataset.group;
    show(null);
    map.classList.toggle("chosen", only !== null);
    for (const group of map.children) group.classList.toggle("on", group.classList.contains(only));
    for (const other of buttons) other.setAttribute("aria-pressed", String(other.dataset.group === only));
  });
})();
"""
