"""What an evaluation comes to: evaluation.json, evaluation_replicates.npz, and the tables that are printed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dssm import storage
from dssm.console import out, table
from dssm.evaluation import FILTERED, HEADLINE, KEPT, MODEL, TEST_ROWS, VIEWS
from dssm.paths import RunPaths
from dssm.retrieval.bootstrap import LEVEL, interval
from dssm.retrieval.catalogue import Catalogue
from dssm.retrieval.evaluated import Replicates, write_replicates
from dssm.retrieval.ranking import COLD, Asked, Found
from dssm.retrieval.tally import TENTHS, Tally

INTERVAL_DIGITS = 6

Statistics = Callable[[Tally], Mapping[str, np.ndarray]]
"""Of a tally: each statistic with its replicates, (1 + replicates, …)."""


def write_results(
    paths: RunPaths, header: Mapping[str, Any], found: Found, catalogue: Catalogue, asked: Asked
) -> dict[str, Any]:
    """Writes both files. Returns: what stands in evaluation.json.

    Args:
      header: what was evaluated; it stands first.
    """
    names = [name for view, name in found.tallies if view == KEPT]
    digest = write_replicates(paths, _replicates(found, names))
    result = {
        **header,
        "items": catalogue.items,
        "users": found.tallies[KEPT, MODEL].users,
        "users_filtered": found.tallies[FILTERED, MODEL].users,
        "cold_users": found.cold_users,
        **{view: {name: found.tallies[view, name].metrics() for name in names} for view in VIEWS},
        "intervals": {view: _intervals(found, view, names, Tally.statistics) for view in VIEWS},
        "popularity_tenths": _popularity_tenths(found, names, catalogue.items),
        "activity_tenths": _activity_tenths(found, names, asked),
        "cold": {"users": _cold_users(found), "items": _cold_items(found, names, catalogue.cold)},
        "bootstrap": {"replicates": asked.replicates, "level": LEVEL, "digest": digest},
        "evaluated": {
            name: f"{value:016x}" for name, value in (found.digests | {"catalogue": catalogue.digest}).items()
        },
    }
    storage.write_text(paths.evaluation, json.dumps(result, indent=1) + "\n")
    return result


def _replicates(found: Found, names: Sequence[str]) -> Replicates:
    metrics = tuple(found.tallies[KEPT, MODEL].statistics())
    sums = [[found.tallies[view, name].sums_of(["users", *metrics]) for name in names] for view in VIEWS]
    return Replicates(tuple(names), metrics, np.array(sums))


def _popularity_tenths(found: Found, names: Sequence[str], items: int) -> dict[str, Any]:
    """Returns the recall of each popularity tenth of the catalogue, the most popular first.

    It is that of all users together: the share of their clicks on items of the tenth that are in the top K.
    """
    return {
        "items": np.bincount(np.arange(items) * TENTHS // items, minlength=TENTHS).tolist(),
        **{
            view: {
                "clicks": found.tallies[view, MODEL].relevant.tolist(),
                **{name: found.tallies[view, name].recall_by_tenth() for name in names},
            }
            for view in VIEWS
        },
        "intervals": {view: _intervals(found, view, names, Tally.tenths) for view in VIEWS},
    }


def _activity_tenths(found: Found, names: Sequence[str], asked: Asked) -> dict[str, Any]:
    """Returns the mean recall of the users in each tenth of activity, the most active first.

    Activity is in how many items a user has an event with before the window: `items` has the most and the fewest.
    """
    return {
        "items": asked.activity.ranges(),
        **{
            view: {
                "users": found.tallies[view, MODEL].users_by_activity.tolist(),
                **{name: _values(found.tallies[view, name].activity()) for name in names},
            }
            for view in VIEWS
        },
        "intervals": {view: _intervals(found, view, names, Tally.activity) for view in VIEWS},
    }


def _cold_users(found: Found) -> dict[str, Any]:
    """Returns the metrics of users without an event before the window; rankers that need a history are left out."""
    names = [name for view, name in found.tallies if view == COLD]
    return {
        "users": found.tallies[COLD, MODEL].users,
        "metrics": {name: found.tallies[COLD, name].metrics() for name in names},
        "intervals": _intervals(found, COLD, names, Tally.statistics),
    }


def _cold_items(found: Found, names: Sequence[str], items: int) -> dict[str, Any]:
    """Returns the recall of items that no training row of a weight has: of clicks on them, the share in the top K."""
    return {
        "items": items,
        **{
            view: {
                "clicks": found.tallies[view, MODEL].cold_relevant,
                **{name: _values(found.tallies[view, name].cold()) for name in names},
            }
            for view in VIEWS
        },
        "intervals": {view: _intervals(found, view, names, Tally.cold) for view in VIEWS},
    }


def _values(statistics: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {name: _plain(values[0]) for name, values in statistics.items()}


def _intervals(found: Found, view: str, names: Iterable[str], statistics: Statistics) -> dict[str, Any]:
    """Returns [low, high] of each ranker's statistics; nothing without replicates."""
    tallies = {name: found.tallies[view, name] for name in names}
    return {
        name: {
            key: _plain(np.moveaxis(interval(values[1:]).round(INTERVAL_DIGITS), 0, -1))
            for key, values in statistics(tally).items()
        }
        for name, tally in tallies.items()
        if len(tally.sums) > 1
    }


