"""index_items: the published item vectors in the engines of the settings, each measured before any is switched."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from dssm import locks, published, storage
from dssm.config import Settings
from dssm.console import out, step, table, warn, warn_once
from dssm.errors import GateError, UserError
from dssm.model.kept import model_of
from dssm.model.manifest import read_model_manifest
from dssm.paths import RunPaths
from dssm.published import Published
from dssm.retrieval.queries import Users
from dssm.retrieval.recall import Exact, below, exact_search, recall_at, true_scores
from dssm.retrieval.sinks import Opened, Place, Sink, Vectors, version_name
from dssm.sections.indexing import SinkKind

QUERIES_PER_CALL = 100
ALWAYS_AT = 10, 100  # whatever is asked of a sink, its recall is told there
REPORT = "index.json"


class SinkReport(BaseModel):
    """What one sink holds now, and how good it is."""

    model_config = ConfigDict(extra="forbid")

    sink: str
    kind: str
    objective: str | None
    version: str
    place: str = Field(description="Of the version: a folder, a collection or a prefix.")
    count: int = Field(description="Of vectors, as the engine counts them.")
    how: str = Field(description="index: the engine searches; fetch: all vectors were fetched and compared here.")
    build_seconds: float | None = Field(description="Reading included; None: it was there, and its time is not known.")
    queries_per_s: dict[int, float] = Field(
        description=f"K → asked for K items, in calls of {QUERIES_PER_CALL}; by fetch, of all in one call for the most."
    )
    recall: dict[int, float] = Field(description="K → share of the exact K best items among the K that were found.")
    min_recall: dict[int, float]
    failures: list[str] = Field(description="Why the gate refused it.")
    switched: bool = False
    dropped: list[str] = Field(default_factory=list, description="Versions removed after the switch.")


class IndexReport(BaseModel):
    """What index_items did: RUN/index.json."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    date: str
    table: str = Field(description="Folder of the published version.")
    version: str
    model_version: str
    rows: int
    queries: int
    queries_of: str
    exact_queries_per_s: float = Field(description="Of the exact search that recall is measured against.")
    sinks: list[SinkReport]
    held: list[SinkReport] = Field(
        default_factory=list,
        description="After a refusal or a failed switch: the sinks as they were switched last, which still answer.",
    )

    @property
    def answering(self) -> list[SinkReport]:
        """The sinks as readers have them now."""
        switched = {sink.sink: sink for sink in self.sinks if sink.switched}
        return [*switched.values(), *(sink for sink in self.held if sink.sink not in switched)]


@dataclass
class _Filled:
    """A sink whose version is there, with what the searches for K items found: K → (queries, K) ids."""

    name: str
    settings: SinkKind
    report: SinkReport
    ids: dict[int, np.ndarray]


def index_items(settings: Settings) -> IndexReport | None:
    """Loads the date's published item vectors into every sink, measures them, and switches all if no gate refuses one.

    An engine that fails at the switch leaves those before it switched, as RUN/index.json says, and a rerun goes on.
    A version that is there already is not built again. A sink that holds a newer date is left alone. One run at a time
    fills, switches and drops, by the lock of the index's folder: another's drop must not take what this one measured.

    Returns: what RUN/index.json holds; None where every sink was left alone.
    Raises: UserError where nothing is published, or an engine fails; GateError where a sink's recall or count is not
      as the settings ask: every alias stays where it was.
    """
    paths, date = RunPaths(settings.run_folder), settings.date.isoformat()
    with (
        locks.locked(_location(settings)) as lock,
        contextlib.ExitStack() as closing,
    ):
        items = published.current(settings.table_location, date)
        if items is None:
            raise UserError(f"{settings.table_location}: nothing is published for {date}; run score_items for it first")
        sinks = {}
        for name, kind in settings.index.sinks.items():
            sink: Sink = kind.build(_place(settings, name))
            closing.callback(sink.close)
            with _explained(name, sink):
                if not _is_newer(sink, name, settings):
                    sinks[name] = sink
        if not sinks:
            return None
        before = read_report(paths.folder)
        report = _filled_and_measured(settings, paths, items, sinks, before)
        _recount(sinks, report)
        _show(report)
        failures = [failure for sink in report.sinks for failure in sink.failures]
        report.held = before.answering if before is not None else []
        path = f"{paths.folder}/{REPORT}"
        try:
            if not failures:
                _switch(sinks, report, lock)
                report.held = []
        except UserError:  # of an engine; where the lock was lost, the report is another's
            storage.write_text(path, report.model_dump_json(indent=1) + "\n")
            raise
        storage.write_text(path, report.model_dump_json(indent=1) + "\n")
        if failures:
            raise GateError(f"{'; '.join(failures)}; no sink was switched, all answer as before ({path})")
        out.print(f"  {path}")
    return report


