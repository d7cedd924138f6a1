"""A run that every job has added to, written by hand: what its report is made of."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dssm import published, storage
from dssm.config import Settings
from dssm.manifest import ITEM_ID, ITEM_KEY, ITEM_TITLE, MANIFEST, SourceCounts
from dssm.paths import RunPaths
from dssm.published import GateDecision, PublishedFile, PublishedManifest
from dssm.usage import Usage
from tests.report.handmade import item, make_settings, sample, user, write_run

TOPICS = ("sport", "mu\x1bsic", "<b>art</b>")
ITEMS_OF_TOPIC = 20
IDS = [f"i{number + 1}" for number in range(len(TOPICS) * ITEMS_OF_TOPIC)]
DIM = 8
MODEL, BUILD, VERSION = "m1", "b1", "v1"
BEGAN = dt.datetime(2024, 1, 9, 3, 0, tzinfo=dt.UTC)
VIEWS = ("seen_kept", "seen_filtered")
RANKERS = ("model", "popularity", "itemcf", "best_reachable")
CUTOFFS = (10, 50)
GATES = [
    GateDecision(gate="better than the baseline", passed=True, found=0.4, limit=0.1),
    GateDecision(gate="norms", passed=False, found=0.02, limit=0.001, reason="a vector's norm is off 1 by 0.02"),
]
SOURCES = {"sources.feed": SourceCounts(place="feed", rows_read=4321, used={"train": 40, "test": 8})}


def settings_of(root: Path | str, **over: Any) -> Settings:
    """Returns settings whose item features are an id, a topic and others; `over` replaces whole sections."""
    return make_settings(root, catalogue={"path": "items.csv", "key": "item_id", "title": "name"}, **over)


def samples_run(root: Path | str, settings: Settings | None = None, titled: bool = True) -> RunPaths:
    """Writes what build_samples leaves: three topics with as many items each."""
    items = [
        item(number, positives=len(IDS) - number, topic=2 + number // ITEMS_OF_TOPIC, **{ITEM_KEY: 7919 * number % 61})
        for number in range(len(IDS))
    ]
    tokens = {"user_id": ["u1", "u2", "u3"], "item_id": IDS, "topic": TOPICS}
    run = write_run(
        root, [[sample()] * 40], [[sample()] * 8], users=[user()], items=items, tokens=tokens, sources=SOURCES,
        settings=settings or settings_of(root),
    )  # fmt: skip
    if titled:
        _add_titles(Path(run.paths.part("items")))
    return run.paths


def _add_titles(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["columns"][ITEM_TITLE] = {"dtype": "string", "encoding": "text"}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    for file in manifest["files"]:
        rows = pq.read_table(folder / file["name"], partitioning=None)
        titles = [f'Title & "{number}"' for number in rows[ITEM_ID].to_pylist()]
        pq.write_table(rows.append_column(ITEM_TITLE, pa.array(titles)), folder / file["name"])


def full_run(root: Path | str) -> RunPaths:
    """Writes a run with every part: trained, evaluated, published by force, indexed, timed."""
    paths = samples_run(root)
    write_model(paths)
    write_evaluation(paths)
    write_examples(paths)
    write_table(paths, f"{root}/item_table", clustered_vectors())
    write_index(paths)
    write_jobs(paths)
    return paths


# Parts ---------------------------------------------------------------------------------------------------


def write_model(paths: RunPaths, **over: Any) -> None:
    write(
        f"{paths.model}/{MANIFEST}",
        {
            "model_version": MODEL, "samples_build": BUILD, "vector_dim": DIM, "vector_norm": 1.0, "ranks": 2,
            "epochs": 3, "best_epoch": 2, "steps": 30, "rows_per_epoch": 40, "rows_per_s": 12345.6, "input_wait": 0.01,
            "bytes_per_step": 2.5e6, "expected_bytes_per_step": 3.1e6, "loss": [3.0, 2.5, 2.25],
            "metrics": [{"auc": 0.6}, {"auc": 0.7}, {"auc": None}],
            "validation": [{"recall@50": 0.3}, {"recall@50": 0.4}, {"recall@50": 0.39}], **over,
        },
    )  # fmt: skip
    inputs = {"topic": {"dtype": "string", "shape": [None, None], "says": "topics; [] for none"}}
    write(
        paths.card,
        {
            "model_version": over.get("model_version", MODEL), "samples_build": BUILD, "name": "what else it holds",
            "parts": {"train": {"rows": 40, "files": 1, "digest": "0123train"}},
            "vocabularies": {"topic": {"size": 5, "digest": "0123topic", "rule": "tokens"}},
            "predictions": {
                "label": {
                    "output": "vector", "similarity": "cosine", "temperature": 0.1, "bias": 0.5,
                    "activation": "sigmoid", "prediction": "value",
                }
            },
            "towers": {
                name: {"inputs": inputs, "outputs": {"vector": "4 numbers"}, "example": {"topic": ["<rock>"]}}
                for name in ("item_tower", "item_tower_raw")
            },
            "scorer": {
                "inputs": {"user_vector": {"dtype": "float32", "shape": [None, 1], "says": "vector of user_tower"}},
                "outputs": {"score": "the logit"}, "example": {"user_vector": [0.5]},
            },
        },
    )  # fmt: skip


def write_evaluation(paths: RunPaths, **over: Any) -> None:
    """Writes an evaluation in which the model is better than itemcf by a little."""
    values = {"model": 0.4, "popularity": 0.1, "itemcf": 0.38, "best_reachable": 0.6}
    metrics = {
        name: {f"{metric}@{k}": value * (k / 50) ** 0.5 for metric in ("recall", "ndcg") for k in CUTOFFS}
        for name, value in values.items()
    }
    bounds = {name: {metric: [v - 0.05, v + 0.05] for metric, v in of.items()} for name, of in metrics.items()}
    tenths = {name: {f"recall@{k}": [value] * 9 + [None] for k in CUTOFFS} for name, value in values.items()}
    tenth_bounds = {
        name: {f"recall@{k}": [[v - 0.1, v + 0.1]] * 9 + [[None, None]] for k in CUTOFFS} for name, v in values.items()
    }
    cold = {"model": {"recall@10": 0.2, "recall@50": 0.3}, "popularity": {"recall@10": 0.0, "recall@50": None}}
    write(
        paths.evaluation,
        {
            "model_version": MODEL, "samples_build": BUILD, "date": "2024-01-08", "items": len(IDS), "users": 1234,
            "users_filtered": 1000, "cold_users": 7, **both(metrics),
            "intervals": both(bounds), "bootstrap": {"replicates": 500, "level": 0.95, "digest": "d"},
            "popularity_tenths": {
                "items": [6] * 10, **both({"clicks": [*range(90, 0, -10), 0], **tenths}),
                "intervals": both(tenth_bounds),
            },
            "activity_tenths": {
                "items": [[90 - 9 * tenth, 82 - 9 * tenth] for tenth in range(9)] + [None],
                **both({"users": [137] * 9 + [0], **tenths}),
                "intervals": both(tenth_bounds),
            },
            "cold": {
                "users": {"users": 7, "metrics": cold, "intervals": {}},
                "items": {"items": 5, **both({"clicks": 11, **cold}), "intervals": {}},
            }, **over,
        },
    )  # fmt: skip


def both(content: Any) -> dict[str, Any]:
    """Returns the same for both views: seen items kept, and filtered."""
    return dict.fromkeys(VIEWS, content)


def write_examples(paths: RunPaths) -> None:
    """Writes two users; of what the first was shown, i3 was clicked."""
    shown = [{"item": item, "score": 0.9 - 0.1 * place, "hit": item == "i3"} for place, item in enumerate(IDS[:5])]
    clicked = [{"item": "i3", "seen": False}, {"item": "i40", "seen": True}]
    users = [
        {"user": "<u1>", "items_before": 1234, "history": [{"item": "i21", "title": "an old title"}],
         "clicked": clicked, "recommended": shown},
        {"user": "u2", "items_before": 1, "history": [], "clicked": [{"item": "gone", "title": "Gone"}],
         "recommended": shown},
    ]  # fmt: skip
    write(f"{paths.folder}/examples.json", {"model_version": MODEL, "samples_build": BUILD, "users": users})


def clustered_vectors() -> np.ndarray:
    """Returns a unit vector an item, near the others of its topic: (items, DIM)."""
    random = np.random.default_rng(0)
    vectors = np.eye(DIM)[np.repeat(np.arange(len(TOPICS)), ITEMS_OF_TOPIC)] + 0.05 * random.normal(
        size=(len(IDS), DIM)
    )
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def write_table(
    paths: RunPaths, location: str, vectors: np.ndarray, ids: Sequence[str] = IDS, table: str = "items", **over: Any
) -> None:
    """Publishes vectors as the run's, in one file of float32 lists."""
    date, side = Path(paths.folder).name, {"items": "item", "users": "user"}[table]
    folder = Path(published.version_folder(location, date, VERSION))
    (folder / published.DATA).mkdir(parents=True)
    lists = pa.array(list(vectors.astype(np.float32)), pa.list_(pa.float32()))
    columns = {f"{side}_id": pa.array(ids, pa.string()), published.VECTOR: lists}
    pq.write_table(pa.table(columns), folder / published.DATA / "part-0.parquet")
    size = (folder / published.DATA / "part-0.parquet").stat().st_size
    given: dict[str, Any] = {
        "table": f"tiny_{table}", "side": side, "version": VERSION, "date": date, "at": BEGAN, "model_version": MODEL,
        "samples_build": BUILD, "settings_digest": "s", "samples_digest": "i", "model_digest": "m",
        "samples_rows": len(ids), "rows": len(ids), "distinct": len(ids), "vector_dim": vectors.shape[1],
        "scored": len(ids), "norm": 1.0, "norm_off": 1e-7, "gates": GATES, "forced": True,
        "overridden": [GATES[1].reason], "files": [PublishedFile(name="part-0.parquet", rows=len(ids), size=size)],
        **over,
    }  # fmt: skip
    storage.write_text(f"{folder}/{MANIFEST}", PublishedManifest(**given).model_dump_json())
    published.write_pointer(location, date, VERSION, BEGAN)
    published.write_run_tables(paths.folder, {table: location})


