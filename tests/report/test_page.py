from __future__ import annotations

import datetime as dt
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dssm.config import Settings
from dssm.manifest import EVENT_TIME, ITEM_ID, LABEL, JoinCounts, NullCounts, SourceCounts
from dssm.report.dataset import open_run
from dssm.report.figures import Drift, Profile
from dssm.report.page import page
from dssm.report.plots import few_days, popularity_curve, rate_by_day, short_count
from dssm.report.profile import measure
from dssm.report.remarks import remarks
from tests.report.handmade import ITEMS, STATISTICS, item, make_settings, moment, sample, user, write_run

VOID = {"meta"}
EVIL = '<script>alert("1")</script>'


class Reader(HTMLParser):
    """Reads a page and checks that what is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def measured(root: Path) -> tuple[Profile, Settings]:
    """Returns a profile with something in every section, compared with the date before."""
    conf = {"spark.lake.login": "hunter2", "spark.executor.memory": "4g"}
    earlier = write_run(root, [[sample()] * 50], [[sample()] * 50], settings=make_settings(root, dt.date(2024, 1, 7)))
    rows = [
        sample(**{EVENT_TIME: moment(day), LABEL: label, "row__negatives": [0, -1, -1]})
        for day in ("2024-01-05", "2024-01-07")
        for label in (0, 1)
    ]
    counts = SourceCounts(
        place=EVIL, rows_read=1000, used={"train": 700}, filtered={EVIL: 200}, quarantined={EVIL: 100},
        missing_days=["2024-01-06"],
    )  # fmt: skip
    run = write_run(
        root,
        [rows * 20],
        [[sample(user_id=1, topics=[3], topics__weight=[1.0])] * 50],
        users=[user()],
        items=[*ITEMS, item(5, **{ITEM_ID: EVIL})],
        tokens={"user_id": ["u1", EVIL], "item_id": ["i1", "i2"], "topic": ["sport", EVIL]},
        sources={"sources.feed": counts},
        nulls={"height": NullCounts(rows=80, nulls=20)},
        joins=[JoinCounts(name="profiles.users", rows=700, matched=70)],
        quarantine={"sources.feed": [{"reason": EVIL, "row": EVIL}] * 9},
        statistics={**STATISTICS, "income": STATISTICS["income"].model_copy(update={"boundaries": (1.0, 2.0)})},
        settings=make_settings(root, spark={"conf": conf}),
    )  # fmt: skip
    return measure(open_run(run.paths), measure(earlier, None)), run.settings


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> tuple[Profile, Settings]:
    return measured(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def shown(rich: tuple[Profile, Settings]) -> str:
    return page(*rich)


# The page ----------------------------------------------------------------------------------------------


def test_the_page_is_well_formed_and_needs_nothing_else(shown: str) -> None:
    read = Reader(shown)
    kinds = {tag for tag, _ in read.tags}
    assert kinds.isdisjoint({"script", "link", "img", "iframe", "object", "image"})
    assert {"svg", "table", "nav", "figure"} <= kinds
    for _, attributes in read.tags:
        assert "src" not in attributes
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    assert "://" not in shown
    assert set(re.findall(r"url\((.)", shown)) <= {"#"}
    assert "default-src 'none'" in shown


def test_links_lead_somewhere_and_no_id_stands_twice(shown: str) -> None:
    read = Reader(shown)
    ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {attributes["href"] for tag, attributes in read.tags if tag == "a"}
    assert {link.removeprefix("#") for link in links if link} <= set(ids)


def test_what_the_data_holds_can_not_become_part_of_the_page(shown: str) -> None:
    assert EVIL not in shown
    assert Reader(shown).text.count(EVIL) == 6  # two reasons in the table, one above its three rows


def test_colours_are_those_of_the_pages_style(shown: str) -> None:
    plots = "".join(re.findall(r"<svg.*?</svg>", shown, flags=re.DOTALL))
    assert not re.findall(r"#0a0b0\d", plots)
    assert {"var(--train)", "var(--test)", "currentColor"} <= set(re.findall(r"var\(--\w+\)|currentColor", plots))
    assert "prefers-color-scheme: dark" in shown
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in shown


def test_every_section_has_its_figures(shown: str) -> None:
    text = " ".join(Reader(shown).text.split())
    for expected in (
        "Train on 2024-01-05 to 2024-01-07, test on 2024-01-08, days of Asia/Shanghai.",
        "compared with 2024-01-07",
        "profiles.users7007010.0 %",  # rows, matched, share
        "100 rows, 10.0 % of those read",
        "heightuser25.0 %",  # null in its table
        "item_iditem–",
        "sources.feed: 2024-01-06",
        "mean of like where it is known",
        "The most popular 1 % of the 6 items have 50.0 % of the training positives",
        "Half of the positives are of 1 items; 3 items (50.0 %) have none.",
        "uniform8050.0 %100 %0 %",
        "user_ididstest",
        "u1: 100 % → 0 %",
    ):
        assert expected in text


def test_secrets_in_sparks_settings_are_not_shown(shown: str) -> None:
    """Under whatever name they stand: none of Spark's settings is."""
    assert "hunter2" not in shown
    assert "spark." not in shown


