"""Commits in a store that has no rename: files are copied one by one, and it may die before any."""

from __future__ import annotations

from typing import Any, ClassVar

import fsspec
import pytest

from dssm import storage
from dssm.manifest import MANIFEST
from dssm.retrieval.sinks.folders import DESCRIPTION
from tests.dying_store import ROOT, DyingStore, dying_after, empty_store

PART = {"part/rows", "part/manifest.json"}
WHOLE = {"a", "z", "manifest.json", *PART}


def commit_copying(text: str) -> None:
    with storage.committed_folder(f"{ROOT}/samples") as made:
        for name in ("a", "z", "part/rows", "part/manifest.json", "manifest.json"):
            storage.write_text(f"{made}/{name}", text)


def stored(folder: str) -> dict[str, str]:
    system, place = storage.filesystem(f"{ROOT}/{folder}")
    return {path.removeprefix(f"{place}/"): system.cat_file(path).decode() for path in system.find(place)}


def check_marked() -> None:
    """What has its manifest has all files, of one commit; so has a part that has its own."""
    for folder in ("samples", ".samples.old", ".samples.tmp"):
        found = stored(folder)
        for marker, names in (("manifest.json", WHOLE), ("part/manifest.json", PART)):
            if marker in found:
                assert {found.get(name) for name in names} == {found[marker]}


def test_a_commit_that_copies_may_die_at_any_file() -> None:
    """Also if the run that puts it right dies: what stood there, or what was to, is there whole in the end."""
    deaths, died = 0, [True]
    while died:
        for again in (0, 11, 23):
            empty_store()
            commit_copying("1")
            with dying_after(deaths) as died:
                commit_copying("2")
            check_marked()
            with dying_after(again):
                commit_copying("3")
            check_marked()
            with pytest.raises(ValueError, match="again"), storage.committed_folder(f"{ROOT}/samples"):
                raise ValueError("again")
            assert stored("samples") in [dict.fromkeys(WHOLE, text) for text in ("1", "2", "3")]
            commit_copying("4")
            assert stored("") == {f"samples/{name}": "4" for name in WHOLE}
        deaths += 1
    assert deaths > 30


def test_a_copy_that_fails_leaves_the_old_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    empty_store()
    commit_copying("1")
    copy = DyingStore.cp_file

    def full(self: DyingStore, path1: str, path2: str, **options: Any) -> None:
        if "/.samples.tmp/" in path1 and path2.endswith("/samples/z"):
            raise OSError("no space")
        copy(self, path1, path2, **options)

    monkeypatch.setattr(DyingStore, "cp_file", full)
    with pytest.raises(OSError, match="no space"):
        commit_copying("2")
    assert stored("") == {f"samples/{name}": "1" for name in WHOLE}


def test_a_removal_takes_the_marker_first() -> None:
    empty_store()
    commit_copying("1")
    for removed, gone in enumerate([{"manifest.json"}, {"manifest.json", "part/manifest.json"}], start=1):
        with dying_after(removed) as died:
            storage.remove(f"{ROOT}/samples")
        assert died
        assert {*stored("samples")} == WHOLE - gone
        commit_copying("1")


def test_the_markers_are_what_datasets_and_indexes_write_last() -> None:
    assert {*storage.MARKERS} == {MANIFEST, DESCRIPTION}


class Remembering(DyingStore):
    """As stores whose file systems list a folder once, and are not told what others write there."""

    protocol = "remembering"
    listed: ClassVar[dict[str, Any]] = {}

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(path.removeprefix("remembering://"))

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        if path not in self.listed:
            self.listed[path] = super().ls(path, detail=True, **options)
        return self.listed[path] if detail else [entry["name"] for entry in self.listed[path]]

    def invalidate_cache(self, path: str | None = None) -> None:
        self.listed.clear()


def test_folders_and_sizes_are_listed_anew() -> None:
    empty_store()
    fsspec.register_implementation("remembering", Remembering, clobber=True)
    for version in ("1", "12"):
        storage.write_text(f"{ROOT}/table/v{version}/size", version)  # another process: of its own file system
        assert storage.folder_names("remembering://root/table") == ["v1", "v12"][: len(version)]
        assert storage.file_sizes(f"remembering://root/table/v{version}") == {"size": len(version)}
    storage.write_text(f"{ROOT}/table/v1/size", "123")
    assert storage.file_sizes("remembering://root/table/v1") == {"size": 3}
    assert storage.folder_names("remembering://root/none") == []
    assert storage.file_sizes("remembering://root/none") == {}