def write_index(paths: RunPaths, **over: Any) -> None:
    sinks = [
        {"sink": "near", "kind": "faiss", "count": 60, "build_seconds": 0.25, "queries_per_s": {10: 21000.0},
         "recall": {10: 0.98}, "min_recall": {10: 0.9}, "failures": [], "switched": True},
        {"sink": "far", "kind": "redis", "count": 59, "how": "fetch", "build_seconds": None, "queries_per_s": {},
         "recall": {10: 0.5}, "min_recall": {10: 0.9}, "failures": ["index.sinks.far: recall@10 0.5000"],
         "switched": False},
    ]  # fmt: skip
    report = {
        "version": VERSION, "model_version": MODEL, "rows": 60, "queries": 100, "queries_of": "users of the samples",
        "exact_queries_per_s": 5000.0, "sinks": sinks, **over,
    }  # fmt: skip
    write(f"{paths.folder}/index.json", report)


def write_jobs(paths: RunPaths) -> None:
    """Writes what the jobs took: 100 s, 200 s and so on, an hour after one another."""
    for place, job in enumerate(("build_samples", "train", "evaluate", "score_items", "index_items")):
        used = Usage(
            job=job, began=BEGAN + dt.timedelta(hours=place), seconds=100.0 * (place + 1), peak_bytes=2**30,
            peak_process="java",
        )  # fmt: skip
        storage.write_text(f"{paths.folder}/jobs/{job}.json", used.model_dump_json())


def write(path: str, content: Any) -> None:
    storage.write_text(path, json.dumps(content))
