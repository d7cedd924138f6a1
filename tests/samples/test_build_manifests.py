"""What the manifests of a tiny feed's build say of its files and of the rows read: see tests/samples/feed.py."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from dssm.manifest import Manifest, SourceCounts, encoded_columns, read_manifest
from tests.samples.feed import TinyFeed, quarantined_rows

pytestmark = pytest.mark.spark

PARTS = ("train", "test", "users", "items", "interactions")


@pytest.fixture(scope="module")
def manifest(tiny_build: TinyFeed) -> Manifest:
    return read_manifest(str(tiny_build.samples), "build_samples")


def test_every_part_says_what_it_holds(tiny_build: TinyFeed, manifest: Manifest) -> None:
    expected_rows = {"train": 7, "test": 3, "users": 2, "items": 5, "interactions": 3}
    settings = tiny_build.settings()
    features = settings.features.values()
    for part in PARTS:
        found = read_manifest(str(tiny_build.samples / part), "build_samples")
        assert (found.kind, found.rows, found.seed) == (part, expected_rows[part], 0)
        assert (found.date, found.build) == ("2024-01-10", manifest.build)
        assert (found.vocabularies, found.sources) == (manifest.vocabularies, manifest.sources)
        assert found.lists == {"follow": "text", "fav": "text"}
        sides = {"users": {"user"}, "items": {"item"}, "interactions": set()}.get(part, {"user", "item"})
        columns = {k: v for f in features if f.side in sides for k, v in encoded_columns(f, settings.vectors).items()}
        assert {k: v for k, v in found.columns.items() if not k.startswith("row__")} == columns


def test_each_file_is_one_row_group(tiny_build: TinyFeed) -> None:
    for part in PARTS:
        found = read_manifest(str(tiny_build.samples / part), "build_samples")
        on_disk = sorted(path.name for path in (tiny_build.samples / part).iterdir())
        assert on_disk == ["manifest.json", *(file.name for file in found.files)]
        for file in found.files:
            footer = pq.ParquetFile(tiny_build.samples / part / file.name).metadata
            assert footer.num_rows == file.rows
            assert footer.num_row_groups <= 1


BAD_TIME = "bad time in 'time' (expected ms, 1970 to 2100)"
COUNTS = {
    "sources.feed": (
        {"train": 6, "test": 3},
        {
            "item not in the catalogue": 1,
            "left out by where": 1,
            "negative, and train_rows is positives": 1,
            "outside the windows": 2,
        },
        {
            BAD_TIME: 2,
            "label is not a number": 1,
            "malformed row": 2,
            "no item in 'post_id'": 1,
            "no user in 'client_id'": 1,
            "weight is not a number of at least 0": 2,
        },
    ),
    "sources.likes": (
        {"train": 1},
        {"source has no test role": 1},
        {"bad time in 'when' (expected iso with a full date, 1970 to 2100)": 1, "malformed row": 1},
    ),
    "profiles.clients": (
        {"read": 3},
        {},
        {"'age' is not a number": 3, "'fav' is not id:weight,id:weight": 3, "malformed row": 1},
    ),
    "profiles.reads": ({"read": 2}, {}, {}),
    "catalogue": ({"read": 5}, {}, {"'length' is not a number": 1, "no id in 'post_id'": 1}),
    "vectors.post": (
        {"read": 3},
        {},
        {
            "'values' holds null, NaN or infinity": 2,
            "'values' is not 2 numbers": 1,
            "malformed row": 1,
            "no id in 'post_id'": 1,
        },
    ),
}


@pytest.mark.parametrize("name", COUNTS)
def test_every_row_is_used_filtered_or_quarantined(tiny_build: TinyFeed, manifest: Manifest, name: str) -> None:
    used, filtered, quarantined = COUNTS[name]
    found = manifest.sources[name]
    rows = sum(map(sum, (used.values(), filtered.values(), quarantined.values())))
    days = ["2024-01-08"] if name == "sources.feed" else []
    assert found == SourceCounts(
        place=found.place, rows_read=rows, used=used, filtered=filtered, quarantined=quarantined, missing_days=days
    )
    assert str(tiny_build.folder) in found.place
    kept = quarantined_rows(tiny_build.samples, name)
    assert {reason: sum(row["reason"] == reason for row in kept) for reason in quarantined} == quarantined
    assert len(kept) == sum(quarantined.values())


def test_counts_are_of_every_table(manifest: Manifest) -> None:
    assert set(manifest.sources) == set(COUNTS)


def test_nulls_are_counted_of_profiles_and_catalogue(manifest: Manifest) -> None:
    """Of readable rows: three clients, five posts. The clicks go on with a list, and the user's id is always there."""
    assert {name: (found.rows, found.nulls) for name, found in manifest.nulls.items()} == {
        "client_type": (3, 0), "age": (3, 2), "follow": (3, 1), "fav": (3, 1),
        "post_id": (5, 0), "topic_id": (5, 1), "length": (5, 1), "post_embed": (5, 0),
    }  # fmt: skip


def test_quarantined_rows_are_kept_as_they_were(tiny_build: TinyFeed) -> None:
    rows = [(row["reason"], json.loads(row["row"])) for row in quarantined_rows(tiny_build.samples, "sources.feed")]
    assert ("malformed row", {"client_id": "7", "post_id": "p1", "_corrupt_record": "7,p1"}) in rows
    broken = {"client_id": "7", "post_id": "p1", "time": "yesterday", "act": "1", "dwell": "0", "channel": "home"}
    assert (BAD_TIME, broken) in rows
