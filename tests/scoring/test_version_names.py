"""What a version's name is made of, and a folder of that name that can't be read."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dssm import published
from dssm.published import GateDecision, Published, PublishedManifest
from dssm.scoring import score
from dssm.scoring.publish import _MOVING, Measured, publish
from dssm.scoring.score import version_of
from tests.scoring.tables import DATE, VECTORS, by_force, folders, judged, maker, publish_version, seen, table_at

MADE_OF = (DATE, "model", "build", "float32")


def test_a_name_is_of_all_that_a_version_is_made_of() -> None:
    names = {version_of(*MADE_OF[:place], "other", *MADE_OF[place + 1 :]) for place in range(len(MADE_OF))}
    assert len(names | {version_of(*MADE_OF)}) == 5


def test_a_version_of_another_schema_is_not_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade must not remove what readers of before still read."""
    table = table_at(tmp_path, kind="path")
    before = version_of(*MADE_OF)
    made = publish(table, before, judged(), ["vector"], maker(VECTORS["v1"], before))
    there = {path: path.read_bytes() for path in Path(made.folder).rglob("*") if path.is_file()}
    monkeypatch.setattr(score, "SCHEMA_VERSION", score.SCHEMA_VERSION + 1)
    now = version_of(*MADE_OF)
    publish(table, now, judged(), ["vector"], maker(VECTORS["v2"], now))
    assert seen(table) == "v2"
    assert {path: path.read_bytes() for path in Path(made.folder).rglob("*") if path.is_file()} == there


def test_a_folder_that_can_not_be_read_is_replaced_under_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a run that finds it damaged could remove what another has put in its place since."""
    table = table_at(tmp_path, kind="path")
    made = publish_version(table, "v1")
    Path(made.folder, "manifest.json").write_text("{")
    found: list[bool] = []
    rename = published.storage.rename

    def watched(source: str, target: str) -> None:
        if source == made.folder:
            found.append(_MOVING.locked())
        rename(source, target)

    monkeypatch.setattr(published.storage, "rename", watched)
    publish_version(table, "v1")
    assert found == [True]
    assert seen(table) == "v1"
    assert folders(tmp_path / f"table/dt={DATE}") == ["_current", "version=v1"]


def test_a_folder_that_another_has_mended_stays(tmp_path: Path) -> None:
    """The second run mends it, and is read, while the first waits for the lock."""
    table = table_at(tmp_path, kind="path")
    made = publish_version(table, "v1")
    whole = Path(made.folder, "manifest.json").read_text()
    Path(made.folder, "manifest.json").write_text("{")
    mended: list[float] = []

    def make(folder: str, last: Published | None) -> PublishedManifest:
        manifest = maker(VECTORS["v1"], "v1")(folder, last)
        _MOVING.acquire()  # by the other

        def mend() -> None:
            Path(made.folder, "manifest.json").write_text(whole)
            mended.append(Path(made.folder).stat().st_ino)
            _MOVING.release()

        threading.Timer(0.5, mend).start()
        return manifest

    publish(table, "v1", judged(), ["vector"], make)
    assert [Path(made.folder).stat().st_ino] == mended
    assert seen(table) == "v1"


TOO_BAD = GateDecision(gate="recall", passed=False, reason="too bad")


def test_what_is_noted_later_is_written_under_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_at(tmp_path, kind="path")
    for version in ("v1", "v2"):
        publish_version(table, version)
    written: list[tuple[str, bool]] = []
    write_text = published.storage.write_text

    def watched(path: str, text: str) -> None:
        written.append((Path(path).name, _MOVING.locked()))
        write_text(path, text)

    monkeypatch.setattr(published.storage, "write_text", watched)
    measured = Measured({"recall@50": 0.4}, "recall@50")
    made = publish(by_force(table), "v1", judged(TOO_BAD), ["vector"], maker(VECTORS["v1"]), measured=measured)
    assert written == [("manifest.json", True), ("manifest.json", True), ("_current", True)]
    assert made == published.read_version(table.folder("v1"))
    assert (made.manifest.metrics, made.manifest.overridden) == ({"recall@50": 0.4}, ["too bad"])


def test_a_version_that_retention_removes_meanwhile_stays_away(tmp_path: Path) -> None:
    table = table_at(tmp_path, kind="path")
    for version in ("v1", "v2"):
        publish_version(table, version)

    def judge(last: PublishedManifest | None) -> list[GateDecision]:
        _MOVING.acquire()  # by the other

        def remove() -> None:
            published.storage.remove(table.folder("v1"))
            _MOVING.release()

        threading.Timer(0.5, remove).start()
        return [TOO_BAD]

    with pytest.raises(RuntimeError, match=r"version=v1: gone while version v1 was being written; run the job again"):
        publish(by_force(table), "v1", judge, ["vector"], maker(VECTORS["v1"]))
    assert seen(table) == "v2"
    assert folders(tmp_path / f"table/dt={DATE}") == ["_current", "version=v2"]
