"""The same jobs on a standalone cluster, by MASTER alone: the executors are processes of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.pipeline import JOBS, PROJECT, TABLE_FACTS, Pipeline, said, write_small_demo
from tests.serving.engines import redis_server

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

KUAIRAND = PROJECT.parent / "shared/data/kuairand"


def test_the_demo_runs_on_the_cluster(spark_master: str, tmp_path: Path) -> None:
    write_small_demo(tmp_path / "data")
    sets = [f"data={tmp_path / 'data'}", "samples.rows_per_file=1000", "train.epochs=8", "train.batch_size=256"]
    demo = Pipeline("conf/demo.yaml", "demo", tmp_path / "runs", sets, {"MASTER": spark_master})
    for job in JOBS:
        demo.succeed(job)
    kept = demo.evaluation("2024-01-15")["seen_kept"]
    assert kept["popularity"]["recall@50"] < kept["model"]["recall@50"] < kept["best_reachable"]["recall@50"]
    (facts,) = demo.table(TABLE_FACTS.format(table="demo_items", date="2024-01-15"))
    assert (facts["row_count"], facts["items"]) == (400, 400)


def test_more_ranks_than_slots_is_said_at_once(spark_master: str, tmp_path: Path) -> None:
    write_small_demo(tmp_path / "data")
    sets = [f"data={tmp_path / 'data'}", "samples.rows_per_file=1000", "train.ranks=3"]
    demo = Pipeline("conf/demo.yaml", "demo", tmp_path / "runs", sets, {"MASTER": spark_master})
    demo.succeed("build_samples")
    refused = demo.run("train")
    assert refused.returncode == 2
    assert "train.ranks: 3 ranks, but Spark's master" in said(refused)


def check_answers(run: Path) -> None:
    """All vectors are in each engine, which finds what exact search finds; the report shows them."""
    sinks = {sink["sink"]: sink for sink in json.loads((run / "index.json").read_text())["sinks"]}
    assert {name: sink["count"] for name, sink in sinks.items()} == dict.fromkeys(
        ("faiss", "annoy", "milvus", "redis"), 7583
    )
    assert all(sink["switched"] for sink in sinks.values())
    assert min(recall for sink in sinks.values() for recall in sink["recall"].values()) > 0.9
    report = (run / "report.html").read_text(encoding="utf-8")
    assert all(name in report for name in sinks)


@pytest.mark.kuairand
@pytest.mark.skipif(not KUAIRAND.is_dir(), reason=f"the KuaiRand extract is not at {KUAIRAND}")
def test_kuairand_beats_every_baseline(spark_master: str, tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    with redis_server(tmp_path / "redis") as url:
        sets = [f"data={KUAIRAND}", f"index.sinks.redis={{kind: redis, url: '{url}'}}"]
        kuairand = Pipeline("conf/kuairand.yaml", "kuairand", tmp_path / "runs", sets, {"MASTER": spark_master})
        for job in JOBS:
            kuairand.succeed(job)
    check_answers(kuairand.run_folder("2022-05-01"))
    found = kuairand.evaluation("2022-05-01")
    kept = found["seen_kept"]
    assert found["items"] == 7583
    assert kept["popularity"]["recall@50"] == pytest.approx(0.151, abs=0.005)
    assert kept["popularity"]["recall@100"] == pytest.approx(0.239, abs=0.005)
    assert kept["itemcf"]["recall@50"] == pytest.approx(0.198, abs=0.012)
    assert kept["itemcf_impressions"]["recall@50"] == pytest.approx(0.244, abs=0.005)
    baselines = ("popularity", "popularity_recent", "itemcf", "itemcf_impressions", "ease", "ease_recent")
    # 0.279, 0.425 and 0.328, 0.465 when they were measured; trainings differ by some thousandths.
    for view, at_50, at_100 in (("seen_kept", 0.271, 0.415), ("seen_filtered", 0.318, 0.455)):
        recalls = found[view]
        assert recalls["model"]["recall@50"] > max(at_50, *(recalls[name]["recall@50"] for name in baselines))
        assert recalls["model"]["recall@100"] > max(at_100, *(recalls[name]["recall@100"] for name in baselines))
    (facts,) = kuairand.table(TABLE_FACTS.format(table="kuairand_items", date="2022-05-01"))
    assert (facts["row_count"], facts["items"], facts["versions"]) == (7583, 7583, 1)
    assert facts["shortest"] == pytest.approx(1, abs=1e-5)
    assert facts["longest"] == pytest.approx(1, abs=1e-5)
