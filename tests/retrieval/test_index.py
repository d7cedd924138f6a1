"""index_items from the published table to the switch, in real engines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from dssm import locks, published
from dssm.config import Settings
from dssm.errors import GateError, UserError
from dssm.paths import RunPaths
from dssm.retrieval.index import _cutoffs, _place, index_items, read_report
from dssm.retrieval.sinks import Opened, Place, Sink, Vectors
from dssm.retrieval.sinks.faiss import FaissSink
from dssm.retrieval.sinks.redis import RedisSink
from dssm.sections.indexing import Faiss, FaissFlat, SinkKind
from tests.datasets import make_settings
from tests.serving.engines import redis_server
from tests.serving.tables import unit_rows, write_model_manifest, write_published

ITEMS, USERS, DIM = 300, 40, 8
IDS = [f"item{place}" for place in range(ITEMS)]
DATE = "2024-01-08"


class EngineError(Exception):
    """Of the engine below."""


class FailingSink(FaissSink):
    """faiss, but for what the test breaks: a sink of a module of one's own."""

    errors = (EngineError,)

    def __init__(self, settings: Failing, place: Place) -> None:
        super().__init__(Faiss(index=FaissFlat()), place)
        self.fails, self.loads = settings.fails, 0

    def build(self, version: str, vectors: Vectors) -> None:
        if self.fails == "build":
            raise EngineError("no space\nis left")
        if self.fails == "count":
            ids, matrix = next(vectors.batches())
            vectors = Vectors(ITEMS, DIM, lambda: iter([(ids, matrix)]), vectors.sample)
        super().build(version, vectors)

    def switch(self, version: str) -> None:
        if self.fails == "switch":
            raise EngineError("away")
        super().switch(version)

    def load(self, version: str) -> Opened:
        opened = super().load(version)
        self.loads += 1
        if self.fails == "recount" and self.loads > 1:  # as where another dropped some since
            opened.ids = opened.ids[:-1]  # type: ignore[attr-defined]
        return opened


class Failing(SinkKind):
    kind: Literal["failing"] = "failing"
    fails: Literal["no", "build", "count", "recount", "switch"] = "no"

    def build(self, *args: Any, **_: Any) -> FailingSink:
        return FailingSink(self, *args)


class Sampling(Failing):
    """A kind whose builds need some of the vectors first."""

    kind: Literal["sampling"] = "sampling"  # type: ignore[assignment]

    @property
    def sample_size(self) -> int:
        return 37


def settings_of(root: Path, sinks: dict[str, Any], **index: Any) -> Settings:
    settings = make_settings(root)
    section = settings.index.model_validate({"sinks": sinks, "queries": 30, **index})
    return settings.model_copy(update={"index": section})


def publish(settings: Settings, version: str, seed: int = 0, date: str = DATE, users: int = USERS) -> np.ndarray:
    """Publishes items and users of the run's model. Returns: the items' vectors."""
    paths, matrix = RunPaths(settings.run_folder), unit_rows(ITEMS, DIM, seed)
    write_model_manifest(paths, date, DIM)
    write_published(settings.table_location, date, version, "item", IDS, matrix)
    if published.current(f"{settings.root}/users", date) is None:
        ids = [f"u{place}" for place in range(users)]
        write_published(f"{settings.root}/users", date, "u", "user", ids, unit_rows(users, DIM, 7))
        published.write_run_tables(paths.folder, {"users": f"{settings.root}/users"})
    return matrix


def sink_of(settings: Settings, name: str) -> Sink:
    sink: Sink = settings.index.sinks[name].build(_place(settings, name))
    return sink


def current(settings: Settings) -> dict[str, str | None]:
    return {name: sink_of(settings, name).current() for name in settings.index.sinks}


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


