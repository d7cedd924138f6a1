"""Redis beside what all sinks do: keys, lifetimes, passwords, and RediSearch's commands."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from dssm.errors import UserError
from dssm.retrieval.sinks import Place
from dssm.retrieval.sinks.redis import RedisSink
from dssm.sections.indexing import FaissFlat, FaissHnsw, Redis
from tests.retrieval.test_sinks import DIM, FIRST, QUERIES, SECOND, THIRD, vectors_of
from tests.serving.engines import redis_server
from tests.serving.tables import unit_rows

PLACE = Place("cache", "a-feed", "")
MATRIX = unit_rows(50, DIM)


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis"), "--requirepass", "s3cret") as url:
        yield url


@pytest.fixture
def password(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("A_PASSWORD", "s3cret")
    return "A_PASSWORD"


@pytest.fixture
def server(redis_url: str) -> redis.Redis:
    client = redis.Redis.from_url(redis_url, password="s3cret")
    client.flushdb()
    return client


def test_a_hash_an_item_and_one_key_that_is_switched(server: redis.Redis, redis_url: str, password: str) -> None:
    sink = RedisSink(Redis(url=redis_url, password_env=password, rows_per_pipeline=7), PLACE)
    sink.build(FIRST, vectors_of(MATRIX))
    found: Any = server.hgetall(f"a_feed_cache:items:{FIRST}:item7")
    assert found.pop(b"vector") == MATRIX[7].tobytes()
    assert found == {b"id": b"item7", b"model_version": b"m1"}
    assert server.get("a_feed_cache:items:current") is None
    sink.switch(FIRST)
    sink.build(SECOND, vectors_of(MATRIX))
    sink.switch(SECOND)
    assert server.get("a_feed_cache:items:current") == SECOND.encode()
    assert server.get("a_feed_cache:items:previous") == FIRST.encode()
    assert server.dbsize() == 2 * len(MATRIX) + 2
    assert (sink.how, server.ttl(f"a_feed_cache:items:{SECOND}:item7")) == ("fetch", -1)
    assert "s3cret" not in sink.place(SECOND)


def test_a_lifetime_is_set_anew_by_each_run(server: redis.Redis, redis_url: str, password: str) -> None:
    sink = RedisSink(Redis(url=redis_url, password_env=password, ttl_hours=2), PLACE)
    sink.build(FIRST, vectors_of(MATRIX))
    sink.switch(FIRST)
    server.expire(f"a_feed_cache:items:{FIRST}:item3", 10)
    assert not sink.is_whole(FIRST, len(MATRIX))  # so that index_items writes it again
    sink.build(FIRST, vectors_of(MATRIX))
    keys: Any = server.keys(f"a_feed_cache:items:{FIRST}:*")
    assert len(keys) == len(MATRIX)
    assert all(7190 < server.ttl(key) <= 7200 for key in [*keys, "a_feed_cache:items:current"])  # type: ignore[operator]


def test_what_names_a_version_expires_with_its_hashes(
    server: redis.Redis, redis_url: str, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes until a version that was built is switched to."""
    sink = RedisSink(Redis(url=redis_url, password_env=password, ttl_hours=2), PLACE)
    began, ends = int(time.time()), {}
    for number, version in enumerate((FIRST, SECOND)):
        with monkeypatch.context() as patched:
            patched.setattr(time, "time", lambda: began - 1800 + 600 * number)  # noqa: B023  (called at once)
            sink.build(version, vectors_of(MATRIX))
        sink.switch(version)
        keys: Any = server.keys(f"a_feed_cache:items:{version}:*")
        assert len(keys) == len(MATRIX)
        (ends[version],) = {server.expiretime(key) for key in [*keys, "a_feed_cache:items:current"]}
        sink.switch(version)  # again: nothing changes
        assert server.expiretime("a_feed_cache:items:current") == ends[version]
    assert ends == {FIRST: began + 5400, SECOND: began + 6000}
    assert server.get("a_feed_cache:items:previous") == FIRST.encode()
    assert server.expiretime("a_feed_cache:items:previous") == ends[FIRST]
    sink.switch(THIRD)  # it has expired before it could be switched to: nothing names it for good
    assert server.ttl("a_feed_cache:items:current") in (-2, 0)


