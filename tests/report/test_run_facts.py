from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from dssm import published, storage
from dssm.errors import UserError
from dssm.manifest import MANIFEST
from dssm.paths import RunPaths
from dssm.report.pipeline_picture import Box, boxes, picture
from dssm.report.run_facts import note_refusal, read_facts, read_refusals
from tests.at_once import meanwhile
from tests.report.full_run import (
    BEGAN,
    VERSION,
    clustered_vectors,
    full_run,
    samples_run,
    settings_of,
    write,
    write_evaluation,
    write_examples,
    write_index,
    write_jobs,
    write_model,
    write_table,
)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    return full_run(tmp_path_factory.mktemp("runs"))


def test_all_parts_of_a_finished_run(full: RunPaths) -> None:
    facts = read_facts(full)
    assert facts.missing == []
    assert facts.warnings == []
    assert facts.rows == {"train": 40, "test": 8, "items": 60, "users": 1, "interactions": 0}
    assert facts.model is not None
    assert facts.model.loss == [3.0, 2.5, 2.25]
    assert facts.card is not None
    assert facts.card.parts["train"].digest == "0123train"
    assert facts.evaluation is not None
    assert facts.evaluation["users"] == 1234
    assert facts.items is not None
    assert facts.items.manifest.version == VERSION
    assert facts.index is not None
    assert [sink.sink for sink in facts.index.sinks] == ["near", "far"]
    assert facts.examples is not None
    assert [user.user for user in facts.examples.users] == ["<u1>", "u2"]
    assert list(facts.used) == ["build_samples", "train", "evaluate", "score_items", "index_items"]
    assert facts.settings == settings_of(Path(full.folder).parents[1])


def test_samples_alone_say_which_jobs_make_the_rest(tmp_path: Path) -> None:
    facts = read_facts(samples_run(tmp_path))
    assert [(one.job, one.why) for one in facts.missing] == [
        ("train", "it has not run"),
        ("evaluate", "it has not run"),
        ("evaluate", "it has not run"),
        ("score_items", "nothing is published from this run"),
        ("index_items", "it has not run"),
    ]
    write(facts.paths.tables, {"items": f"{tmp_path}/items", "users": f"{tmp_path}/users"})  # of other dates, so far
    told = [one.why for one in read_facts(facts.paths).missing if one.job.startswith("score")]
    assert told == ["nothing is published for 2024-01-08"]
    assert facts.model is facts.evaluation is facts.items is facts.index is facts.examples is None


def test_a_folder_without_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run build_samples for this date first"):
        read_facts(RunPaths(f"{tmp_path}/tiny/2024-01-08"))


def test_an_evaluation_of_another_model_is_not_shown(tmp_path: Path) -> None:
    paths = full_run(tmp_path)
    write_model(paths, model_version="m2", samples_build="b2")
    facts = read_facts(paths)
    assert facts.evaluation is facts.examples is None
    assert {one.why for one in facts.missing} == {"it is of model m1, the run's is m2"}
    assert {one.job for one in facts.missing} == {"evaluate"}
    assert facts.warnings == [
        "The model was trained on other samples than now lie here: run train again.",
        "The evaluation is of model m1, the model is now m2: run evaluate again.",
        "The items published are of model m1, not of the run's m2: run score_items again.",
    ]


def test_a_rollback_is_told_as_one(tmp_path: Path) -> None:
    paths = full_run(tmp_path)
    write_model(paths, model_version="m2")
    location, date = published.run_table(paths.folder, "items"), "2024-01-08"
    before = published.current(location, date)
    assert before is not None
    newer = before.manifest.model_copy(update={"version": "v2", "model_version": "m2"})
    folder = published.version_folder(location, date, "v2")
    storage.make_folder(folder)
    write(f"{folder}/{MANIFEST}", newer.model_dump(mode="json"))
    published.write_pointer(location, date, "v2", BEGAN)
    published.write_pointer(location, date, "v1", BEGAN, back=True)
    assert read_facts(paths).warnings == [
        "The evaluation is of model m1, the model is now m2: run evaluate again.",
        "The items published are of model m1, not of the run's m2: version v2 was rolled back.",
    ]


def test_indexes_of_another_version_are_told(tmp_path: Path) -> None:
    paths = full_run(tmp_path)
    write_index(paths, version="v0")
    assert read_facts(paths).warnings == ["The indexes hold version v0, but v1 is published: run index_items again."]


@pytest.mark.parametrize("damage", ["", "no JSON", "[1]", '{"model_version": 3}'])
@pytest.mark.parametrize("name", ["index.json", "examples.json", "evaluation.json", f"model/{MANIFEST}"])
def test_a_damaged_part_is_missing_and_the_rest_is_there(tmp_path: Path, name: str, damage: str) -> None:
    paths = full_run(tmp_path)
    Path(paths.folder, name).write_text(damage)
    facts = read_facts(paths)
    assert facts.missing
    assert facts.items is not None
    if damage != '{"model_version": 3}' or name != "evaluation.json":
        assert any(f"{name} can't be read" in one.why for one in facts.missing)


