"""What benchmarks do with their tables: between two marks of a page, and nothing else of it changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.report import PAGE, RESULTS, kept_markdown, markdown_table, marks, replace_table, report, with_table

BEGIN, END = marks("recipes")


def test_a_table_in_markdown() -> None:
    made = markdown_table(["a", "b"], [["1", "2"], ["3", "4"]], ["---", "---:"])
    assert made == "| a | b |\n| --- | ---: |\n| 1 | 2 |\n| 3 | 4 |"


@given(before=st.text(), old=st.text(), after=st.text(), made=st.text())
def test_table_replaces_what_is_between_its_marks_alone(before: str, old: str, after: str, made: str) -> None:
    if any(mark in part for part in (before, old, after, made) for mark in (BEGIN, END)):
        return
    text = f"{before}{BEGIN}{old}{END}{after}"
    changed = with_table(text, "recipes", made)
    assert changed == f"{before}{BEGIN}\n{made}\n{END}{after}"
    assert with_table(changed, "recipes", made) == changed
    assert with_table(before + after, "recipes", made) is with_table(f"{before}{BEGIN}{after}", "recipes", made) is None


@pytest.mark.parametrize("name", ["train", "step", "stream", "score", "retrieve", "serve"])
def test_the_page_shows_the_kept_figures(name: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    kept = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    assert with_table(page, name, kept_markdown(kept)) == page
    assert f"`make bench-{name}`" in page


def test_what_is_kept_is_shown_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- mine -->\n<!-- /mine -->\nafter\n")
    monkeypatch.setattr("benchmarks.report.PAGE", page)
    monkeypatch.setattr("benchmarks.report.RESULTS", tmp_path)
    for name, keep in (("mine", True), ("other", True), ("mine", False)):
        report(name, "A title", ["", "s"], [["one side", "2.5" if keep else "9.9"]], {"vs_it": 1.234}, keep=keep)
    shown = "|  | s |\n| --- | ---: |\n| one side | 2.5 |\n\nRatios: `vs_it` 1.23\n"
    assert page.read_text() == f"before\n<!-- mine -->\n{shown}\n<!-- /mine -->\nafter\n"


def test_a_page_without_the_place_is_left_alone_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "README.md"
    page.write_text("# no place\n")
    replace_table(page, "recipes", "| a |")
    assert page.read_text() == "# no place\n"
    assert capsys.readouterr().out == (
        "README.md: no <!-- recipes --> … <!-- /recipes -->, so the table is not there; "
        "put the two lines where it belongs\n"
    )
    page.write_text(f"a\n{BEGIN}\n{END}\nb\n")
    replace_table(page, "recipes", "| a |")
    assert page.read_text() == f"a\n{BEGIN}\n| a |\n{END}\nb\n"
