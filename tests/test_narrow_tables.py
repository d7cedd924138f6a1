from __future__ import annotations

import io

import pytest
from rich.console import Console

from dssm.narrow_tables import drawn_table

COLUMNS = ["", "recall@10", "recall@100", "± 95 %", "hitrate@100", "clicks on items with no training row"]
ROWS = [
    ["model", "0.0653", "0.3131", "±0.0058", "0.5685", "0.3024 ±0.0462"],
    ["popularity", "0.0486", "0.2379", "±0.0047", "0.4782", "0.3740 ±0.0473"],
]


def printed(columns: list[str], rows: list[list[str]], width: int, texts: tuple[int, ...] = (0,)) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(drawn_table("Recall", columns, rows, width, texts), crop=False)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_borders_where_they_fit() -> None:
    lines = printed(["", "recall@10"], [["model", "0.0653"]], 22)
    assert lines == [
        "Recall",
        "┏━━━━━━━┳━━━━━━━━━━━┓",
        "┃       ┃ recall@10 ┃",
        "┡━━━━━━━╇━━━━━━━━━━━┩",
        "│ model │    0.0653 │",
        "└───────┴───────────┘",
    ]


def test_without_borders_heads_take_several_lines_and_numbers_one() -> None:
    assert printed(["", "items with no training row"], [["model", "0.3024 ±0.0462"]], 25) == [
        "Recall",
        "        items with no",
        "         training row",
        "model  0.3024 ±0.0462",
        "",
    ]


def test_columns_that_do_not_fit_stand_in_blocks_below() -> None:
    columns, rows = ["", "recall@10", "mrr@10"], [["model", "0.0653", "0.0703"], ["ease", "0.0691", "0.0684"]]
    assert printed(columns, rows, 20) == [
        "Recall",
        "       recall@10",
        "model     0.0653",
        "ease      0.0691",
        "",
        "       mrr@10",
        "model  0.0703",
        "ease   0.0684",
        "",
    ]
    assert printed(columns, rows, 22)[1] == "      recall@10 mrr@10"  # a narrower gap rather than blocks


@pytest.mark.parametrize("width", [5, 20, 40, 60, 80, 100, 120])
def test_no_number_is_wrapped_or_cut(width: int) -> None:
    lines = printed(COLUMNS, ROWS, width)
    for name, *numbers in ROWS:
        shown = " ".join(line for line in lines if name in line)
        for number in numbers:
            assert number in shown
    if width >= 40:
        assert max(map(len, lines)) <= width


def test_long_texts_alone_fold() -> None:
    why = "failed in 'event logs', exit code 2: window.train_days: no row becomes a train sample"
    lines = printed(["job", "took", "left"], [["build_samples", "19.0 s", why]], 50, texts=(0, 2))
    assert lines[4].startswith("│ build_samples │ 19.0 s │ failed in 'event")
    assert " ".join(line.split("│")[-2].strip() for line in lines if "│" in line) == why
