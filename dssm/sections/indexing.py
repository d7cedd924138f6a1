"""Where the published vectors are indexed for retrieval.

Each engine is built by the module of `dssm.retrieval.sinks` that `builder` names. To add one is to write a subclass of
`SinkKind` and its builder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, FiniteFloat, SerializeAsAny, field_validator, model_validator

from dssm.strict import Kind, StrictModel, choice_of

Recall = Annotated[FiniteFloat, Field(ge=0, le=1)]
Cutoff = Annotated[int, Field(ge=1, le=1000)]
NUMBER = 4  # bytes of a float32
VARIABLE = r"^[A-Za-z_]\w*$"  # of the environment


class ItemBytes(NamedTuple):
    """Bytes that an engine keeps of an item, by which formula, and the formula with its inputs' values."""

    size: float
    formula: str
    inputs: str


# What an index is like ------------------------------------------------------------------------------------


class _Lists(StrictModel):
    lists: int | None = Field(
        None,
        ge=1,
        description="Clusters of the items; default 4 √items, at most one for 39 of those that centres are trained on.",
    )
    probes: int | None = Field(
        None, ge=1, description="Lists searched for a query; default an eighth of them, at least 32."
    )


class _Graph(StrictModel):
    links: int = Field(32, ge=2, le=512, description="M: neighbours of an item in the graph.")
    ef_construction: int = Field(200, ge=8, description="Candidates kept while an item is linked.")
    ef_search: int = Field(128, ge=1, description="Candidates kept while a query is searched; at least K are.")


class FaissIndex(Kind):
    choices: ClassVar[dict[str, type[Kind]]] = {}

    def item_bytes(self, dim: int) -> ItemBytes | None:
        """Returns the bytes of an item of a file, see `SinkKind.item_bytes`."""
        return None


class FaissFlat(FaissIndex):
    """Every item is compared: exact."""

    kind: Literal["flat"] = "flat"

    def item_bytes(self, dim: int) -> ItemBytes:
        return ItemBytes(NUMBER * dim, "4 B × dim", f"4 B × {dim}")


class FaissIvf(_Lists, FaissIndex):
    """Items in lists by their nearest centre; only the nearest lists are searched (Sivic and Zisserman, ICCV 2003)."""

    kind: Literal["ivf"] = "ivf"

    def item_bytes(self, dim: int) -> ItemBytes:
        return ItemBytes(NUMBER * dim + 8, "4 B × dim + 8 B", f"4 B × {dim} + 8 B")


class FaissHnsw(_Graph, FaissIndex):
    """A navigable graph (Malkov and Yashunin, TPAMI 2020)."""

    kind: Literal["hnsw"] = "hnsw"

    def item_bytes(self, dim: int) -> ItemBytes:
        links = 2 * self.links * NUMBER  # the lowest level; each higher one has 1 / links of the items below it
        links_all = links + NUMBER * self.links / (self.links - 1)
        return ItemBytes(
            NUMBER * dim + links_all + 12,
            "4 B × dim + 8 B × links + 12 B",
            f"4 B × {dim} + 8 B × {self.links} + 12 B",
        )