def _plain(values: Any) -> Any:
    """Returns an array as nested lists, None for NaN."""
    if np.ndim(values):
        return [_plain(value) for value in values]
    return None if np.isnan(values) else float(values)


def show(result: Mapping[str, Any], cutoffs: Sequence[int]) -> None:
    """Prints the metrics of both views, the headline's intervals and its recall by groups, and those of test rows."""
    for view, title in VIEWS.items():
        _show_view(result, view, title, cutoffs)
    shown = result[HEADLINE]
    columns = ["", *(str(place + 1) for place in range(TENTHS))]
    tenths = result["popularity_tenths"][KEPT]
    table(
        f"{shown} by tenth of the catalogue, 1 the most popular; {VIEWS[KEPT]}",
        columns,
        [["clicks", *(f"{clicks:,}" for clicks in tenths["clicks"])], *_by_tenth(tenths, shown)],
    )
    activity = result["activity_tenths"]
    seen = ["–" if bounds is None else f"{bounds[1]:,}–{bounds[0]:,}" for bounds in activity["items"]]
    table(
        f"{shown} by tenth of the users, 1 the most active; {VIEWS[KEPT]}",
        columns,
        [["items before", *seen], *_by_tenth(activity[KEPT], shown)],
    )
    _show_cold(result["cold"], shown)
    told = ", ".join(f"{name} {_number(value)}" for name, value in result.get(TEST_ROWS, {}).items())
    if told:
        out.print(f"  of the test rows: {told}", markup=False)


def _show_view(result: Mapping[str, Any], view: str, title: str, cutoffs: Sequence[int]) -> None:
    names = [f"recall@{k}" for k in cutoffs] + [f"{m}@{cutoffs[-1]}" for m in ("hitrate", "ndcg", "mrr", "coverage")]
    bounds, beside = result["intervals"][view], names.index(result[HEADLINE]) + 1
    rows = []
    for name, values in result[view].items():
        row = [name, *(_number(values[column]) for column in names)]
        if bounds:
            row.insert(beside + 1, _half(bounds[name][names[beside - 1]]))
        rows.append(row)
    columns = [*names[:beside], *([f"± {100 * LEVEL:.0f} %"] if bounds else []), *names[beside:]]
    users, cold = result["users"] if view == KEPT else result["users_filtered"], result["cold_users"]
    table(f"{title}: {users:,} users, {result['items']:,} items, {cold:,} cold users apart", ["", *columns], rows)


def _by_tenth(tenths: Mapping[str, Any], metric: str) -> list[list[str]]:
    """Returns a row a ranker. Args: tenths: of a view: rankers, and what the groups hold."""
    return [[name, *(_number(value, 3) for value in of[metric])] for name, of in tenths.items() if metric in of]


def _show_cold(cold: Mapping[str, Any], metric: str) -> None:
    """Prints the recall of cold users and on cold items, where there are any."""
    users, items = cold["users"], cold["items"]
    groups = [
        (users["users"], "users with no event before", users["metrics"], users["intervals"]),
        (items[KEPT]["clicks"], "clicks on items with no training row", items[KEPT], items["intervals"][KEPT]),
    ]
    groups = [group for group in groups if group[0]]
    names = [name for name in items[KEPT] if any(name in of_group for *_, of_group, _ in groups) and name != "clicks"]
    rows = []
    for name in names:
        row = [name]
        for *_, values, bounds in groups:
            known = name in values
            row.append(f"{_number(values[name][metric])} {_half(bounds.get(name, {}).get(metric))}" if known else "–")
        rows.append(row)
    if rows:
        columns = ["", *(f"{count:,} {what}" for count, what, *_ in groups)]
        table(f"{metric} of the cold; {VIEWS[KEPT]}", columns, rows)


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _half(bounds: Sequence[float] | None) -> str:
    """Returns half an interval's width."""
    return "" if bounds is None or None in bounds else f"±{(bounds[1] - bounds[0]) / 2:.4f}"
