"""The reports in a headless Chromium: nothing goes wrong, everything is drawn, on a screen, a phone and paper."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dssm.report.page import page as profile_page
from dssm.report.run_report import write_report
from tests.browser import DESKTOP, PHONE, Browser
from tests.report.drawn import DRAWN, OUTSIDE, WIDTH, check_run_report
from tests.report.full_run import IDS, full_run
from tests.report.test_page import measured

pytestmark = pytest.mark.slow  # a browser: a process of its own

PAPER = (688, 1017)  # A4 less the margins, at 96 pixels an inch


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    return Path(write_report(full_run(tmp_path_factory.mktemp("runs")))).as_uri()


@pytest.mark.parametrize(("size", "dark"), [(DESKTOP, False), (DESKTOP, True), (PHONE, False), (PHONE, True)])
def test_every_plot_is_drawn_and_nothing_is_wrong(browser: Browser, report: str, size: Any, dark: bool) -> None:
    with browser.page(report, size, dark) as page:
        labels = check_run_report(page, size[0])
        ink, paper = page.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        )
    assert len(labels) == 14
    assert labels[0].startswith("Sources: 4,321 events; build_samples: 40 train rows")
    for told in (
        "loss by epoch", "auc by epoch", "recall@50 by epoch", "recall@10, seen items kept",
        "recall@50, seen items filtered",
        "recall@50 by tenth of the items, seen items kept: model, popularity and itemcf",
        "recall@50 by tenth of the users, seen items filtered: model and itemcf", "N10 of all items",
    ):  # fmt: skip
        assert told in labels
    assert any(label.startswith("map of 60 items") for label in labels)
    assert (_brightness(ink) > _brightness(paper)) == dark


def _brightness(colour: str) -> int:
    return sum(int(part) for part in re.findall(r"\d+", colour)[:3])


def test_a_points_name_shows_beside_the_mouse(browser: Browser, report: str) -> None:
    spot = """(() => {
      const dot = document.querySelectorAll("svg.map circle")[%d];
      dot.scrollIntoView({ block: "center", behavior: "instant" });
      const box = dot.getBoundingClientRect();
      return [box.left + box.width / 2, box.top + box.height / 2];
    })()"""
    tip = 'document.querySelector(".tip")'
    inside = f"""(() => {{
      const [box, map] = [{tip}, document.querySelector("svg.map")].map((one) => one.getBoundingClientRect());
      return box.width > 0 && box.left >= map.left - 1 && box.right <= map.right + 1;
    }})()"""
    with browser.page(report) as page:
        assert page.evaluate(f"{tip}.hidden") is True
        for number in (0, 30, 59):
            page.move_to(*page.evaluate(spot % number))
            assert page.evaluate(f"{tip}.hidden") is False
            assert re.fullmatch(r'Title & "i\d+" · (sport|mu\\x1bsic|<b>art</b>)', page.evaluate(f"{tip}.textContent"))
            assert page.evaluate(inside)
        page.move_to(5, 5)
        assert page.evaluate(f"{tip}.hidden") is True
        assert page.complaints == []


def test_a_button_of_the_legend_leaves_its_own_points_bright(browser: Browser, report: str) -> None:
    bright = """[...document.querySelectorAll("svg.map circle")].filter((dot) =>
      getComputedStyle(dot.parentElement).opacity === "1").length"""
    pressed = '[...document.querySelectorAll(".keys button")].map((key) => key.getAttribute("aria-pressed"))'
    with browser.page(report) as page:
        assert page.evaluate(bright) == len(IDS)
        page.evaluate('document.querySelectorAll(".keys button")[1].click()')
        assert page.evaluate(bright) == len(IDS) // 3
        assert page.evaluate(pressed) == ["false", "true", "false"]
        page.evaluate('document.querySelectorAll(".keys button")[1].click()')
        assert page.evaluate(bright) == len(IDS)
        assert page.evaluate(pressed) == ["false"] * 3


def test_points_keep_their_titles_where_scripts_are_off(browser: Browser, report: str) -> None:
    with browser.page("about:blank") as page:
        page.call("Emulation.setScriptExecutionDisabled", value=True)
        page.go(report)
        titles = page.evaluate('document.querySelectorAll("svg.map circle title").length')
    assert titles == len(IDS)


def test_on_paper_all_is_open_and_light(browser: Browser, report: str) -> None:
    shown = """["nav", "svg.wide", "svg.narrow", "details.printed table", "details.printed pre"].map((of) => {
      const box = document.querySelector(of).getBoundingClientRect();
      return box.width > 0 && box.height > 0;
    })"""
    with browser.page(report, PAPER, dark=True) as page:
        page.show(PAPER, dark=True, media="print")
        assert page.evaluate(shown) == [False, True, False, True, True]
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.evaluate(WIDTH) == PAPER[0]
        assert page.evaluate(OUTSIDE) == []
        page.show(DESKTOP)
        printed = page.pdf()
    assert printed.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) > 3


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_the_report_on_the_data_is_drawn_too(browser: Browser, tmp_path: Path, size: Any) -> None:
    path = tmp_path / "profile.html"
    path.write_text(profile_page(*measured(tmp_path)))
    with browser.page(path.as_uri(), size) as page:
        assert page.complaints == []
        assert page.requests == []
        assert page.evaluate(WIDTH) == size[0]
        drawn = page.evaluate(DRAWN)
    assert len(drawn) > 3
    assert all(width > 0 and height > 0 and shapes > 0 for _, width, height, shapes in drawn)
