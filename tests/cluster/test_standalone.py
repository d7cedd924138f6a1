"""Every job on a standalone cluster whose executors have the packed environment, and not this checkout."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dssm import published
from dssm.manifest import read_manifest
from tests.cluster.hosts import Cluster
from tests.cluster.standalone import check_python, notes_of, on, unpacked_by_executor, unpacked_in
from tests.pipeline import JOBS, TABLE_FACTS, Pipeline, said
from tests.serving.engines import redis_server

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

SECRET = "hush-"  # what every planted secret starts with
DATE = "2024-01-15"
ALL_JOBS = (*JOBS, "score_users", "rollback")
ON_EXECUTORS = [
    job for job in ALL_JOBS if job not in ("index_items", "rollback")
]  # one needs no Spark, one no Python of an executor


@contextmanager
def secrets(folder: Path) -> Iterator[tuple[list[str], dict[str, str]]]:
    """Yields overrides that name places of secrets, in files and the environment, and that environment."""
    for name in ("password", "token"):
        (folder / name).write_text(f"{SECRET}{name}-in-a-file")
    (folder / "redis").mkdir()
    own = [
        f"spark.secrets={{spark.hadoop.javax.jdo.option.ConnectionPassword: {{file: {folder / 'password'}}}, "
        f"spark.hadoop.fs.azure.account.token: {{file: {folder / 'token'}}}, "
        "spark.hadoop.fs.s3a.secret.key: {env: S3_KEY}}",
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


class Ran(NamedTuple):
    """The demo's jobs: what they printed, what each worker's Pythons noted, and files that hold a secret."""

    demo: Pipeline
    printed: str
    notes: dict[str, list[list[dict[str, Any]]]]
    leaks: list[Path]


def version_of(demo: Pipeline) -> str:
    """Returns the item table's current version: to go back to it is the same call as to another."""
    pointer = published.read_pointer(f"{demo.root}/demo/item_table", DATE)
    assert pointer is not None
    return pointer.version


@pytest.fixture(scope="module")
def ran(cluster: Cluster, environments: Path, demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Every job, of the demo; the first with the environment sent along, the others from the unpacked one."""
    folder = tmp_path_factory.mktemp("ran")
    done = Ran(on(cluster, environments, demo_data, folder / "runs"), "", {}, [])
    with secrets(folder) as (places, environment):
        done.demo.environment.update(environment)
        for job in ALL_JOBS:
            sets = [*places, f"spark.environment.unpacked={str(job != JOBS[0]).lower()}"]
            more = [word for place in sets for word in ("--set", place)]
            if job == "rollback":
                more += ["--to", version_of(done.demo)]
            ended = done.demo.run(job, *more)
            assert ended.returncode == 0, said(ended)
            done = done._replace(printed=done.printed + said(ended) + said(done.demo.run(job, *more, "--dry-run")))
            done.notes[job] = [notes_of(cluster, host) for host in cluster.workers]
            done.leaks.extend(files_with(SECRET, folder / "runs", cluster.folder))
            cluster.drop_work()
    return done


def test_the_demos_model_and_table_are_made_on_the_cluster(ran: Ran) -> None:
    kept = ran.demo.evaluation(DATE)["seen_kept"]
    assert kept["popularity"]["recall@50"] < kept["model"]["recall@50"] < kept["best_reachable"]["recall@50"]
    (facts,) = ran.demo.table(TABLE_FACTS.format(table="demo_items", date=DATE))
    assert (facts["row_count"], facts["items"]) == (400, 400)
    users = published.current(published.run_table(str(ran.demo.run_folder(DATE)), "users"), DATE)
    assert users is not None
    assert users.manifest.rows == read_manifest(str(ran.demo.run_folder(DATE) / "samples/users"), "").rows > 100


@pytest.mark.parametrize("job", ALL_JOBS)
def test_executors_run_the_packed_environment_and_see_no_checkout(ran: Ran, job: str, environments: Path) -> None:
    of_hosts = ran.notes[job]
    if job not in ON_EXECUTORS:
        assert of_hosts == [[], []]
        return
    assert any(of_hosts)
    for note in chain(*of_hosts):
        check_python(note, unpacked_by_executor if job == "build_samples" else unpacked_in(environments))
    ranks = [sum(note["is_rank"] for note in of_host) for of_host in of_hosts]
    assert ranks == ([1, 1] if job == "train" else [0, 0])


def test_secrets_are_printed_written_and_sent_nowhere(ran: Ran) -> None:
    assert SECRET not in ran.printed
    assert "{env: S3_KEY}" in ran.printed
    assert ran.leaks == []
    told = [note["environment"] for of_hosts in ran.notes.values() for note in chain(*of_hosts)]
    assert [name for environment in told for name, value in environment.items() if SECRET in value] == []


def test_more_ranks_than_slots_is_said(ran: Ran) -> None:
    refused = ran.demo.run("train", "--set", "train.ranks=3")
    assert refused.returncode == 2
    assert "train.ranks: 3 ranks, but Spark's master" in said(refused)
