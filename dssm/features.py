"""The features of the two towers: the vocabulary that every stage of the pipeline shares.

A feature is described once, in the settings. `samples` encodes it, `manifest` records how it is
stored, `stream` decodes it and `model` builds its input from the same description.

Encoded ids: 0 is padding, 1 is unknown or null, 2 and above are the vocabulary's tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dssm.errors import did_you_mean

PADDING_ID = 0
UNKNOWN_ID = 1
FIRST_TOKEN_ID = 2

Side = Literal["user", "item"]


class StrictModel(BaseModel):
    """A frozen section of the settings in which an unknown key is an error with a suggestion."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _no_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            for key in values:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown key '{key}'" + did_you_mean(str(key), cls.model_fields))
        return values


class _Feature(StrictModel):
    side: Side = Field(description="The tower that the feature feeds.")
    column: str | None = Field(
        None, description="Column it is read from: of a profile, the catalogue or a history. Default: its own name."
    )
    name: str = Field("", description="Set from the key in `features`; not to be given.")

    @property
    def source_column(self) -> str:
        return self.column or self.name


class _Embedded(_Feature):
    dim: int = Field(16, ge=1, description="Width of the embedding.")
    share_embedding: str | None = Field(
        None, description="Name of the feature whose embedding table and vocabulary are used."
    )
    min_count: int = Field(1, ge=1, description="Tokens seen fewer times in the training window are unknown.")
    max_size: int | None = Field(
        None, ge=1, description="At most this many tokens, the most frequent first; ties by token."
    )

    @property
    def vocabulary(self) -> str:
        """Name of the vocabulary, and of the embedding table, that the feature's ids refer to."""
        return self.share_embedding or self.name


class SparseFeat(_Embedded):
    """One id, a string or an integer. Stored as one int32; null and unknown are 1."""

    kind: Literal["SparseFeat"] = "SparseFeat"


class VarLenSparseFeat(_Embedded):
    """A list of ids, each with a weight if `weighted`. Stored as `maxlen` int32, padded with 0.

    The source is text (`572,92,62`, or `502:0.3443,278:0.0868` if weighted) or an array of ids.
    A list longer than `maxlen` keeps its first entries; histories are newest first.
    """

    kind: Literal["VarLenSparseFeat"] = "VarLenSparseFeat"
    maxlen: int = Field(20, ge=1, description="Entries kept of each list.")
    weighted: bool = Field(False, description="Entries are `id:weight`; a weight scales its embedding.")
    separator: str = Field(",", min_length=1, max_length=1, description="Between the entries of a text.")
    combiner: Literal["sum", "mean", "sqrtn", "max"] = Field(
        "mean", description="How the embeddings become one: sum, sum/Σw, sum/√Σw², or the maximum."
    )

    @property
    def weight_name(self) -> str:
        """Name of the encoded column that holds the weights."""
        return f"{self.name}__weight"


class DenseFeat(_Feature):
    """A number; or, with `pre_embed`, the pretrained vector of an id or of a list of ids.

    Null is 0. An id without a vector counts as the zero vector and, under `mean`, is left out of
    the divisor, so that missing vectors do not shrink the mean of the others.
    """

    kind: Literal["DenseFeat"] = "DenseFeat"
    transform: Literal["raw", "log1p"] = Field(
        "raw", description="raw, or sign(x)·log(1+|x|) for counts with a long tail."
    )
    pre_embed: str | None = Field(None, description="Name of the vectors (a key of `vectors`) to look up.")
    reduce_type: Literal["none", "mean", "sum"] = Field(
        "none", description="How a list's vectors become one; none where the column holds one id."
    )
    separator: str = Field(",", min_length=1, max_length=1, description="Between the entries of a text.")

    @model_validator(mode="after")
    def _options_fit(self) -> DenseFeat:
        if self.pre_embed is None and self.reduce_type != "none":
            raise ValueError("reduce_type goes with pre_embed only; remove it, or name the vectors in pre_embed")
        if self.pre_embed is not None and self.transform != "raw":
            raise ValueError("transform goes with plain numbers only; remove it, or remove pre_embed")
        return self


Feature = Annotated[SparseFeat | VarLenSparseFeat | DenseFeat, Field(discriminator="kind")]
AnyFeature = SparseFeat | VarLenSparseFeat | DenseFeat
EmbeddedFeature = SparseFeat | VarLenSparseFeat


def of_side(features: Mapping[str, AnyFeature], side: Side) -> list[AnyFeature]:
    """Returns the features of one tower, in the order of the settings."""
    return [feature for feature in features.values() if feature.side == side]


def embedded(features: Mapping[str, AnyFeature]) -> list[EmbeddedFeature]:
    """Returns the features that have an embedding, in the order of the settings."""
    return [f for f in features.values() if isinstance(f, (SparseFeat, VarLenSparseFeat))]
