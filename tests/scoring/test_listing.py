from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from dssm import published, storage
from dssm.errors import UserError
from dssm.paths import RunPaths
from dssm.scoring.listing import show_versions
from dssm.scoring.publish import publish
from tests.datasets import make_settings, write_items
from tests.scoring.tables import MADE_AT, by_force, maker, table_at, unit_vectors


def test_the_versions_of_a_runs_date(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = make_settings(tmp_path)
    write_items(settings)
    paths = RunPaths(settings.run_folder)
    with pytest.raises(UserError, match="no table of items was published from this run"):
        show_versions(paths, "items")
    table = table_at(tmp_path)
    published.write_run_tables(paths.folder, {"items": table.location})
    with pytest.raises(UserError, match="no version of 2024-01-08 is published; run score_items for this date first"):
        show_versions(paths, "items")
    given = {"metrics": {"recall@50": 0.25}, "metric": "recall@50", "at": MADE_AT}
    publish(table, "v1", lambda last: [], ["vector"], maker(unit_vectors(4), "v1", **given))
    later = {"at": MADE_AT + dt.timedelta(minutes=3), "quarantined": {"no id": 2}, "samples_rows": 6}
    publish(by_force(table), "v2", lambda last: [], ["vector"], maker(unit_vectors(4), "v2", **later))
    published.write_pointer(table.location, table.date, "v1", MADE_AT)
    capsys.readouterr()
    show_versions(paths, "items")
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if "│" in line]
    assert rows == [
        ["●", "v1", "model", "4", "0", "recall@50 0.2500", "2024-01-09 03:00:00", ""],
        ["", "v2", "model", "4", "2", "", "2024-01-09 03:03:00", "yes"],
    ]
    (Path(table.location) / f"dt={table.date}/_current").write_text("{")
    show_versions(paths, "items")
    printed_again = capsys.readouterr().out
    assert "_current: damaged; expected the JSON of a version" in printed_again
    assert "v2" in printed_again
    assert "●" not in printed_again.split("\n", 2)[2]
    assert "v2 was forced: 2 of 6 rows can't be read (2 no id), item_table.max_quarantine_share is 0.01" in printed


def test_a_date_that_is_another_runs(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    write_items(settings)
    table = table_at(tmp_path, "2024-01-07")
    publish(table, "v1", lambda last: [], ["vector"], maker(unit_vectors(4), "v1"))
    published.write_run_tables(settings.run_folder, {"items": storage.absolute(table.location)})
    with pytest.raises(UserError, match="no version of 2024-01-08"):
        show_versions(RunPaths(settings.run_folder), "items")
