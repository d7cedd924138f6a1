"""Milvus: a collection a version, in a server or in milvus-lite's file.

A server's alias names the collection that readers take, and a second one the collection before. milvus-lite has no
aliases: a pointer lies beside its file, in which other programs find the collection's name as well.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pymilvus import DataType, MilvusClient, MilvusException

from dssm import storage
from dssm.errors import UserError
from dssm.retrieval.sinks import Hits, Opened, Place, Sink, Vectors, default_lists, default_probes
from dssm.retrieval.sinks.folders import move_alias, read_alias
from dssm.secrets import read_secret
from dssm.sections.indexing import Milvus, MilvusHnsw, MilvusIvf

FILE = "milvus.db"
ID, VECTOR = "id", "vector"
LONGEST_ID = 65_535  # bytes of a text, Milvus' own limit
INSERT_BYTES = 8 * 2**20  # of vectors in a message; a server takes 64 MiB
ROW_OVERHEAD = 128


def build(settings: Milvus, place: Place) -> MilvusSink:
    return MilvusSink(settings, place)


class MilvusSink(Sink):
    """Memory while it builds: a message of vectors; milvus-lite holds its collections in a process of its own."""

    errors = (MilvusException,)

    def __init__(self, settings: Milvus, place: Place, client: MilvusClient | None = None) -> None:
        """Connects.

        Args:
          settings, place: of the sink.
          client: a connected one; default: connects to the settings' uri.
        Raises: UserError where that fails, or milvus-lite has no local folder for its file.
        """
        self.settings, self.setting = settings, place.setting
        self.alias = settings.collection or f"{place.words}_items"
        self.file = _file(settings, place) if settings.is_embedded else None
        self.client = client or _connected(settings, self.file, self.setting)

    def _collection(self, version: str) -> str:
        return f"{self.alias}_v{version}"

    @property
    def _pointer(self) -> str:
        return f"{self.file}.{self.alias}.current"

    @property
    def _before(self) -> str:
        return f"{self.alias}_before"

    def place(self, version: str) -> str:
        return f"{self.file or self.settings.uri} {self._collection(version)}"

    def names(self) -> Iterator[str]:
        start = self._collection("")
        for name in self.client.list_collections():
            if name.startswith(start):
                yield name.removeprefix(start)

    def current(self) -> str | None:
        if self.file is not None:
            alias = read_alias(self._pointer)
            return None if alias is None else alias.version
        return self._version_of(self.alias)

    def previous(self) -> str | None:
        if self.file is not None:
            alias = read_alias(self._pointer)
            return None if alias is None else alias.previous
        return self._version_of(self._before)

    def _version_of(self, alias: str) -> str | None:
        for version in self.versions():
            if alias in self.client.list_aliases(collection_name=self._collection(version))["aliases"]:
                return version
        return None

    def is_whole(self, version: str, rows: int) -> bool:
        name = self._collection(version)
        if not self.client.has_collection(name) or VECTOR not in self.client.list_indexes(name):
            return False
        self.client.load_collection(name)
        return _count(self.client, name) == rows

    def build(self, version: str, vectors: Vectors) -> None:
        name = self._collection(version)
        if self.client.has_collection(name):
            self.client.drop_collection(name)
        described = json.dumps({"rows": vectors.rows, **vectors.facts})
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False, description=described)
        schema.add_field(ID, DataType.VARCHAR, is_primary=True, max_length=LONGEST_ID)
        schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=vectors.dim)
        self.client.create_collection(name, schema=schema, consistency_level="Strong")
        at_once = max(1, INSERT_BYTES // (4 * vectors.dim + ROW_OVERHEAD))
        for ids, matrix in vectors.batches():
            for start in range(0, len(ids), at_once):
                part = zip(ids[start : start + at_once].to_pylist(), matrix[start : start + at_once], strict=True)
                self.client.insert(name, [{ID: key, VECTOR: vector} for key, vector in part])
        self.client.flush(name)
        params = self.client.prepare_index_params()
        kind, build_params = self._index_params(vectors)
        params.add_index(VECTOR, index_type=kind, metric_type="IP", params=build_params)
        self.client.create_index(name, params)
        self.client.load_collection(name)

    def _index_params(self, vectors: Vectors) -> tuple[str, dict[str, int]]:
        index = self.settings.index
        if isinstance(index, MilvusIvf):
            return "IVF_FLAT", {"nlist": index.lists or default_lists(vectors.rows, vectors.rows)}
        if isinstance(index, MilvusHnsw):
            return "HNSW", {"M": index.links, "efConstruction": index.ef_construction}
        return {"flat": "FLAT", "auto": "AUTOINDEX"}[index.kind], {}

    @contextlib.contextmanager
    def opened(self, version: str) -> Iterator[Opened]:
        name = self._collection(version)
        self.client.load_collection(name)
        lists = 1
        if isinstance(self.settings.index, MilvusIvf):
            lists = int(self.client.describe_index(name, VECTOR)["nlist"])
        yield MilvusOpened(self.client, name, self.settings, lists)

    def switch(self, version: str) -> None:
        if self.file is not None:
            move_alias(self._pointer, version)
            return
        now = self.current()
        if now == version:
            return
        if now is not None:
            self._move(self._before, self.previous() is not None, now)
        self._move(self.alias, now is not None, version)

    def _move(self, alias: str, is_there: bool, version: str) -> None:
        move = self.client.alter_alias if is_there else self.client.create_alias
        move(collection_name=self._collection(version), alias=alias)

    def drop(self, version: str) -> None:
        self.client.drop_collection(self._collection(version))

    def close(self) -> None:
        self.client.close()
        if self.file is not None:
            from milvus_lite.server_manager import server_manager_instance

            server_manager_instance.release_server(str(self.file))  # another process may open the file now


class MilvusOpened(Opened):
    """A collection that is loaded."""

    def __init__(self, client: MilvusClient, name: str, settings: Milvus, lists: int) -> None:
        self.client, self.name, self.settings, self.lists = client, name, settings, lists

    @property
    def count(self) -> int:
        return _count(self.client, self.name)

    def search(self, queries: np.ndarray, count: int) -> Hits:
        found = self.client.search(
            self.name, data=list(queries), limit=count, search_params={"params": self._params(count)}
        )
        ids = np.full((len(queries), count), None, object)
        scores = np.full((len(queries), count), -np.inf, np.float32)
        for row, hits in enumerate(found):
            ids[row, : len(hits)] = [hit[ID] for hit in hits]
            scores[row, : len(hits)] = [hit["distance"] for hit in hits]
        return Hits(ids, scores)

    def _params(self, count: int) -> dict[str, int]:
        index = self.settings.index
        if isinstance(index, MilvusIvf):
            return {"nprobe": min(index.probes or default_probes(self.lists), self.lists)}
        return {"ef": max(index.ef_search, count)} if isinstance(index, MilvusHnsw) else {}


def _count(client: MilvusClient, name: str) -> int:
    return int(client.query(name, filter="", output_fields=["count(*)"])[0]["count(*)"])


def _file(settings: Milvus, place: Place) -> Path:
    """Returns milvus-lite's file. Raises: UserError where none is named and the index's folder is not local."""
    path = settings.uri or f"{place.folder}/{FILE}".removeprefix("file://")
    if "://" in path:
        raise UserError(
            f"{place.setting}.uri: found none, and {place.folder} is no place for milvus-lite's file; expected a local "
            "path, or a server's URI"
        )
    return Path(storage.absolute(path))


def _connected(settings: Milvus, file: Path | None, setting: str) -> MilvusClient:
    if file is not None:
        storage.make_folder(str(file.parent))
    options: dict[str, Any] = {"uri": str(file or settings.uri)}
    token = read_secret(setting, settings.token_env, settings.token_file, "token")
    if token is not None:
        options["token"] = token
    try:
        return MilvusClient(**options)
    except MilvusException as error:
        hint = "another process may have it open" if file is not None else "is the server there, and the token right?"
        raise UserError(f"{setting}.uri: {options['uri']} can't be opened ({error.message}); {hint}") from error
