from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest

from dssm import storage
from dssm.manifest import LABEL, SourceCounts
from dssm.report.dataset import Run
from dssm.report.figures import Profile
from dssm.report.profile import measure, previous_profile, profile
from tests.report.handmade import TOKENS, Row, make_settings, sample, write_run

SOURCES = {
    "sources.feed": SourceCounts(
        place="feed.csv", rows_read=100, used={"train": 90}, filtered={"left out by where": 4},
        quarantined={"bad time": 5, "no user": 1},
    )
}  # fmt: skip


def run_of(root: Path, day: int, user_id: int = 2, build: str = "b1", rows: int = 60) -> Run:
    """Writes a run of one January day whose rows are all of one user."""
    files: list[list[Row]] = [[sample(user_id=user_id)] * rows]
    return write_run(root, files, files, settings=make_settings(root, dt.date(2024, 1, day)), build=build)


def written(run: Run) -> Profile:
    return Profile.model_validate_json(Path(run.paths.folder, "profile.json").read_text())


def test_what_is_written(tmp_path: Path) -> None:
    run = write_run(tmp_path, [[sample(), sample(**{LABEL: 0})]], [[sample(user_id=1)]], sources=SOURCES)
    found = profile(run)
    assert written(run) == found
    assert (found.name, found.date, found.build, found.previous, found.drift) == ("tiny", "2024-01-08", "b1", None, [])
    assert found.rows == {"train": 2, "test": 1, "users": 0, "items": 5, "interactions": 0}
    assert found.sources == SOURCES
    user_id = found.vocabularies["user_id"]
    assert (user_id.rule, user_id.size, user_id.train, user_id.test) == ("tokens", 5, 1.0, 0.0)
    assert found.vocabularies["item_id"].features == ["clicks", "item_id"]
    assert found.popularity.counts == [4, 2, 2]
    page = Path(run.paths.folder, "profile.html").read_text()
    assert "<title>tiny · 2024-01-08 · data report</title>" in page
    names = sorted(path.name for path in Path(run.paths.folder).iterdir())
    assert names == ["profile.html", "profile.json", "samples"]


def test_quarantined_rows_are_shown_by_reason_three_of_each(tmp_path: Path) -> None:
    lines = [{"reason": "bad time", "row": json.dumps({"time": place})} for place in range(5)]
    lines += [{"reason": "no user", "row": {"user": "", "text": "x" * 999}}]
    run = write_run(tmp_path, [[sample()]], sources=SOURCES, quarantine={"sources.feed": lines})
    found = measure(run, None).quarantine["sources.feed"]
    assert found["bad time"] == ['{"time": 0}', '{"time": 1}', '{"time": 2}']
    assert len(found["no user"]) == 1
    assert found["no user"][0].startswith('{"user": "", "text": "xxx')
    assert len(found["no user"][0]) == 301


def test_quarantined_rows_that_were_not_kept(tmp_path: Path) -> None:
    run = write_run(tmp_path, [[sample()]], sources=SOURCES)
    assert measure(run, None).quarantine == {"sources.feed": {"bad time": [], "no user": []}}


# Drift -------------------------------------------------------------------------------------------------


def test_the_first_date_has_nothing_to_compare_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert profile(run_of(tmp_path, 8)).previous is None
    shown = capsys.readouterr().out
    assert shown.startswith("no earlier date of this pipeline: no drift\n")
    assert shown.endswith("/tiny/2024-01-08/profile.html\n")


def test_drift_is_told_the_largest_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile(run_of(tmp_path, 5))
    found = profile(run_of(tmp_path, 8, user_id=3))
    assert found.previous == "2024-01-05"
    assert [(drift.feature, drift.part, drift.verdict) for drift in found.drift[:2]] == [
        ("user_id", "train", "large"),
        ("user_id", "test", "large"),
    ]
    indexes = [drift.psi for drift in found.drift]
    assert indexes == sorted(indexes, reverse=True)
    shown = capsys.readouterr().out
    assert "largest drifts since 2024-01-05" in shown
    assert "│ user_id (ids, train)" in shown


def test_a_token_that_looks_like_a_command_is_printed_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = {**TOKENS, "user_id": ["[/red]\x1b[2J", "u2", "u3"]}
    for day, user_id in ((7, 2), (8, 3)):
        rows = [sample(user_id=user_id)] * 60
        found = profile(
            write_run(tmp_path, [rows], settings=make_settings(tmp_path, dt.date(2024, 1, day)), tokens=tokens)
        )
    assert found.drift[0].moved == "[/red]\x1b[2J: 100 % → 0 %"
    assert r"[/red]\x1b[2J: 100 % → 0 %" in capsys.readouterr().out


def test_an_earlier_date_without_a_profile_is_measured_from_its_samples(tmp_path: Path) -> None:
    """It gives the same drift, and its folder stays as it was."""
    earlier, run = run_of(tmp_path, 7), run_of(tmp_path, 8, user_id=3)
    from_samples = profile(run)
    assert not Path(earlier.paths.folder, "profile.json").exists()
    profile(earlier)
    assert profile(run) == from_samples


def test_a_profile_whose_samples_are_gone_still_serves(tmp_path: Path) -> None:
    earlier, run = run_of(tmp_path, 7), run_of(tmp_path, 8, user_id=3)
    profile(earlier)
    storage.remove(earlier.paths.samples)
    assert profile(run).drift[0].feature == "user_id"


def test_a_profile_of_other_samples_is_not_believed(tmp_path: Path) -> None:
    profile(run_of(tmp_path, 7, user_id=2))
    storage.remove(f"{tmp_path}/tiny/2024-01-07/samples")
    run_of(tmp_path, 7, user_id=3, build="b2")
    reference = previous_profile(run_of(tmp_path, 8))
    assert reference is not None
    assert reference.build == "b2"


def test_a_profile_of_another_version_is_not_read(tmp_path: Path) -> None:
    earlier = run_of(tmp_path, 7)
    profile(earlier)
    path = Path(earlier.paths.folder, "profile.json")
    path.write_text(path.read_text().replace('"profile_version": 1', '"profile_version": 0'))
    storage.remove(earlier.paths.samples)
    assert previous_profile(run_of(tmp_path, 8)) is None


def test_an_earlier_date_that_can_not_be_read_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    earlier, run = run_of(tmp_path, 7), run_of(tmp_path, 8)
    Path(earlier.paths.samples, "settings.json").unlink()
    assert profile(run).previous is None
    assert "no drift: " in capsys.readouterr().out


def test_a_second_profile_replaces_the_first(tmp_path: Path) -> None:
    run = run_of(tmp_path, 8)
    profile(run)
    before = {path.name: path.read_bytes() for path in Path(run.paths.folder).glob("profile.*")}
    profile(run)
    assert {path.name: path.read_bytes() for path in Path(run.paths.folder).glob("profile.*")} == before
