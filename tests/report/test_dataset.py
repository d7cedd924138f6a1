from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dssm.errors import UserError
from dssm.manifest import USER_ID
from dssm.report.dataset import Run, open_run, take_rows
from tests.report.handmade import sample, user, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    named = [[sample(**{USER_ID: name}) for name in names] for names in (("a", "b", "c"), (), ("d",), ("e", "f"))]
    return write_run(tmp_path_factory.mktemp("runs"), named)


# Reading -----------------------------------------------------------------------------------------------


def test_batches_go_through_all_files_in_order(run: Run) -> None:
    found = [batch.column(0).to_pylist() for batch in run.part("train").batches([USER_ID], rows=2)]
    assert found == [["a", "b"], ["c"], ["d"], ["e", "f"]]


@pytest.mark.parametrize("places", [[], [0], [2, 3], [5], [0, 1, 2, 3, 4, 5]])
def test_rows_by_their_place(run: Run, places: list[int]) -> None:
    table = run.part("train").take(np.array(places, np.int64), [USER_ID, "age"])
    assert [*"".join(table[USER_ID].to_pylist() if places else [])] == ["abcdef"[place] for place in places]


@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=6), chosen=st.sets(st.integers(0, 29), max_size=12))
def test_rows_are_taken_over_batches(sizes: list[int], chosen: set[int]) -> None:
    values = np.arange(sum(sizes))
    batches = [pa.RecordBatch.from_arrays([pa.array(part)], ["n"]) for part in np.split(values, np.cumsum(sizes)[:-1])]
    places = np.array(sorted(place for place in chosen if place < len(values)), np.int64)
    assert take_rows(batches, places)["n"].to_pylist() == places.tolist()


def test_a_file_that_is_gone_or_damaged(tmp_path: Path) -> None:
    run = write_run(tmp_path, [[sample()]])
    file = Path(run.part("train").folder, "part-00000.parquet")
    file.write_bytes(b"PAR1 but not really PAR1")
    with pytest.raises(UserError, match=r"part-00000.parquet: can't be read \(.*\); run build_samples again$"):
        list(run.part("train").batches([USER_ID]))
    file.unlink()
    with pytest.raises(UserError, match=r"not found, but the manifest has it; run build_samples again$"):
        list(run.part("train").batches([USER_ID]))


def test_a_column_that_is_not_there(run: Run) -> None:
    with pytest.raises(UserError, match=r"part-00000.parquet: no column 'shoe'; run build_samples again$"):
        list(run.part("train").batches([USER_ID, "shoe"]))


def test_a_run_without_settings(tmp_path: Path) -> None:
    paths = write_run(tmp_path, [[sample()]]).paths
    settings = Path(paths.samples, "settings.json")
    settings.write_text(settings.read_text().replace('"timezone"', '"tiemzone"'))
    with pytest.raises(UserError, match=r"settings.json: settings of another version \(.*tiemzone.*\); run build_sam"):
        open_run(paths)
    settings.unlink()
    with pytest.raises(UserError) as raised:
        open_run(paths)
    expected = f"{settings}: not found; without it the samples can't be decoded: run build_samples again"
    assert str(raised.value) == expected


# Words -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vocabulary", "ids", "words"),
    [
        ("user_id", [0, 1, 2, 4, 4], {1: "unknown", 2: "u1", 4: "u3"}),
        ("user_id", [0], {}),
        ("topic", [3], {3: "mu\x1bsic"}),
        ("city", [1, 2, 11], {1: "unknown", 2: "#0", 11: "#9"}),
        ("age", [2, 3, 5], {2: "< 18", 3: "[18, 30)", 5: "≥ 50"}),
        ("income", [2, 3, 4], {2: "< 10.5", 3: "[10.5, 25)", 4: "≥ 25"}),
        ("hour", [2, 25], {2: "00:00", 25: "23:00"}),
    ],
)
def test_what_ids_stand_for(run: Run, vocabulary: str, ids: list[int], words: dict[int, str]) -> None:
    assert run.words(vocabulary, np.array(ids, np.int32)) == words


@pytest.mark.parametrize(
    ("vocabulary", "words", "ids"),
    [
        ("item_id", ["i3", "i9", "i1", "unknown"], [4, -1, 2, -1]),
        ("city", ["#9", "#10", "i1", "#"], [11, -1, -1, -1]),
        ("age", ["≥ 50", "[18, 31)"], [5, -1]),
        ("hour", ["23:00", "24:00"], [25, -1]),
        ("item_id", [], []),
    ],
)
def test_the_ids_of_words(run: Run, vocabulary: str, words: list[str], ids: list[int]) -> None:
    assert run.ids(vocabulary, words).tolist() == ids


def test_items_and_vectors_by_number(run: Run) -> None:
    assert run.item_ids(np.array([[-1, 4], [0, 4]])) == {0: "i1", 4: "i5"}
    assert run.item_ids(np.array([-1])) == {}
    assert run.vector_ids("frozen", np.array([0, 2, 1, 2])) == {1: "i1", 2: "i2"}


def test_ids_beyond_the_vocabulary(run: Run) -> None:
    with pytest.raises(UserError, match=r"user_id.parquet: 1 ids are above the last token's; run build_samples again$"):
        run.words("user_id", np.array([2, 9]))


def test_a_vocabulary_that_the_manifest_does_not_have(run: Run) -> None:
    with pytest.raises(UserError, match=r"the manifest has no vocabulary 'shoe'; run build_samples again$"):
        run.words("shoe", np.array([2]))


def test_an_empty_vocabulary(tmp_path: Path) -> None:
    tokens: dict[str, list[str]] = {"user_id": [], "item_id": ["i1"], "topic": ["sport"]}
    run = write_run(tmp_path, [[sample()]], users=[user()], tokens=tokens)
    assert run.words("user_id", np.array([1])) == {1: "unknown"}
