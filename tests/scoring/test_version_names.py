"""What a version's name is made of, and a folder of that name that can't be read."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dssm import published
from dssm.published import Published, PublishedManifest
from dssm.scoring import score
from dssm.scoring.publish import _MOVING, publish
from dssm.scoring.score import version_of
from tests.scoring.tables import DATE, VECTORS, folders, judged, maker, publish_version, seen, table_at

MADE_OF = (DATE, "model", "build", "float32")


def test_a_name_is_of_all_that_a_version_is_made_of() -> None:
    names = {version_of(*MADE_OF[:place], "other", *MADE_OF[place + 1 :]) for place in range(len(MADE_OF))}
    assert len(names | {version_of(*MADE_OF)}) == 5


def test_a_version_of_another_schema_is_not_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade must not remove what readers of before still read."""
    table = table_at(tmp_path, kind="path")
    before = version_of(*MADE_OF)
    made = publish(table, before, judged(), ["vector"], maker(VECTORS["v1"], before), force=False)
    there = {path: path.read_bytes() for path in Path(made.folder).rglob("*") if path.is_file()}
    monkeypatch.setattr(score, "SCHEMA_VERSION", score.SCHEMA_VERSION + 1)
    now = version_of(*MADE_OF)
    publish(table, now, judged(), ["vector"], maker(VECTORS["v2"], now), force=False)
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

    publish(table, "v1", judged(), ["vector"], make, force=False)
    assert [Path(made.folder).stat().st_ino] == mended
    assert seen(table) == "v1"