class FaissPq(FaissIndex):
    """Vectors as codes of a product quantizer (Jégou et al., TPAMI 2011): small, and scores are approximate."""

    kind: Literal["pq"] = "pq"
    segments: int | None = Field(None, ge=1, description="Parts of a vector; default: of two numbers each.")
    bits: int = Field(8, ge=4, le=12, description="Of a part's code: 2^bits centres.")

    def segments_of(self, dim: int) -> int:
        """Returns the parts of a vector of so many numbers."""
        return self.segments or (dim // 2 if dim % 2 == 0 else dim)

    def item_bytes(self, dim: int) -> ItemBytes:
        segments = self.segments_of(dim)
        return ItemBytes(segments * self.bits / 8, "segments × bits / 8", f"{segments} × {self.bits} / 8")


class MilvusIndex(Kind):
    choices: ClassVar[dict[str, type[Kind]]] = {}


class MilvusFlat(MilvusIndex):
    kind: Literal["flat"] = "flat"


class MilvusIvf(_Lists, MilvusIndex):
    kind: Literal["ivf"] = "ivf"


class MilvusHnsw(_Graph, MilvusIndex):
    """A server's; milvus-lite has none."""

    kind: Literal["hnsw"] = "hnsw"


class MilvusAuto(MilvusIndex):
    """What the server takes for the best."""

    kind: Literal["auto"] = "auto"


# Engines ---------------------------------------------------------------------------------------------------


class SinkKind(Kind):
    """A family of engines.

    `builder` takes (settings, `dssm.retrieval.sinks.Place`) and returns a `dssm.retrieval.sinks.Sink`.

    A version is built anew for other vectors and for other settings, but for those in `not_built`: a version that is
    there does not depend on them, since they say how it is searched, or how and where the engine is reached. It is in
    the form of pydantic's `exclude`. What an engine keeps in a version stays out of it, also when only searches read
    it: faiss writes probes and ef_search into its file, and Redis keeps ef_search in its index and a lifetime at a key.
    """

    choices: ClassVar[dict[str, type[Kind]]] = {}
    not_built: ClassVar[Mapping[str, Any]] = {}
    objective: str | None = Field(None, description="Whose own vectors; default: the combined ones.")
    min_recall: dict[Cutoff, Recall] | None = Field(None, description="Of this sink, instead of index.min_recall.")

    @property
    def sample_size(self) -> int:
        """How many vectors, drawn at random, a build is given as `Vectors.sample`, at most; 0: it needs none."""
        return 0

    @property
    def made_of(self) -> str:
        """The settings that a built version depends on, as JSON."""
        return self.model_dump_json(exclude={"min_recall": True, **self.not_built})

    def item_bytes(self, dim: int, id_bytes: int) -> ItemBytes | None:
        """Returns the bytes that the engine keeps of an item, for `plan`; None: not known.

        Args:
          dim: of the vectors, whose numbers are float32.
          id_bytes: of an item's id as text.
        """
        return None


class Faiss(SinkKind):
    """Files that faiss reads, in a folder a version."""

    kind: Literal["faiss"] = "faiss"
    builder: ClassVar[str] = "dssm.retrieval.sinks.faiss:build"
    index: Annotated[SerializeAsAny[FaissIndex], BeforeValidator(choice_of(FaissIndex, "flat"))] = FaissHnsw()
    training_vectors: int = Field(100_000, ge=1, description="Drawn at random for centres and codes, at most.")

    @property
    def sample_size(self) -> int:
        return self.training_vectors

    def item_bytes(self, dim: int, id_bytes: int) -> ItemBytes | None:
        return self.index.item_bytes(dim)


class Annoy(SinkKind):
    """A file of random projection trees, built on disk and mapped by its readers."""

    kind: Literal["annoy"] = "annoy"
    builder: ClassVar[str] = "dssm.retrieval.sinks.annoy:build"
    not_built: ClassVar[Mapping[str, Any]] = {"search_k": True}
    trees: int = Field(50, ge=1, le=10_000, description="More: better, and larger.")
    search_k: int | None = Field(None, ge=1, description="Nodes looked at for a query; default trees · K.")
    metric: Literal["auto", "angular", "dot"] = Field(
        "auto", description="auto: angular where all vectors have one norm, which ranks as the inner product does."
    )

    def item_bytes(self, dim: int, id_bytes: int) -> ItemBytes:
        # A node is as large as a vector and 12 bytes; a leaf lists up to dim + 2 items, about two thirds of it full.
        node = NUMBER * dim + 12
        nodes = 2 / (0.67 * (dim + 2))
        return ItemBytes(
            node * (1 + self.trees * nodes),
            "node × (1 + trees × nodes)",
            f"{node} B × (1 + {self.trees} × {nodes:.4f})",
        )


class Milvus(SinkKind):
    """A collection a version: in a server, whose alias is moved, or in an embedded file, with a pointer beside it."""

    kind: Literal["milvus"] = "milvus"
    builder: ClassVar[str] = "dssm.retrieval.sinks.milvus:build"
    not_built: ClassVar[Mapping[str, Any]] = {
        "uri": True, "collection": True, "token_env": True, "token_file": True,
        "index": {"probes": True, "ef_search": True},
    }  # fmt: skip
    uri: str | None = Field(
        None, description="http://host:19530, or a local file for milvus-lite; default: a file in index.location."
    )
    collection: str | None = Field(
        None, pattern=r"^[A-Za-z_]\w{0,99}$", description="The alias; default: the pipeline's name and the sink's."
    )
    index: Annotated[SerializeAsAny[MilvusIndex], BeforeValidator(choice_of(MilvusIndex, "auto"))] = MilvusAuto()
    token_env: str | None = Field(None, pattern=VARIABLE, description="Environment variable that holds the token.")
    token_file: str | None = Field(None, description="File that holds the token, instead.")

    @property
    def is_embedded(self) -> bool:
        return self.uri is None or "://" not in self.uri

    def item_bytes(self, dim: int, id_bytes: int) -> ItemBytes:
        return _vector_and_id(dim, id_bytes)

    @model_validator(mode="after")
    def _parts_fit(self) -> Milvus:
        if self.is_embedded and self.index.kind == "hnsw":
            raise ValueError("index.kind: milvus-lite has no hnsw; expected flat, ivf or auto, or a server's uri")
        if self.token_env is not None and self.token_file is not None:
            raise ValueError("token_env, token_file: give one of them")
        no_secret(self.uri, "token_env")
        return self


class Redis(SinkKind):
    """A hash an item: its vector's bytes and what it is made of. A key names the version that readers take.

    A server with RediSearch also gets an index over the hashes. Others only hand vectors out by id.
    """

    kind: Literal["redis"] = "redis"
    builder: ClassVar[str] = "dssm.retrieval.sinks.redis:build"
    not_built: ClassVar[Mapping[str, Any]] = dict.fromkeys(
        ("url", "user", "password_env", "password_file", "prefix", "rows_per_pipeline"), True
    )
    url: str = Field("redis://127.0.0.1:6379/0", description="redis:// or rediss://, without a password.")
    user: str | None = Field(None, description="Name of the server's user; default: the server's default one.")
    password_env: str | None = Field(None, pattern=VARIABLE, description="Environment variable with the password.")
    password_file: str | None = Field(None, description="File with the password, instead.")
    prefix: str | None = Field(
        None, pattern=r"^[^\s*?\[\]\\]+$", description="Of all keys; default: the pipeline's name and the sink's."
    )
    ttl_hours: FiniteFloat | None = Field(None, gt=0, description="After which a version's keys expire; null: never.")
    rows_per_pipeline: int = Field(1000, ge=1, le=100_000, description="Commands sent at once.")
    search: Annotated[SerializeAsAny[FaissIndex], BeforeValidator(choice_of(FaissIndex, "flat"))] = Field(
        FaissFlat(), description="The index that RediSearch makes: flat or hnsw."
    )

    def item_bytes(self, dim: int, id_bytes: int) -> ItemBytes:
        return _vector_and_id(dim, id_bytes)

    @model_validator(mode="after")
    def _parts_fit(self) -> Redis:
        if self.password_env is not None and self.password_file is not None:
            raise ValueError("password_env, password_file: give one of them")
        no_secret(self.url, "password_env")
        if urlsplit(self.url).scheme not in ("redis", "rediss", "unix"):
            raise ValueError(f"url: found '{self.url}', expected redis://host:6379/0 or rediss://…")
        if self.search.kind not in ("flat", "hnsw"):
            raise ValueError(f"search.kind: found '{self.search.kind}', expected flat or hnsw: RediSearch has no other")
        return self


def _vector_and_id(dim: int, id_bytes: int) -> ItemBytes:
    return ItemBytes(NUMBER * dim + id_bytes, "4 B × dim + id", f"4 B × {dim} + {id_bytes} B")


def no_secret(url: str | None, instead: str) -> None:
    if url is not None and urlsplit(url).password:
        raise ValueError(f"a password stands in the address; remove it, and name its environment variable in {instead}")


Sink = Annotated[SerializeAsAny[SinkKind], BeforeValidator(choice_of(SinkKind, "faiss"))]


class Index(StrictModel):
    """The engines that `index_items` fills, and what must hold before they are switched."""

    sinks: dict[str, Sink] = Field({"faiss": Faiss()}, min_length=1, description="By a name of your own.")
    location: str = Field("{root}/{name}/index", description="Folder of the versions of sinks that are files.")
    min_recall: dict[Cutoff, Recall] = Field(
        {10: 0.9, 100: 0.9},
        min_length=1,
        description="K → share of the exact K best items that a search must find; exit code 3 otherwise, and no sink "
        "is switched. Recall is measured at these K, and at 10 and 100.",
    )
    queries: int = Field(1000, ge=1, le=100_000, description="Users drawn at random whose vectors are searched with.")
    allow_older: bool = Field(False, description="Switch to a date before the one that a sink has.")

    @field_validator("sinks", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        for name in value if isinstance(value, Mapping) else ():
            if not re.fullmatch(r"[A-Za-z]\w{0,29}", str(name), re.ASCII):
                raise ValueError(f"'{name}' is no name; expected at most 30 letters, digits and underscores")
        return value

    @field_validator("location")
    @classmethod
    def _known_placeholders(cls, value: str) -> str:
        try:
            value.format(root="", name="")
        except (AttributeError, IndexError, KeyError, ValueError) as error:
            raise ValueError(f"{value!r} holds an unknown placeholder ({error}); known: {{root}}, {{name}}") from error
        return value