def test_keys_of_others_stay(server: redis.Redis, redis_url: str, password: str) -> None:
    """Of a prefix that is shared: what is not `PREFIX:VERSION:…` belongs to someone else."""
    others = [
        f"shop{rest}".encode() for rest in (":session:42", ":cart:7", ":items:20240101:3", f":x{FIRST}:item3", ":one")
    ]
    others += [f"xshop:{FIRST}:item3".encode(), b"shop:\xff:1"]
    for key in others:
        server.set(key, "1")
    sink = RedisSink(Redis(url=redis_url, password_env=password, prefix="shop"), PLACE)
    assert (sink.versions(), sink.drop_old()) == ([], [])
    for version in (FIRST, SECOND, THIRD):
        sink.build(version, vectors_of(MATRIX))
        sink.switch(version)
    assert sink.versions() == [FIRST, SECOND, THIRD]
    assert sink.drop_old() == [FIRST]
    for version in (SECOND, THIRD):
        sink.drop(version)
    assert sorted(server.keys("*")) == sorted([*others, b"shop:current", b"shop:previous"])  # type: ignore[arg-type]


def test_a_password_is_read_from_the_environment_and_never_told(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("A_PASSWORD", raising=False)
    with pytest.raises(UserError, match=r"index\.sinks\.cache\.password_env: the environment has no A_PASSWORD"):
        RedisSink(Redis(url=redis_url, password_env="A_PASSWORD"), PLACE)
    with pytest.raises(UserError, match=r"password_env: redis://.* refuses the password, or wants one"):
        RedisSink(Redis(url=redis_url), PLACE)
    monkeypatch.setenv("A_PASSWORD", "wr0ng")
    with pytest.raises(UserError) as raised:
        RedisSink(Redis(url=redis_url, password_env="A_PASSWORD"), PLACE)
    assert "wr0ng" not in str(raised.value)
    assert "A_PASSWORD" in os.environ


def test_a_password_is_read_from_a_file(server: redis.Redis, redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "right").write_text("s3cret\n")
    RedisSink(Redis(url=redis_url, password_file=f"{tmp_path}/right"), PLACE).close()
    (tmp_path / "wrong").write_text("wr0ng")
    with pytest.raises(UserError, match=r"\.password_file: redis://.* refuses the password"):
        RedisSink(Redis(url=redis_url, password_file=f"{tmp_path}/wrong"), PLACE)
    with pytest.raises(ValueError, match="password_env, password_file: give one of them"):
        Redis(url=redis_url, password_env="A", password_file="b")


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"index\.sinks\.cache\.url: unix://.* can't be reached"):
        RedisSink(Redis(url=f"unix://{tmp_path}/none.sock"), PLACE)


class FakeSearch:
    """A client of a server with RediSearch, which keeps the commands and answers as its documents say."""

    def __init__(self) -> None:
        self.commands: list[tuple[Any, ...]] = []
        self.indexes: list[bytes] = []

    def execute_command(self, *command: Any) -> Any:
        self.commands.append(command)
        if command[0] == "MODULE":
            return [[b"name", b"search", b"ver", 21005]]
        if command[0] == "FT._LIST":
            return self.indexes
        if command[0] == "FT.INFO":
            return [b"index_name", b"x", b"num_docs", b"50"]
        return None

    def pipeline(self, transaction: bool) -> FakeSearch:
        return self

    def execute(self) -> list[Any]:
        documents = [
            b"k:item7",
            [b"id", b"item7", b"distance", b"0.25"],
            b"k:item1",
            [b"id", b"item1", b"distance", b"1"],
        ]
        return [[2, *documents]]


def test_what_redisearch_is_asked() -> None:
    client = FakeSearch()
    sink = RedisSink(Redis(search=FaissHnsw(links=16)), PLACE, client)
    assert sink.how == "index"
    assert sink.index_command(FIRST, DIM) == [
        "FT.CREATE", f"a_feed_cache:items:{FIRST}", "ON", "HASH", "PREFIX", 1, f"a_feed_cache:items:{FIRST}:",
        "SCHEMA", b"vector", "VECTOR", "HNSW", 12, "TYPE", "FLOAT32", "DIM", DIM, "DISTANCE_METRIC", "IP",
        "M", 16, "EF_CONSTRUCTION", 200, "EF_RUNTIME", 128,
    ]  # fmt: skip
    assert RedisSink(Redis(search=FaissFlat()), PLACE, client).index_command("v", DIM)[-7:] == [
        6, "TYPE", "FLOAT32", "DIM", DIM, "DISTANCE_METRIC", "IP",
    ]  # fmt: skip
    with sink.opened(FIRST) as opened:
        assert opened.count == 50
        hits = opened.search(QUERIES[:1], 3)
    assert hits.ids.tolist() == [["item7", "item1", None]]
    np.testing.assert_allclose(hits.scores, [[0.75, 0, -np.inf]])
    asked = client.commands[-1]
    assert asked[:3] == ("FT.SEARCH", f"a_feed_cache:items:{FIRST}", "*=>[KNN 3 @vector $query AS distance]")
    assert asked[asked.index("query") + 1] == QUERIES[0].tobytes()
    assert asked[-2:] == ("DIALECT", 2)