def read_report(run_folder: str) -> IndexReport | None:
    """Returns what index_items last did for a run; None where it did not run.

    One that can't be read counts as none, which is said: it is damaged, or of another version of this project.
    """
    path = f"{run_folder}/{REPORT}"
    if not storage.exists(path):
        return None
    try:
        return IndexReport.model_validate_json(storage.read_bytes(path))
    except ValueError as error:
        reason = " ".join(str(error).split())
        warn_once(f"  {path}: can't be read ({reason}) and counts as none; run index_items again")
        return None


def _location(settings: Settings) -> str:
    return storage.absolute(settings.in_root(settings.index.location))


def _place(settings: Settings, name: str) -> Place:
    return Place(name, settings.name, f"{_location(settings)}/{name}")


def _is_newer(sink: Sink, name: str, settings: Settings) -> bool:
    """Whether the sink is to be left alone, which is said."""
    now, day = sink.current(), f"{settings.date:%Y%m%d}"
    if settings.index.allow_older or now is None or now[: len(day)] <= day:
        return False
    warn(
        f"  index.sinks.{name} holds {now[:4]}-{now[4:6]}-{now[6:8]}, a newer date, and is left alone; "
        "index.allow_older: true takes it back"
    )
    return True


def version_of(items: Published, kind: SinkKind) -> str:
    """Returns the name of an index of some vectors: another one with other vectors or other settings of the build."""
    return version_name(items.manifest.date, items.manifest.date, items.manifest.version, kind.made_of)


# Filling and measuring -----------------------------------------------------------------------------------


def _filled_and_measured(
    settings: Settings, paths: RunPaths, items: Published, sinks: dict[str, Sink], before: IndexReport | None
) -> IndexReport:
    paths = model_of(paths, items.manifest)
    model = read_model_manifest(paths.model)
    known = [*before.held, *before.sinks] if before is not None else []
    times = {sink.version: sink.build_seconds for sink in known}
    reports: dict[str, SinkReport] = {}
    rates, source, asked = [], "", 0
    kinds = settings.index.sinks
    for objective in dict.fromkeys(kinds[name].objective for name in sinks):
        with step("exact search") as remarks:
            users = Users(paths, model, objective)
            queries = users.drawn(settings.index.queries, settings.seed)
            if not len(queries):
                raise UserError(f"{paths.part('users')}: no users, so recall can't be measured")
            exact = _exact(settings, items, objective, queries)
            source, asked = users.source, len(queries)
            rates.append(asked / exact.seconds)
            remarks.append(f"{asked:,} {source}")
        of = {name: sink for name, sink in sinks.items() if kinds[name].objective == objective}
        filled = [_fill(settings, name, sink, items, exact, queries, times) for name, sink in of.items()]
        found = [ids for one in filled for ids in one.ids.values()]
        scores = iter(true_scores(published.batches(items, objective), queries, found))
        for one in filled:
            one.report.recall = {k: recall_at(exact.scores, next(scores), k) for k in one.ids}
            _judge(settings, one, items.manifest.rows)
            reports[one.name] = one.report
    return IndexReport(
        date=items.manifest.date, table=items.folder, version=items.manifest.version,
        model_version=model.model_version, rows=items.manifest.rows, queries=asked, queries_of=source,
        exact_queries_per_s=float(np.mean(rates)), sinks=[reports[name] for name in sinks],
    )  # fmt: skip


def _cutoffs(settings: Settings, rows: int) -> list[int]:
    """Returns the K that recall is measured at: where something is asked of it, and always where there are K items."""
    sinks = settings.index.sinks.values()
    asked = {*settings.index.min_recall, *(k for sink in sinks for k in sink.min_recall or ())}
    return sorted(asked.union(k for k in ALWAYS_AT if k <= rows))


def _exact(settings: Settings, items: Published, objective: str | None, queries: np.ndarray) -> Exact:
    asked = [kind.sample_size for kind in settings.index.sinks.values()]
    rows = items.manifest.rows
    most = _cutoffs(settings, rows)[-1]
    return exact_search(published.batches(items, objective), rows, queries, most, max(asked), settings.seed)


def _fill(
    settings: Settings, name: str, sink: Sink, items: Published, exact: Exact, queries: np.ndarray,
    times: dict[str, float | None],
) -> _Filled:  # fmt: skip
    """Builds a sink's version where it is not there, counts it and searches in it."""
    kind, manifest = settings.index.sinks[name], items.manifest
    version = version_of(items, kind)
    facts = {
        "model_version": manifest.model_version,
        "date": manifest.date,
        "table_version": manifest.version,
        "objective": kind.objective or "",
    }
    vectors = Vectors(
        manifest.rows,
        queries.shape[1],
        lambda: published.batches(items, kind.objective),
        exact.sample,
        exact.norm,
        facts,
    )
    with step(f"index.sinks.{name} ({kind.kind})") as remarks, _explained(name, sink):
        if sink.is_whole(version, manifest.rows):
            seconds = times.get(version)
            remarks.append(f"version {version} is there already")
        else:
            began = time.perf_counter()
            sink.build(version, vectors)
            seconds = time.perf_counter() - began
        with sink.opened(version) as opened:
            count = opened.count
            searched = _searched(opened, sink.how, queries, _cutoffs(settings, manifest.rows))
        remarks.append(f"{count:,} vectors")
    report = SinkReport(
        sink=name, kind=kind.kind, objective=kind.objective, version=version, place=sink.place(version), count=count,
        how=sink.how, build_seconds=seconds, queries_per_s={k: rate for k, (_, rate) in searched.items()}, recall={},
        min_recall={}, failures=[],
    )  # fmt: skip
    return _Filled(name, kind, report, {k: ids for k, (ids, _) in searched.items()})


