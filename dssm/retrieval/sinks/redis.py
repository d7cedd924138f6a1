"""Redis: a hash an item, read by id; searched where the server has RediSearch.

`PREFIX:VERSION:ID` holds the vector (float32, little-endian), the id and what the vectors are of. `PREFIX:current` is
the version that readers take, moved by one transaction; `PREFIX:previous` the one before. With a lifetime, what names
a version expires when its hashes do.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import redis

from dssm.errors import UserError
from dssm.retrieval.search import best_items, product_blocks
from dssm.retrieval.sinks import Hits, Opened, Place, Sink, Vectors, ids_at
from dssm.secrets import read_secret
from dssm.sections.indexing import FaissHnsw, Redis

VECTOR, ID = b"vector", b"id"
SCAN_COUNT = 5000  # keys that the server looks at for a step of a scan
CONNECT_S, ANSWER_S = 5, 120


def build(settings: Redis, place: Place) -> RedisSink:
    return RedisSink(settings, place)


class RedisSink(Sink):
    """Memory while it builds: a pipeline of commands; the server holds all vectors."""

    errors = (redis.RedisError,)

    def __init__(self, settings: Redis, place: Place, client: Any = None) -> None:
        """Connects.

        Args:
          settings, place: of the sink.
          client: a connected one; default: connects to the settings' url.
        Raises: UserError where that fails.
        """
        self.settings, self.setting = settings, place.setting
        self.prefix = settings.prefix or f"{place.words}:items"
        self.client = client or _connected(settings, self.setting)
        self.has_search = _has_search(self.client)
        self.how = "index" if self.has_search else "fetch"

    def _keys(self, version: str) -> str:
        return f"{self.prefix}:{version}:"

    def _index(self, version: str) -> str:
        return f"{self.prefix}:{version}"

    def place(self, version: str) -> str:
        return f"{self.settings.url} {self._keys(version)}*"

    def names(self) -> Iterator[str]:
        start = f"{self.prefix}:"
        for key in self.client.scan_iter(match=f"{_escaped(start)}*:*", count=SCAN_COUNT):
            yield key.removeprefix(start.encode()).partition(b":")[0].decode(errors="replace")  # another's may be bytes

    def current(self) -> str | None:
        return self._text("current")

    def previous(self) -> str | None:
        return self._text("previous")

    def _text(self, key: str) -> str | None:
        value: Any = self.client.get(f"{self.prefix}:{key}")
        return None if value is None else value.decode()

    def is_whole(self, version: str, rows: int) -> bool:
        """Never with a lifetime: the keys are written again, which sets it anew."""
        if self.settings.ttl_hours is not None or (self.has_search and not self._is_indexed(version)):
            return False
        return sum(map(len, self._scanned(version))) == rows

    def _is_indexed(self, version: str) -> bool:
        return self._index(version).encode() in self.client.execute_command("FT._LIST")

    def _scanned(self, version: str) -> Iterator[list[bytes]]:
        """Yields the keys of a version, each once, some thousand at a time."""
        seen: set[int] = set()  # a scan may give a key twice while the server's table of keys grows
        keys = self.client.scan_iter(match=f"{_escaped(self._keys(version))}*", count=SCAN_COUNT)
        part: list[bytes] = []
        for key in keys:
            if (mark := hash(key)) not in seen:
                seen.add(mark)
                part.append(key)
            if len(part) == SCAN_COUNT:
                yield part
                part = []
        yield part

    def build(self, version: str, vectors: Vectors) -> None:
        """Writes the hashes; where readers take this version already, they read the same values throughout."""
        if version != self.current():
            self.drop(version)
        if self.has_search and not self._is_indexed(version):
            self.client.execute_command(*self.index_command(version, vectors.dim))
        hours = self.settings.ttl_hours
        ends = None if hours is None else int(time.time() + hours * 3600)
        facts: dict[Any, Any] = {key.encode(): value.encode() for key, value in vectors.facts.items()}
        at_once = self.settings.rows_per_pipeline
        for ids, matrix in vectors.batches():
            for start in range(0, len(ids), at_once):
                part = ids[start : start + at_once].to_pylist()
                self._write(version, part, matrix[start : start + at_once], facts, ends)

    def _write(
        self, version: str, ids: Sequence[str], matrix: np.ndarray, facts: dict[Any, Any], ends: int | None
    ) -> None:
        pipeline = self.client.pipeline(transaction=False)
        for key, vector in zip(ids, np.ascontiguousarray(matrix, "<f4"), strict=True):
            name = f"{self._keys(version)}{key}"
            pipeline.hset(name, mapping={VECTOR: vector.tobytes(), ID: key.encode(), **facts})
            if ends is not None:
                pipeline.expireat(name, ends)
        pipeline.execute()

    def _ends(self, version: str) -> int | None:
        """Returns when a version's hashes expire, in Unix seconds of the server's; now if they have; None: never."""
        key = next(self.client.scan_iter(match=f"{_escaped(self._keys(version))}*", count=SCAN_COUNT), b"")
        pipeline = self.client.pipeline(transaction=True)
        pipeline.time()
        pipeline.pttl(key)
        (seconds, microseconds), left = pipeline.execute()
        return None if left == -1 else round(seconds + microseconds / 1e6 + max(left, 0) / 1e3)  # -2: it is gone

    def index_command(self, version: str, dim: int) -> list[Any]:
        """Returns RediSearch's command that indexes a version's hashes, those that come as well."""
        search = self.settings.search
        options: list[Any] = ["TYPE", "FLOAT32", "DIM", dim, "DISTANCE_METRIC", "IP"]
        if isinstance(search, FaissHnsw):
            options += ["M", search.links, "EF_CONSTRUCTION", search.ef_construction, "EF_RUNTIME", search.ef_search]
        head = ["FT.CREATE", self._index(version), "ON", "HASH", "PREFIX", 1, self._keys(version)]
        return [*head, "SCHEMA", VECTOR, "VECTOR", search.kind.upper(), len(options), *options]

    @contextlib.contextmanager
    def opened(self, version: str) -> Iterator[Opened]:
        yield (IndexedHashes if self.has_search else FetchedHashes)(self, version)

    def switch(self, version: str) -> None:
        now, ends = self.current(), self._ends(version)
        pipeline = self.client.pipeline(transaction=True)
        if now is not None and now != version:
            pipeline.set(f"{self.prefix}:previous", now, exat=self._ends(now))
        pipeline.set(f"{self.prefix}:current", version, exat=ends)
        pipeline.execute()

    def drop(self, version: str) -> None:
        if self.has_search and self._is_indexed(version):
            self.client.execute_command("FT.DROPINDEX", self._index(version))
        for keys in self._scanned(version):
            if keys:
                self.client.unlink(*keys)

    def close(self) -> None:
        self.client.close()

    def fetched(self, version: str) -> Iterator[tuple[pa.Array, np.ndarray]]:
        """Yields the ids and vectors of a version as they are in the server."""
        for keys in self._scanned(version):
            pipeline = self.client.pipeline(transaction=False)
            for key in keys:
                pipeline.hmget(key, ID, VECTOR)
            rows = [row for row in pipeline.execute() if None not in row]
            if rows:
                matrix = np.frombuffer(b"".join(vector for _, vector in rows), "<f4").reshape(len(rows), -1)
                yield pa.array([key.decode() for key, _ in rows], pa.string()), matrix


class FetchedHashes(Opened):
    """No search in the server: all vectors are fetched, and compared here. Exact, and only for a check."""

    def __init__(self, sink: RedisSink, version: str) -> None:
        self.sink, self.version = sink, version

    @property
    def count(self) -> int:
        return sum(map(len, self.sink._scanned(self.version)))

    def search(self, queries: np.ndarray, count: int) -> Hits:
        ids = [pa.array([], pa.string())]
        blocks = product_blocks(queries, self._numbered(ids))
        best, _ = best_items(blocks, len(queries), self.count, count)
        return Hits(ids_at(pa.concat_arrays(ids), best.items), best.scores)

    def _numbered(self, ids: list[pa.Array]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields the vectors with the number of the first; their ids are added to the list."""
        first = 0
        for part, matrix in self.sink.fetched(self.version):
            ids.append(part)
            yield first, matrix
            first += len(matrix)


