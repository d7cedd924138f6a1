"""What benchmarks do with their tables: between two marks of a page, and nothing else of it changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.report import markdown_table, marks, replace_table, with_table

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