def test_every_engine_is_filled_measured_and_switched(
    tmp_path: Path, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sinks = {
        "flat": {"kind": "faiss", "index": "flat"}, "graph": "faiss",
        "lists": {"index": {"kind": "ivf", "lists": 6, "probes": 6}},
        "codes": {"index": {"kind": "pq", "bits": 5}, "min_recall": {10: 0.3}},
        "trees": {"kind": "annoy", "search_k": 5000}, "server": "milvus",
        "cache": {"kind": "redis", "url": redis_url, "prefix": tmp_path.name},
    }  # fmt: skip
    settings = settings_of(tmp_path, sinks)
    publish(settings, "v1")
    report = index_items(settings)
    assert report is not None
    assert (report.rows, report.queries, report.queries_of) == (ITEMS, 30, "user vectors published")
    found = {one.sink: one for one in report.sinks}
    assert list(found) == list(sinks)
    for name, one in found.items():
        assert one.switched
        assert (one.count, one.failures, set(one.recall)) == (ITEMS, [], {10, 100})
        assert one.build_seconds is not None
        assert one.build_seconds > 0
        assert min(one.queries_per_s.values()) > 0
        assert one.recall[100] > (0.5 if name == "codes" else 0.97)
        assert one.how == ("fetch" if name == "cache" else "index")
    assert found["flat"].recall == found["lists"].recall == found["cache"].recall == {10: 1, 100: 1}
    assert found["codes"].min_recall == {10: 0.3}
    assert current(settings) == {one.sink: one.version for one in report.sinks}
    assert read_report(settings.run_folder) == report
    shown = capsys.readouterr().out
    assert "recall@100" in shown
    assert "cache (redis, by fetch)" in shown


def test_a_store_without_a_search_is_fetched_once_for_all_queries(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """150 queries, in calls of 100, at three K: what one call for the most finds is the best of each."""
    cache = {"kind": "redis", "url": redis_url, "prefix": tmp_path.name}
    settings = settings_of(tmp_path, {"cache": cache}, queries=150, min_recall={5: 1.0})
    publish(settings, "v1", users=200)
    fetched, fetch = [], RedisSink.fetched

    def noted(sink: RedisSink, version: str) -> Any:
        fetched.append(version)
        return fetch(sink, version)

    monkeypatch.setattr(RedisSink, "fetched", noted)
    report = index_items(settings)
    assert report is not None
    (one,) = report.sinks
    assert fetched == [one.version]
    assert one.recall == {5: 1, 10: 1, 100: 1}
    assert report.queries == 150
    assert len({*one.queries_per_s.values()}) == 1
    assert list(one.queries_per_s) == [5, 10, 100]


def test_a_rerun_builds_nothing_and_a_new_version_replaces_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(tmp_path, {"mine": {"kind": "faiss", "index": "flat"}})
    versions = []
    for number in range(3):
        matrix = publish(settings, f"v{number}", seed=number)
        report = index_items(settings)
        assert report is not None
        versions.append(report.sinks[0].version)
        with monkeypatch.context() as patched:
            patched.setattr(FaissSink, "write", None)  # to build would fail
            again = index_items(settings)
        assert again is not None
        assert again.sinks[0].build_seconds == report.sinks[0].build_seconds
        sink = sink_of(settings, "mine")
        assert sink.current() == versions[-1]
        with sink.opened(versions[-1]) as opened:
            assert opened.search(matrix[[5]], 1).ids.tolist() == [["item5"]]
    assert sink.versions() == sorted(versions[1:])
    assert report.sinks[0].dropped == versions[:1]
    assert len({*versions}) == 3
    assert all(version.startswith("20240108_") for version in versions)


@pytest.mark.parametrize(
    ("sink", "drawn"),
    [("failing", 0), ("sampling", 37), ({"kind": "faiss", "index": "flat", "training_vectors": 20}, 20)],
)
def test_a_build_is_given_as_many_vectors_as_its_kind_asks_for(
    sink: Any, drawn: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, samples = settings_of(tmp_path, {"mine": sink}), []
    matrix, build = publish(settings, "v0"), FaissSink.build

    def noted(sink: FaissSink, version: str, vectors: Vectors) -> None:
        samples.append(vectors.sample)
        build(sink, version, vectors)

    monkeypatch.setattr(FaissSink, "build", noted)
    index_items(settings)
    [sample] = samples
    assert sample.shape == (drawn, DIM)
    assert {row.tobytes() for row in sample} <= {row.tobytes() for row in matrix}


def test_below_the_gate_no_sink_is_switched(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, {"good": {"index": "flat"}, "poor": {"index": "flat"}})
    publish(settings, "v0")
    index_items(settings)
    before = current(settings)
    sinks = {"good": {"index": "flat"}, "poor": {"index": {"kind": "ivf", "lists": 30, "probes": 1}}}
    worse = settings_of(tmp_path, sinks)
    publish(settings, "v1", seed=1)
    with pytest.raises(
        GateError, match=r"^index\.sinks\.poor: recall@10 is 0\.\d+, less than 0\.9 \(index\.min_recall"
    ) as raised:
        index_items(worse)
    assert raised.value.exit_code == 3
    assert "no sink was switched" in str(raised.value)
    assert current(settings) == before
    report = read_report(settings.run_folder)
    assert report is not None
    assert [(one.sink, one.switched, bool(one.failures)) for one in report.sinks] == [
        ("good", False, False), ("poor", False, True),
    ]  # fmt: skip
    assert [(one.sink, one.version) for one in report.answering] == list(before.items())
    with pytest.raises(GateError):  # once more: what answered before the first refusal still does
        index_items(worse)
    again = read_report(settings.run_folder)
    assert again is not None
    assert again.answering == report.answering
    sinks["poor"]["min_recall"] = {10: 0.05}  # type: ignore[index]
    lower = index_items(settings_of(tmp_path, sinks))
    assert lower is not None
    assert current(settings) == {one.sink: one.version for one in lower.sinks} != before
    assert (lower.answering, lower.held) == (lower.sinks, [])


def test_what_nothing_is_asked_of_is_measured_all_the_same(tmp_path: Path) -> None:
    few_lists = {"index": {"kind": "ivf", "lists": 30, "probes": 2}, "min_recall": {5: 0.1}}
    settings = settings_of(tmp_path, {"mine": few_lists}, min_recall={20: 0.1})
    publish(settings, "v0")
    report = index_items(settings)
    assert report is not None
    (one,) = report.sinks
    assert list(one.recall) == list(one.queries_per_s) == [5, 10, 20, 100]
    assert 0.1 < one.recall[100] < 0.9  # which index.min_recall would refuse, were nothing set
    assert (one.min_recall, one.switched) == ({5: 0.1}, True)
    assert [_cutoffs(settings, rows) for rows in (100, 99, 9)] == [[5, 10, 20, 100], [5, 10, 20], [5, 20]]


def test_a_count_that_is_off_is_refused(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, {"mine": {"kind": "failing", "fails": "count"}}, min_recall={10: 0})
    publish(settings, "v0")
    with pytest.raises(GateError, match=r"index\.sinks\.mine: 150 vectors, expected 300"):
        index_items(settings)
    assert current(settings) == {"mine": None}


def test_what_another_took_since_the_measuring_is_noticed(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, {"good": {"index": "flat"}, "mine": {"kind": "failing", "fails": "recount"}})
    publish(settings, "v0")
    message = r"index\.sinks\.mine: 299 vectors just before the switch, 300 before; no sink was switched"
    with pytest.raises(GateError, match=message):
        index_items(settings)
    assert current(settings) == {"good": None, "mine": None}


def test_one_run_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(tmp_path, {"mine": {"kind": "failing"}})
    publish(settings, "v0")
    location = f"{settings.root}/{settings.name}/index"
    with monkeypatch.context() as patched:
        patched.setattr(locks, "WAIT_S", 0.0)
        with locks.locked(location), pytest.raises(UserError, match=r"index: .*, process \d+ has been changing it for"):
            index_items(settings)
    assert current(settings) == {"mine": None}
    held = {}

    def dropped(sink: Sink) -> list[str]:
        held["while it drops"] = list(Path(location).glob(f"{locks.PREFIX}*"))
        return []

    monkeypatch.setattr(FailingSink, "drop_old", dropped)
    index_items(settings)
    assert held["while it drops"]
    assert list(Path(location).glob(f"{locks.PREFIX}*")) == []


def test_an_engine_that_fails_is_named_and_a_rerun_goes_on(tmp_path: Path) -> None:
    def sinks(fails: str) -> dict[str, Any]:
        return {"good": {"index": "flat"}, "mine": {"kind": "failing", "fails": fails}}

    publish(settings_of(tmp_path, sinks("no")), "v0")
    for fails, reason, good in (("build", "no space is left", False), ("switch", "away", True)):
        settings = settings_of(tmp_path, sinks(fails))
        with pytest.raises(UserError, match=rf"index\.sinks\.mine: {reason}; when that is mended, run index_items"):
            index_items(settings)
        now = current(settings)
        assert ((now["good"] is not None), now["mine"]) == (good, None)
    told = read_report(RunPaths(settings.run_folder).folder)
    assert told is not None
    assert {one.sink: one.switched for one in told.sinks} == {"good": True, "mine": False}
    assert [one.sink for one in told.answering] == ["good"]
    report = index_items(settings_of(tmp_path, sinks("no")))
    assert report is not None
    assert all(one.switched for one in report.sinks)


def test_a_date_before_the_one_that_is_held_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_of(tmp_path, {"mine": {"index": "flat"}})
    publish(settings, "v0")
    index_items(settings)
    held = current(settings)
    earlier = settings.for_date(settings.date.replace(day=7))
    publish(earlier, "v0", date="2024-01-07")
    assert index_items(earlier) is None
    assert current(settings) == held
    assert "index.sinks.mine holds 2024-01-08, a newer date" in " ".join(capsys.readouterr().out.split())
    allowed = earlier.model_copy(update={"index": earlier.index.model_copy(update={"allow_older": True})})
    assert index_items(allowed) is not None
    assert (current(settings)["mine"] or "").startswith("20240107_")


def test_one_objectives_own_vectors(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, {"all": {"index": "flat"}, "likes": {"index": "flat", "objective": "like"}})
    paths, both = RunPaths(settings.run_folder), {"like": unit_rows(ITEMS, 3, 4)}
    write_model_manifest(paths, DATE, DIM)
    write_published(settings.table_location, DATE, "v1", "item", IDS, unit_rows(ITEMS, DIM), objectives=both)
    users = [f"u{place}" for place in range(USERS)]
    own = {"like": unit_rows(USERS, 3, 5)}
    write_published(f"{tmp_path}/users", DATE, "u", "user", users, unit_rows(USERS, DIM, 7), objectives=own)
    published.write_run_tables(paths.folder, {"users": f"{tmp_path}/users"})
    report = index_items(settings)
    assert report is not None
    assert [(one.objective, one.recall[10]) for one in report.sinks] == [(None, 1), ("like", 1)]
    with sink_of(settings, "likes").opened(report.sinks[1].version) as opened:
        assert opened.search(both["like"][[9]], 1).ids.tolist() == [["item9"]]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, {"mine": {"index": "flat"}})
    with pytest.raises(UserError, match="nothing is published for 2024-01-08; run score_items for it first"):
        index_items(settings)
    publish(settings, "v0")
    write_model_manifest(RunPaths(settings.run_folder), DATE, DIM, version="m2")
    with pytest.raises(
        UserError, match=r"model m2, but the vectors published for .* are of m1, and .*models/m1 is not"
    ):
        index_items(settings)


@pytest.mark.parametrize(
    ("text", "reason"),
    [(json.dumps({"date": DATE, "more": 1}), "Extra inputs are not permitted"), ('{"date": "20', "Invalid JSON")],
)
def test_a_report_that_cant_be_read_counts_as_none_which_is_said_once(
    text: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read_report(str(tmp_path)) is None
    assert capsys.readouterr().out == ""
    (tmp_path / "index.json").write_text(text)
    assert read_report(str(tmp_path)) is None
    told = capsys.readouterr().out
    assert "/index.json: can't be read (" in told.replace("\n", "")
    assert reason in " ".join(told.split())
    assert read_report(str(tmp_path)) is None
    assert capsys.readouterr().out == ""