class IndexedHashes(FetchedHashes):
    """RediSearch finds a query's nearest hashes; the count is that of its index."""

    @property
    def count(self) -> int:
        told = self.sink.client.execute_command("FT.INFO", self.sink._index(self.version))
        facts = dict(zip(told[::2], told[1::2], strict=True))
        return int(float(facts[b"num_docs"]))

    def search(self, queries: np.ndarray, count: int) -> Hits:
        pipeline = self.sink.client.pipeline(transaction=False)
        for query in np.ascontiguousarray(queries, "<f4"):
            pipeline.execute_command(
                "FT.SEARCH", self.sink._index(self.version), f"*=>[KNN {count} @vector $query AS distance]",
                "PARAMS", 2, "query", query.tobytes(), "SORTBY", "distance", "LIMIT", 0, count,
                "RETURN", 2, "id", "distance", "DIALECT", 2,
            )  # fmt: skip
        ids = np.full((len(queries), count), None, object)
        scores = np.full((len(queries), count), -np.inf, np.float32)
        for row, (_, *found) in enumerate(pipeline.execute()):
            hits = [dict(zip(values[::2], values[1::2], strict=True)) for values in found[1::2]]
            ids[row, : len(hits)] = [hit[b"id"].decode() for hit in hits]
            scores[row, : len(hits)] = [1 - float(hit[b"distance"]) for hit in hits]  # its IP distance is 1 − ⟨q, x⟩
        return Hits(ids, scores)


def _escaped(text: str) -> str:
    """Returns a text as a pattern of SCAN that matches it alone."""
    return "".join(f"\\{letter}" if letter in "*?[]\\^-" else letter for letter in text)


def _has_search(client: Any) -> bool:
    try:
        return any(b"search" in _flat(module) for module in client.execute_command("MODULE", "LIST"))
    except redis.ResponseError:  # a server that forbids the command, or has none
        return False


def _flat(module: Any) -> list[Any]:
    """Returns what a module's entry holds: pairs in a list, or a mapping."""
    return [*module.values()] if isinstance(module, dict) else list(module)


def _connected(settings: Redis, setting: str) -> redis.Redis:
    options: dict[str, Any] = {"socket_connect_timeout": CONNECT_S, "socket_timeout": ANSWER_S}
    if settings.user is not None:
        options["username"] = settings.user
    password = read_secret(setting, settings.password_env, settings.password_file, "password")
    if password is not None:
        options["password"] = password
    client = redis.Redis.from_url(settings.url, **options)
    try:
        client.ping()
    except redis.AuthenticationError as error:
        named = "password_file" if settings.password_file is not None else "password_env"
        raise UserError(f"{setting}.{named}: {settings.url} refuses the password, or wants one") from error
    except redis.RedisError as error:
        raise UserError(f"{setting}.url: {settings.url} can't be reached ({error}); is the server there?") from error
    return client