def test_what_is_published_for_another_date_is_not_shown(tmp_path: Path) -> None:
    paths = samples_run(tmp_path)
    write(paths.tables, {"items": f"{tmp_path}/nothing"})
    assert [one.why for one in read_facts(paths).missing if one.job == "score_items"] == [
        "nothing is published for 2024-01-08"
    ]


def test_times_of_another_version_are_left_out(tmp_path: Path) -> None:
    paths = samples_run(tmp_path)
    write(f"{paths.folder}/jobs/train.json", {"job": "train"})
    assert read_facts(paths).used == {}


# Refusals -------------------------------------------------------------------------------------------------


def test_a_refusal_stays_until_the_job_is_let_through(tmp_path: Path) -> None:
    paths = samples_run(tmp_path)
    note_refusal(paths, "score_items", None)
    assert not storage.exists(f"{paths.folder}/refusals.json")
    note_refusal(paths, "score_items", "too bad")
    note_refusal(paths, "index_items", "too few")
    assert {job: one.reason for job, one in read_facts(paths).refusals.items()} == {
        "score_items": "too bad", "index_items": "too few",
    }  # fmt: skip
    note_refusal(paths, "score_items", None)
    assert list(read_refusals(paths)) == ["index_items"]


def test_refusals_at_the_same_moment_are_all_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = samples_run(tmp_path)
    with meanwhile(monkeypatch, note_refusal, paths, "score_users", "too few"):
        note_refusal(paths, "score_items", "too bad")
    assert {job: one.reason for job, one in read_refusals(paths).items()} == {
        "score_items": "too bad", "score_users": "too few",
    }  # fmt: skip


def test_a_refusal_is_past_when_an_earlier_job_has_begun_again(tmp_path: Path) -> None:
    paths = samples_run(tmp_path)
    write_jobs(paths)  # score_items began three hours after BEGAN, evaluate two
    for hours, refused in ((1.5, {}), (2.5, {"score_items"})):
        at = BEGAN + dt.timedelta(hours=hours)
        write(f"{paths.folder}/refusals.json", {"score_items": {"at": at.isoformat(), "reason": "no"}})
        assert set(read_facts(paths).refusals) == set(refused)


# The picture ----------------------------------------------------------------------------------------------


def test_boxes_hold_what_each_job_left(full: RunPaths) -> None:
    assert boxes(read_facts(full)) == [
        Box("sources", "Sources", None, ("4,321 events",)),
        Box("samples", "Samples", "build_samples", ("40 train rows", "8 test rows", "60 items", "1 users")),
        Box(
            "towers", "Towers", "train",
            ("3 epochs, 30 steps", "2 ranks, 12,346 rows/s", "loss 2.25", "8 numbers a vector"),
        ),
        Box("evaluation", "Evaluation", "evaluate", ("1,234 users", "recall@50 0.400", "popularity 0.100")),
        Box("items", "Item table", "score_items", ("60 vectors", "8 × float32", "version v1", "gates overruled")),
        Box("indexes", "Indexes", "index_items", ("near 0.9800", "far 0.5000, refused")),
    ]  # fmt: skip


def test_many_indexes_do_not_overflow_their_box(tmp_path: Path) -> None:
    paths = samples_run(tmp_path)
    sink = {"sink": "x", "kind": "faiss", "count": 1, "queries_per_s": {}, "recall": {}, "switched": True}
    write_index(paths, sinks=[sink] * 6)
    assert boxes(read_facts(paths))[5].lines == ("x", "x", "x", "and 3 more")


def test_the_picture_says_counts_and_times_at_each_arrow(full: RunPaths) -> None:
    drawn = picture(read_facts(full))
    assert drawn.count("<svg") == 2  # for a wide screen, and for a phone
    for text in ("build_samples", "1 min 40 s", "train", "3 min 20 s", "index_items", "8 min 20 s", "40 train rows"):
        assert drawn.count(f">{text}</text>") == 2
    assert drawn.count("<polygon") == 10
    assert "train: 3 epochs, 30 steps, 2 ranks, 12,346 rows/s, loss 2.25, 8 numbers a vector in 3 min 20 s" in drawn
    assert "missing" not in drawn


def test_the_picture_of_samples_alone_has_empty_boxes(tmp_path: Path) -> None:
    drawn = picture(read_facts(samples_run(tmp_path)))
    assert drawn.count("box missing") == 8
    assert drawn.count("not there yet") == 8
    assert "score_items: has not run" in drawn


def test_published_users_have_a_box(tmp_path: Path) -> None:
    paths = samples_run(tmp_path)
    write_table(paths, f"{tmp_path}/users", clustered_vectors()[:3], ["u1", "u2", "u3"], table="users", gates=[])
    last = boxes(read_facts(paths))[-1]
    assert last == Box("users", "User table", "score_users", ("3 vectors", "8 × float32", "version v1"))
    assert picture(read_facts(paths)).count(">score_users</text>") == 2


def test_parts_may_lack_what_older_jobs_did_not_write(tmp_path: Path) -> None:
    paths = samples_run(tmp_path)
    write_model(paths)
    write_evaluation(paths)
    write_examples(paths)
    assert {one.job for one in read_facts(paths).missing} == {"score_items", "index_items"}
