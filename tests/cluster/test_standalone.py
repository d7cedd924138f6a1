"""Every job on a standalone cluster whose executors have the packed environment, and not this checkout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import pytest

from tests.cluster.hosts import Cluster
from tests.cluster.standalone import check_python, notes_of, on, unpacked_by_executor, unpacked_in
from tests.pipeline import JOBS, PROJECT, TABLE_FACTS, Pipeline, said
from tests.serving.engines import redis_server

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

KUAIRAND = PROJECT.parent / "shared/data/kuairand"


SECRET = "hush-"  # what every planted secret starts with


@contextmanager
def secrets(folder: Path) -> Iterator[tuple[list[str], dict[str, str]]]:
    """Yields overrides that name places of secrets, in files and the environment, and that environment."""
    (folder / "password").write_text(f"{SECRET}in-a-file")
    (folder / "redis").mkdir()
    own = [
        f"spark.secrets={{spark.hadoop.javax.jdo.option.ConnectionPassword: {{file: {folder / 'password'}}}, "
        "spark.hadoop.fs.s3a.secret.key: {env: S3_KEY}}",
        f"spark.conf.spark.hadoop.fs.azure.account.token={SECRET}in-the-settings",
    ]
    environment = {"S3_KEY": f"{SECRET}s3", "REDIS_PASSWORD": f"{SECRET}redis"}
    if shutil.which("redis-server") is None:
        yield own, environment
        return
    with redis_server(folder / "redis", "--requirepass", environment["REDIS_PASSWORD"]) as url:
        yield [*own, f"index.sinks.redis={{kind: redis, url: '{url}', password_env: REDIS_PASSWORD}}"], environment


def files_with(text: str, *folders: Path) -> list[Path]:
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 50
    return [path for path in files if text.encode() in path.read_bytes()]


def test_the_demo_runs_on_the_cluster(cluster: Cluster, environments: Path, demo_data: Path, tmp_path: Path) -> None:
    printed, told = "", []
    with secrets(tmp_path) as (places, environment):
        demo = on(cluster, environments, demo_data, tmp_path / "runs", *places[:1])
        demo.environment |= environment
        for job in JOBS:
            more = [word for place in places[1:] for word in ("--set", place)]
            ended = demo.run(job, *more)
            assert ended.returncode == 0, said(ended)
            printed += said(ended) + said(demo.run(job, *more, "--dry-run"))
            notes = [notes_of(cluster, host) for host in cluster.workers]
            assert any(notes) == (job != "index_items")  # the only one without Spark
            assert all(notes) or job not in ("build_samples", "train")  # others may have work for one executor alone
            for note in chain(*notes):
                check_python(note, unpacked_in(environments))
                told += [name for name, value in note["environment"].items() if SECRET in value]
            ranks = [sum(note["is_rank"] for note in of_host) for of_host in notes]
            assert ranks == ([1, 1] if job == "train" else [0, 0])
            assert files_with(SECRET, tmp_path / "runs", cluster.folder) == []
            cluster.drop_work()
    assert SECRET not in printed
    assert told == []
    assert "(not shown)" in printed
    kept = demo.evaluation("2024-01-15")["seen_kept"]
    assert kept["popularity"]["recall@50"] < kept["model"]["recall@50"] < kept["best_reachable"]["recall@50"]
    (facts,) = demo.table(TABLE_FACTS.format(table="demo_items", date="2024-01-15"))
    assert (facts["row_count"], facts["items"]) == (400, 400)


def test_executors_unpack_the_environment_that_is_sent(
    cluster: Cluster, environments: Path, demo_data: Path, tmp_path: Path
) -> None:
    demo = on(cluster, environments, demo_data, tmp_path / "runs", "spark.environment.unpacked=false", "train.ranks=3")
    demo.succeed("build_samples")
    notes = [note for host in cluster.workers for note in notes_of(cluster, host)]
    assert notes
    for note in notes:
        check_python(note, unpacked_by_executor)
    cluster.drop_work()

    refused = demo.run("train", "--set", "spark.environment.unpacked=true")
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
def test_kuairand_beats_every_baseline(cluster: Cluster, environments: Path, tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    with redis_server(tmp_path / "redis") as url:
        sets = [f"spark.environment={{folder: {environments}, unpacked: true}}", f"data={KUAIRAND}"]
        sets += [f"index.sinks.redis={{kind: redis, url: '{url}'}}"]
        kuairand = Pipeline("conf/kuairand.yaml", "kuairand", tmp_path / "runs", sets, {"MASTER": cluster.url})
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
