"""Publishing step by step: what readers see while it runs, dies, and runs again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dssm import published, storage
from dssm.decisions import NOT_MEASURED
from dssm.errors import GateError, UserError
from dssm.published import GateDecision, Published, PublishedManifest
from dssm.scoring import gates
from dssm.scoring.publish import _MOVING, Measured, publish, roll_back
from dssm.sections import Gate
from tests.scoring.tables import (
    DATE,
    VECTORS,
    FakeMetastore,
    by_force,
    folders,
    judged,
    maker,
    publish_version,
    seen,
    seen_in_hive,
    table_at,
)  # fmt: skip

# A publish --------------------------------------------------------------------------------------------------


def test_a_version_goes_out(tmp_path: Path) -> None:
    table = table_at(tmp_path, metastore=FakeMetastore())
    made = publish_version(table, "v1")
    assert (seen(table), seen_in_hive(table)) == ("v1", "v1")
    assert isinstance(table.metastore, FakeMetastore)
    assert table.metastore.columns == {"item_id": "STRING", "vector": "ARRAY<FLOAT>", "model_version": "STRING"}
    assert table.metastore.told[DATE] == made.manifest
    assert made.manifest.previous is None
    second = publish_version(table, "v2")
    assert (seen(table), seen_in_hive(table)) == ("v2", "v2")
    assert second.manifest.previous == f"dt={DATE}/version=v1"
    assert [gate.passed for gate in second.manifest.gates] == [True] * 5
    assert not second.manifest.forced
    assert folders(tmp_path / f"table/dt={DATE}") == ["_current", "version=v1", "version=v2"]


def test_a_rerun_makes_nothing_new(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = table_at(tmp_path, kind="path")
    first = publish_version(table, "v1")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def never(folder: str, last: Published | None) -> PublishedManifest:
        raise AssertionError(folder)

    assert publish(table, "v1", judged(), ["vector"], never) == first
    assert "version v1 is there already" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_was_published_last(tmp_path: Path) -> None:
    for date, version in (("2024-01-05", "v1"), ("2024-01-07", "v2"), ("2024-01-09", "v3")):
        publish_version(table_at(tmp_path, date), version)
    table = table_at(tmp_path)
    last = table.last("v4")
    assert last is not None
    assert last.manifest.version == "v2"  # not the later day's
    publish_version(table, "v4")
    last = table.last("v4")
    assert last is not None
    assert last.manifest.version == "v2"
    last = table.last("other")
    assert last is not None
    assert last.manifest.version == "v4"
    assert table_at(tmp_path, "2024-01-05").last("v1") is None


def test_another_dtype_is_refused(tmp_path: Path) -> None:
    publish_version(table_at(tmp_path, "2024-01-07"), "v1")
    with pytest.raises(UserError) as caught:
        publish_version(table_at(tmp_path, dtype="int8"), "v2", dtype="int8")
    assert str(caught.value) == (
        f"item_table.dtype: found int8, version v1 of 2024-01-07 in {tmp_path}/table holds float32; expected one dtype "
        "for all dates of a table: set it back, or name another table and location"
    )
    assert folders(tmp_path / "table") == ["dt=2024-01-07"]


def test_a_damaged_version_is_not_moved_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = table_at(tmp_path)
    made = publish_version(table, "v1")
    publish_version(table, "v2")
    Path(made.files[0]).write_bytes(b"half")
    with pytest.raises(UserError, match=r"--to v1: .*part-00000\.parquet is missing or damaged"):
        roll_back(table, "v1")
    assert seen(table) == "v2"
    publish_version(table, "v1")
    told = " ".join(capsys.readouterr().out.split())
    assert "part-00000.parquet: missing or damaged, of a version that is not current: it is made anew" in told
    assert seen(table) == "v1"
    assert folders(tmp_path / f"table/dt={DATE}") == ["_current", "version=v1", "version=v2"]


@pytest.mark.parametrize("by", ["pointer", "metastore"])
def test_a_damaged_version_that_readers_see_is_not_made_anew(tmp_path: Path, by: str) -> None:
    table = table_at(tmp_path, metastore=FakeMetastore())
    made = publish_version(table, "v1")
    if by == "metastore":  # a publish died between the two moves
        publish_version(table, "v2")
        assert table.metastore is not None
        table.metastore.move(DATE, made.data)
    Path(made.files[0]).write_bytes(b"half")
    with pytest.raises(
        UserError, match=r"part-00000\.parquet: missing or damaged; remove .*version=v1 and run the job"
    ):
        publish_version(table, "v1")
    assert Path(made.files[0]).read_bytes() == b"half"


@pytest.mark.parametrize("fault", ["fewer rows", "none can be read"])
@pytest.mark.parametrize("before", ["v1", None])
def test_rows_that_the_metastore_does_not_give_back(tmp_path: Path, before: str | None, fault: str) -> None:
    def rows(place: str) -> int:
        if "version=v2" in place and fault == "none can be read":
            raise OSError("an executor was lost")
        return 5 if "version=v2" in place else 6

    table = table_at(tmp_path, metastore=FakeMetastore(rows))
    if before is not None:
        publish_version(table, before)
    told = f"tiny_items dt={DATE}: 5 rows read back, 6 written; readers see what they saw before"
    with pytest.raises((RuntimeError, OSError)) as caught:
        publish_version(table, "v2")
    assert str(caught.value) == (told if fault == "fewer rows" else "an executor was lost")
    assert (seen(table), seen_in_hive(table)) == (before, before)


def test_a_refusal_leaves_the_metastore_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metastore = FakeMetastore()
    table = table_at(tmp_path, metastore=metastore)
    with pytest.raises(GateError, match="gate: 6 rows of 5 items"):
        publish_version(table, "v1", distinct=5)
    assert metastore.columns == {}

    def check(columns: dict[str, str], dtype: str) -> None:
        raise UserError(f"another table's; {list(columns)} of {dtype} are not wanted")

    def never(folder: str, last: Published | None) -> PublishedManifest:
        raise AssertionError(folder)

    monkeypatch.setattr(metastore, "check", check)  # what can be refused is before anything is made
    with pytest.raises(UserError, match=r"\['item_id', 'vector', 'model_version'\] of float32 are not wanted"):
        publish(table, "v1", judged(), ["vector"], never)


def test_a_date_before_all_others_has_their_dtype_too(tmp_path: Path) -> None:
    publish_version(table_at(tmp_path), "v1")
    with pytest.raises(UserError, match=f"found int8, version v1 of {DATE} in .* holds float32"):
        publish_version(table_at(tmp_path, "2024-01-05", dtype="int8"), "v2", dtype="int8")


def test_dates_at_once_prepare_the_table_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metastore = FakeMetastore()
    alone: list[bool] = []
    monkeypatch.setattr(metastore, "prepare", lambda columns, dtype: alone.append(_MOVING.locked()))
    publish_version(table_at(tmp_path, metastore=metastore), "v1")
    assert alone == [True]
    assert not _MOVING.locked()


# Gates ------------------------------------------------------------------------------------------------------

TOO_BAD = GateDecision(gate="recall", passed=False, found=0.1, limit=0.2, reason="too bad")


def test_a_gate_on_the_model_refuses_before_anything_is_made(tmp_path: Path) -> None:
    table = table_at(tmp_path)
    publish_version(table, "v1")

    def never(folder: str, last: Published | None) -> PublishedManifest:
        raise AssertionError(folder)

    with pytest.raises(GateError, match="gate: too bad"):
        publish(table, "v2", judged(TOO_BAD), ["vector"], never)
    assert seen(table) == "v1"


def test_a_gate_on_the_rows_keeps_the_old(tmp_path: Path) -> None:
    table = table_at(tmp_path, metastore=FakeMetastore())
    publish_version(table, "v1")
    with pytest.raises(GateError, match="gate: 6 rows of 5 items"):
        publish_version(table, "v2", distinct=5)
    assert (seen(table), seen_in_hive(table)) == ("v1", "v1")
    assert folders(tmp_path / f"table/dt={DATE}") == ["_current", "version=v1"]


def test_rows_put_aside_outlive_a_refusal(tmp_path: Path) -> None:
    table = replace(table_at(tmp_path), runs=str(tmp_path / "runs"))
    rows = pa.table({"item_id": ["i6", None], "reason": ["column 'image' is null", "no id"]})
    aside = {"samples_rows": 8, "quarantined": {"column 'image' is null": 1, "no id": 1}}

    def make(folder: str, last: Published | None) -> PublishedManifest:
        storage.make_folder(f"{folder}/quarantine")
        pq.write_table(rows, f"{folder}/quarantine/part-00000.parquet")
        return maker(VECTORS["v1"], **aside)(folder, last)

    kept = tmp_path / f"runs/{DATE}/quarantine/items"
    for _ in range(2):  # a rerun keeps its own
        with pytest.raises(GateError) as caught:
            publish(table, "v1", judged(), ["vector"], make)
        assert str(caught.value).splitlines() == [
            "gate: 2 of 8 rows can't be read (1 column 'image' is null, 1 no id), item_table.max_quarantine_share is "
            "0.01",
            f"the rows that were put aside lie in {kept}, with their reasons",
            "the table keeps what it had; --force publishes anyway",
        ]
        assert pq.read_table(kept).equals(rows)
    assert folders(tmp_path / f"table/dt={DATE}") == []
    made = publish(by_force(table), "v1", judged(), ["vector"], make)
    assert pq.read_table(f"{made.folder}/quarantine").equals(rows)
    assert not kept.exists()  # they are of no version that was refused
    assert publish(table, "v1", judged(), ["vector"], make) == made
    publish_version(table, "v2")
    with pytest.raises(GateError, match=f"the rows that were put aside lie in {made.folder}/quarantine, with their"):
        publish(table, "v1", judged(), ["vector"], make)


def test_force_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = table_at(tmp_path)
    make = maker(VECTORS["v1"], "v1", broken=2)
    made = publish(by_force(table), "v1", judged(TOO_BAD), ["vector"], make)
    assert seen(table) == "v1"
    kept = published.current(table.location, DATE)
    assert kept == made
    assert made.manifest.forced
    assert made.manifest.overridden == ["too bad", "2 vectors are not 2 finite numbers"]
    assert [gate.gate for gate in made.manifest.gates if not gate.passed] == ["recall", "finite numbers"]
    assert "forced: too bad" in capsys.readouterr().out
    assert publish(table, "v1", judged(), ["vector"], make) == made  # readers have it
    publish_version(table, "v2")
    with pytest.raises(GateError, match="2 vectors are not"):  # the folder is there: that is no reason to let it pass
        publish(table, "v1", judged(), ["vector"], make)


def test_force_on_a_version_that_is_there(tmp_path: Path) -> None:
    table = table_at(tmp_path)
    first = publish_version(table, "v1")
    publish_version(table, "v2")
    with pytest.raises(GateError, match="too bad"):
        publish(table, "v1", judged(TOO_BAD), ["vector"], maker(VECTORS["v1"]))
    again = publish(by_force(table), "v1", judged(TOO_BAD), ["vector"], maker(VECTORS["v1"]))
    assert (first.manifest.forced, again.manifest.forced) == (False, True)
    assert again.manifest.overridden == ["too bad"]
    assert published.current(table.location, DATE) == again
    assert again.manifest.at == first.manifest.at


def test_the_last_version_is_what_the_gates_judge_by(tmp_path: Path) -> None:
    table = table_at(tmp_path)
    asked: list[str | None] = []

    def judge(last: PublishedManifest | None) -> list[GateDecision]:
        asked.append(last and last.version)
        return []

    for version in ("v1", "v2", "v2", "v1"):
        publish(table, version, judge, ["vector"], maker(VECTORS[version], version))
    assert asked == [None, "v1", "v2"]  # the current one has been let through


@pytest.mark.parametrize("force", [False, True])
def test_a_rerun_of_the_current_version_is_not_judged_by_what_came_since(tmp_path: Path, force: bool) -> None:
    """A better version of the day before, which is published later, as a backfill does; and what was forced."""

    def publish_day(date: str, version: str, recall: float, force: bool = False) -> Published:
        found = Measured({"recall@50": recall}, "recall@50")
        make = maker(VECTORS[version], version, date=date, metrics=found.metrics, metric=found.metric)

        def judge(last: PublishedManifest | None) -> list[GateDecision]:
            kept = {"model": found.metrics, "popularity": {"recall@50": 0.5 if force else 0.1}}
            return gates.recall_gates(Gate(metric="recall@50"), "item_table", kept, last, "evaluation.json")

        return publish(by_force(table_at(tmp_path, date), force), version, judge, ["vector"], make, found)

    first = publish_day(DATE, "v1", 0.40, force)
    assert first.manifest.forced == force
    publish_day("2024-01-07", "v2", 0.45)
    assert publish_day(DATE, "v1", 0.40) == first
    assert published.current(str(tmp_path / "table"), DATE) == first


def test_metrics_of_a_later_evaluation_are_kept(tmp_path: Path) -> None:
    """Published, then evaluated, then published again: the next version is held against what was found."""
    table = table_at(tmp_path)
    nothing = GateDecision(gate=gates.LAST, passed=True, reason=f"{NOT_MEASURED}: no evaluation")
    publish(table, "v1", judged(nothing), ["vector"], maker(VECTORS["v1"], "v1"))
    found = GateDecision(gate=gates.LAST, passed=True, found=0.4, reason="nothing was published before")
    again = Measured({"recall@50": 0.4}, "recall@50")
    made = publish(table, "v1", judged(found), ["vector"], maker(VECTORS["v1"]), measured=again)
    assert (made.manifest.metrics, made.manifest.metric) == ({"recall@50": 0.4}, "recall@50")
    assert made.manifest.gates[0] == found
    assert published.current(table.location, DATE) == made
    last = table.last("v2")
    assert last is not None
    assert last.manifest.metrics == {"recall@50": 0.4}
    worse = Measured({"recall@50": 0.1}, "recall@50")
    again = publish(table, "v1", judged(TOO_BAD), ["vector"], maker(VECTORS["v1"]), measured=worse)
    assert (again.manifest.metrics, again.manifest.gates) == ({"recall@50": 0.1}, made.manifest.gates)


@pytest.mark.parametrize("force", [False, True])
def test_a_gate_looks_at_the_current_version_once_it_is_measured(tmp_path: Path, force: bool) -> None:
    table = table_at(tmp_path)
    nothing = GateDecision(gate=TOO_BAD.gate, passed=True, reason=f"{gates.NOT_MEASURED}: no evaluation")
    publish(table, "v1", judged(nothing), ["vector"], maker(VECTORS["v1"], "v1"))
    found = Measured({"recall@50": 0.1}, "recall@50")

    def publish_again(force: bool) -> Published:
        return publish(by_force(table, force), "v1", judged(TOO_BAD), ["vector"], maker(VECTORS["v1"]), measured=found)

    if not force:
        with pytest.raises(GateError, match="too bad"):
            publish_again(force=False)
        kept = published.read_version(table.folder("v1")).manifest
        assert (kept.metrics, kept.gates[0]) == ({"recall@50": 0.1}, nothing)  # what was found stays known
        return
    made = publish_again(force=True)
    assert (made.manifest.forced, made.manifest.overridden) == (True, ["too bad"])
    assert made.manifest.gates[0] == TOO_BAD
    assert publish_again(force=False) == publish_again(force=True) == made


# What can't be read ----------------------------------------------------------------------------------------

OTHER_SCHEMA = '{"schema_version": 99}'


def test_a_damaged_pointer_does_not_keep_a_rollback_or_a_publish_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = table_at(tmp_path, metastore=FakeMetastore())
    for version in ("v1", "v2", "v3"):
        publish_version(table, version)
    pointer = Path(table.location) / f"dt={DATE}/_current"
    pointer.write_text("{")
    roll_back(table, "v1")
    assert (seen(table), seen_in_hive(table)) == ("v1", "v1")
    with pytest.raises(GateError, match="version v3 was rolled back"):
        publish_version(table, "v3")
    pointer.write_text("{")
    made = publish_version(table, "v4")
    assert made.manifest.previous is None
    assert "_current: damaged" in capsys.readouterr().out
    assert (seen(table), seen_in_hive(table)) == ("v4", "v4")


@pytest.mark.parametrize("fault", ["removed", "of another schema"])
def test_a_version_that_can_not_be_read_is_passed_over(tmp_path: Path, fault: str) -> None:
    for date, version in (("2024-01-05", "v1"), ("2024-01-06", "v2"), ("2024-01-07", "v3")):
        publish_version(table_at(tmp_path, date), version)
    for date, version in (("2024-01-06", "v2"), ("2024-01-07", "v3")):
        folder = published.version_folder(str(tmp_path / "table"), date, version)
        storage.remove(folder)
        if fault == "of another schema":
            storage.write_text(f"{folder}/manifest.json", OTHER_SCHEMA)
    made = publish_version(table_at(tmp_path), "v4")
    assert made.manifest.previous == "dt=2024-01-05/version=v1"
    again = publish_version(table_at(tmp_path, "2024-01-07"), "v3")  # made anew
    assert seen(table_at(tmp_path, "2024-01-07")) == "v3"
    assert published.current(str(tmp_path / "table"), "2024-01-07") == again