def _searched(
    opened: Opened, how: str, queries: np.ndarray, cutoffs: Sequence[int]
) -> dict[int, tuple[np.ndarray, float]]:
    """Returns by each K, ascending, the ids that were found, (queries, K), and queries a second."""
    if how == "fetch":  # all vectors come with each call: one for all queries, and the best of the most for every K
        ids, rate = _timed(opened, queries, cutoffs[-1], len(queries))
        return {cutoff: (ids[:, :cutoff], rate) for cutoff in cutoffs}
    found = {}
    for cutoff in cutoffs:
        opened.search(queries[:1], cutoff)  # the first call is not timed
        found[cutoff] = _timed(opened, queries, cutoff, QUERIES_PER_CALL)
    return found


def _timed(opened: Opened, queries: np.ndarray, count: int, per_call: int) -> tuple[np.ndarray, float]:
    """Returns the ids that were found, (queries, count), and queries a second."""
    began = time.perf_counter()
    hits = [opened.search(queries[start : start + per_call], count) for start in range(0, len(queries), per_call)]
    rate = len(queries) / (time.perf_counter() - began)
    return np.concatenate([part.ids for part in hits]), rate


def _judge(settings: Settings, filled: _Filled, rows: int) -> None:
    """Writes into a sink's report what the gate has against it."""
    report, setting = filled.report, f"index.sinks.{filled.name}"
    least = filled.settings.min_recall
    report.min_recall = dict(settings.index.min_recall if least is None else least)
    asked = "index.min_recall" if least is None else f"{setting}.min_recall"
    report.failures = [f"{setting}: {failure} ({asked})" for failure in below(report.recall, report.min_recall)]
    if report.count != rows:
        report.failures.insert(0, f"{setting}: {report.count:,} vectors, expected {rows:,}")


@contextlib.contextmanager
def _explained(name: str, sink: Sink) -> Iterator[None]:
    """Turns the engine's own errors into one message."""
    try:
        yield
    except sink.errors as error:
        reason = " ".join(str(error).split())
        raise UserError(f"index.sinks.{name}: {reason}; when that is mended, run index_items again") from error


def _recount(sinks: dict[str, Sink], report: IndexReport) -> None:
    """Counts once more what the sinks hold: the first may have been filled long before the last."""
    for one in report.sinks:
        with _explained(one.sink, sinks[one.sink]), sinks[one.sink].opened(one.version) as opened:
            now = opened.count
        if now != one.count:
            one.failures.append(f"index.sinks.{one.sink}: {now:,} vectors just before the switch, {one.count:,} before")
            one.count = now


def _switch(sinks: dict[str, Sink], report: IndexReport, lock: locks.Held) -> None:
    """Moves every alias, then drops what is older than the version before."""
    for one in report.sinks:
        with (
            step(f"index.sinks.{one.sink} → {one.version}", f"switch {one.sink}") as remarks,
            _explained(one.sink, sinks[one.sink]),
        ):
            lock.check()
            sinks[one.sink].switch(one.version)
            one.switched = True
            one.dropped = sinks[one.sink].drop_old()
            if one.dropped:
                remarks.append(f"dropped {', '.join(one.dropped)}")


def _show(report: IndexReport) -> None:
    cutoffs = list(report.sinks[0].recall)
    exact = ["exact, products in blocks", *["1.0000", f"{report.exact_queries_per_s:,.0f}"] * len(cutoffs), "", ""]
    columns = ["", *(column for k in cutoffs for column in (f"recall@{k}", "queries/s")), "build s", "vectors"]
    title = f"{report.rows:,} items, {report.queries:,} queries: {report.queries_of}"
    table(title, columns, [exact, *(_row(one) for one in report.sinks)])
    if any(one.how == "fetch" for one in report.sinks):
        out.print("  by fetch: a store of vectors without RediSearch; all were fetched once, and compared here")


def _row(one: SinkReport) -> list[str]:
    name = f"{one.sink} ({one.kind}{'' if one.how == 'index' else ', by fetch'})"
    measured = []
    for cutoff, recall in one.recall.items():
        mark = "" if recall >= one.min_recall.get(cutoff, 0) else " ✗"
        measured += [f"{recall:.4f}{mark}", f"{one.queries_per_s[cutoff]:,.0f}"]
    built = "there" if one.build_seconds is None else f"{one.build_seconds:.1f}"
    return [f"{name} {one.objective}" if one.objective else name, *measured, built, f"{one.count:,}"]