def test_a_page_of_almost_nothing(tmp_path: Path) -> None:
    """No test rows, no negatives, no list, no number, nothing to compare with."""
    features = {name: {"kind": "SparseFeat", "side": side} for name, side in (("user_id", "user"), ("item_id", "item"))}
    settings = make_settings(
        tmp_path, features=features, samples={}, train={}, counters={}, histories={}, vectors={}, targets={}
    )
    run = write_run(tmp_path, [[sample(**{LABEL: 0})]], items=[item(0)], settings=settings)
    text = Reader(page(measure(run, None), settings)).text
    for expected in (
        "Nothing stands out.", "No row was quarantined.", "No feature is a list.", "No feature is a number.",
        "No item has a training positive.", "None are drawn when samples are built",
        "There is no earlier date of this pipeline",
    ):  # fmt: skip
        assert expected in text


def test_what_to_look_at_first(rich: tuple[Profile, Settings]) -> None:
    found = list(remarks(*rich))
    for expected in (
        ("rows", "sources.feed: no files for 2024-01-06"),
        ("quarantine", "sources.feed: 100 rows can't be read (10.0 %)"),
        ("rows", "join profiles.users: only 10.0 % of the rows found a partner"),
        ("labels", "no train rows on 2024-01-06"),
        ("missing", "user_id: missing or unknown in 100 % of test, 0 % of train"),
        ("vocabularies", "vocabulary user_id: knows 0 % of the ids in test"),
        ("negatives", "negatives uniform: 50.0 % of those asked for were found"),
    ):
        assert expected in found
    assert ("drift", "user_id (ids, test) drifted: 9.05, u1: 100 % → 0 %") in found


def test_of_many_drifts_the_largest_are_told(rich: tuple[Profile, Settings]) -> None:
    drift = [
        Drift(feature=f"f{place}", measure="ids", part="test", psi=psi, chance=0.01, moved="x: 0 % → 1 %")
        for place, psi in enumerate((0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2))
    ]
    found = remarks(rich[0].model_copy(update={"drift": drift}), rich[1])
    told = [text for section, text in found if section == "drift"]
    assert told[0] == "f0 (ids, test) drifted: 0.90, x: 0 % → 1 %"
    assert told[4:] == ["f4 (ids, test) drifted: 0.50, x: 0 % → 1 %", "2 more large drifts"]


# Plots -------------------------------------------------------------------------------------------------

DAYS = [dt.date(2024, 1, day) for day in range(1, 31)]


def test_a_day_without_rows_is_a_gap_in_the_line() -> None:
    def lines(shares: list[float | None]) -> int:
        days = DAYS[: len(shares)]
        drawn = rate_by_day("rate", {"train": (days, shares)}, {"train": (days, [1] * len(days))})
        (path,) = re.findall(r'd="([^"]*)"[^>]*style="fill: none; stroke: var\(--train\)', drawn)
        return path.count("M")

    assert lines([0.1, 0.2, 0.3, 0.4]) == 1
    assert lines([0.1, 0.2, None, 0.3, 0.4]) == 2


def test_plots_of_nothing_and_of_one_day() -> None:
    for days in ([], DAYS[:1]):
        drawn = rate_by_day("a < b", {"test": (days, [0.5] * len(days))}, {"test": (days, [3] * len(days))})
        assert drawn.startswith('<svg role="img" aria-label="a &lt; b"')
        assert ("Jan 1" in drawn) == bool(days)


def test_a_plot_is_the_same_each_time() -> None:
    assert popularity_curve("p", [1, 2, 3], [9, 3, 1]) == popularity_curve("p", [1, 2, 3], [9, 3, 1])


def test_ticks_at_few_days_with_the_last() -> None:
    assert few_days(DAYS[:3]) == DAYS[:3]
    assert [day.day for day in few_days([*DAYS, DAYS[0]])] == [6, 14, 22, 30]
    assert [day.day for day in few_days(DAYS[:9])] == [1, 3, 5, 7, 9]
    assert few_days([]) == []


@pytest.mark.parametrize(("count", "text"), [(0, "0"), (999, "999"), (1500, "1.5 k"), (3e9, "3 G")])
def test_counts_in_few_letters(count: float, text: str) -> None:
    assert short_count(count) == text
