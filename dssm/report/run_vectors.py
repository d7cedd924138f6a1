"""The report's section on the published item vectors: map, hubs, norms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dssm.published import Published
from dssm.report.decoding import percent
from dssm.report.html import Html, count_cell, figure_text, join, note, table, tag, text_cell
from dssm.report.item_words import Items, ItemWords
from dssm.report.kept_map import kept_layout
from dssm.report.run_facts import RunFacts
from dssm.report.run_plots import occurrences
from dssm.report.vector_map import drawing, keys, legend
from dssm.report.vectors import (
    NEIGHBOURS,
    Hubness,
    Norms,
    agreement,
    drawn,
    hubness,
    popular_and_drawn,
    read_vectors,
)

HUBS_TOLD = 10


@dataclass(frozen=True)
class VectorFacts:
    """What the published item vectors look like.

    Attributes:
      mapped, places: items on the map, and where, (items, 2); None without a map.
      compared, hubs: items whose neighbours were found, and how often each is one.
      same, chance: of their neighbours, the share of the item's category; None where there are no categories.
    """

    norms: Norms
    rows: int
    mapped: Sequence[ItemWords]
    places: np.ndarray | None
    compared: Sequence[ItemWords]
    hubs: Hubness | None
    same: tuple[float, float] | None


def vector_facts(facts: RunFacts, items: Items) -> VectorFacts | None:
    """Reads the published vectors and looks at them; None where nothing is published."""
    published, asked = facts.items, facts.settings.report
    if published is None:
        return None
    on_map = popular_and_drawn(items.positives, items.keys, asked.map_items)
    in_hubs = drawn(items.keys, asked.hub_items)
    places = np.union1d(on_map, in_hubs)
    words = items.at(places)
    norms, vectors = read_vectors(published, [word.item for word in words])
    known = np.isfinite(vectors).all(axis=1)

    def chosen(of: np.ndarray) -> tuple[list[ItemWords], np.ndarray]:
        rows = np.searchsorted(places, of)
        rows = rows[known[rows]]
        return [words[row] for row in rows], vectors[rows]

    mapped, map_vectors = chosen(on_map)
    compared, hub_vectors = chosen(in_hubs)
    hubs = hubness(hub_vectors)
    laid_out = kept_layout(facts.paths.report_map, map_vectors, facts.settings.seed)
    return VectorFacts(norms, items.rows, mapped, laid_out, compared, hubs, _same(compared, hubs))


def _same(items: Sequence[ItemWords], hubs: Hubness | None) -> tuple[float, float] | None:
    names = [item.category or "" for item in items]
    codes = np.unique(names, return_inverse=True)[1]
    return agreement(hubs.nearest, codes) if hubs is not None and codes.max() > 0 else None


# Drawing -----------------------------------------------------------------------------------------------


def vector_map(found: VectorFacts, category: str | None) -> Html | None:
    """Draws the map with its legend.

    Args:
      category: the feature that the colours are of.
    """
    if found.places is None:
        return None
    colours = legend([item.category for item in found.mapped], found.places)
    shown = len(found.mapped)
    which = f"All {shown:,} items"
    if shown < found.rows:
        which = f"{shown:,} of {found.rows:,} items: half of them the most popular, the others drawn by a hash"
    told = [
        note(
            f"{which}. Near points have near vectors (t-SNE of the directions, from their PCA); how large a group is "
            "drawn, and how far away from others, says nothing. "
            + (f"Colours: {category}." if colours.categories else "")
        )
    ]
    if found.same is not None:
        same, chance = found.same
        told.append(
            tag(
                "p",
                tag("b", percent(same)),
                f" of an item's {NEIGHBOURS} nearest items have its {category}; by chance {percent(chance)} would.",
            )
        )
    tip = tag("div", class_="tip", role="status", hidden="")
    picture = tag("div", drawing(found.mapped, found.places, colours), tip, class_="map-box")
    beside = tag("div", *told, keys(colours), class_="beside")
    return tag("div", picture, beside, class_="map-and-keys")


def hubs(found: VectorFacts) -> Html | None:
    """Tells which items are neighbours of very many others."""
    if found.hubs is None:
        return None
    counts = found.hubs.counts
    order = np.argsort(-counts, kind="stable")[:HUBS_TOLD]
    rows = []
    for place in order.tolist():
        item = found.compared[place]
        cells = [count_cell(counts[place]), count_cell(item.positives)]
        rows.append((item.name, [*([text_cell(item.category)] if item.category is not None else []), *cells]))
    heads = ["item ", *(["category "] if found.compared[0].category is not None else [])]
    among = "all items" if len(counts) == found.rows else f"{len(counts):,} items drawn by the hash of their id"
    title = f"N{NEIGHBOURS} of {among}"
    figure = tag("figure", tag("figcaption", title), Html(occurrences(title, counts, NEIGHBOURS)))
    never = percent(found.hubs.never / len(counts))
    told = [
        tag(
            "p",
            "Skewness ",
            tag("b", f"{found.hubs.skewness:.2f}".replace("-", "−")),
            f"; the largest hub is a neighbour of {counts.max():,} others, {never} of the items of none.",
        ),
        note(
            f"N{NEIGHBOURS} is how many other items have an item among their {NEIGHBOURS} nearest by inner product, "
            f"of {among}; its mean is {NEIGHBOURS} (dashed). Skewness (Radovanović et al., JMLR 2010) is 0 where all "
            "are neighbours equally often; hubs come up in many answers whatever was asked."
        ),
    ]
    listed = table([*heads, f"N{NEIGHBOURS}", "training positives"], rows)
    return join([tag("h3", "Hubs"), *told, tag("div", figure, listed, class_="plots")])


def norms(found: VectorFacts, published: Published, tolerance: float) -> Html:
    """Tells whether the vectors have the norms that they should have.

    Args:
      tolerance: how far a norm may be from the model's, where that sets one.
    """
    of, manifest = found.norms, published.manifest
    checks: list[tuple[str, str, bool | None]] = [
        ("vectors", f"{of.rows:,}", of.rows == manifest.rows),
        ("not finite", f"{of.not_finite:,}", of.not_finite == 0),
        ("all zeros", f"{of.zeros:,}", of.zeros == 0),
        ("least norm", figure_text(of.lowest), None),
        ("mean norm", figure_text(of.mean), None),
        ("largest norm", figure_text(of.highest), None),
    ]
    if manifest.norm is not None:
        stored = max(abs(of.lowest - manifest.norm), abs(of.highest - manifest.norm))
        off = stored if manifest.norm_off is None else manifest.norm_off  # before they were rounded to halves or bytes
        checks.append((f"furthest from {manifest.norm:g}, at most {tolerance:g}", f"{off:.1e}", off <= tolerance))
    drawn = [tag("div", tag("dt", what), tag("dd", value, *_mark(passed))) for what, value, passed in checks]
    return join([tag("h3", "Norms"), tag("dl", *drawn, class_="facts")])


def _mark(passed: bool | None) -> tuple[Html, ...]:
    if passed is None:
        return ()
    return (tag("span", " ✓" if passed else " ✗ not as expected", class_="good" if passed else "bad"),)
