"""The features of the two towers: the vocabulary that every stage of the pipeline shares.

A feature is described once, in the settings. `samples` encodes it, `manifest` records how it is
stored, `stream` decodes it and `model` builds its input from the same description.

Encoded ids: 0 is padding, 1 is unknown or null, 2 and above are the vocabulary's tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeGuard

from pydantic import Field, FiniteFloat, model_validator

from dssm.encoders import Encoder, Ordered, Pooling, Transformer
from dssm.strict import StrictModel

PADDING_ID = 0
UNKNOWN_ID = 1
FIRST_TOKEN_ID = 2
TIME_VALUES = {"hour": 24, "weekday": 7}  # how many values a feature of the time has

Side = Literal["user", "item"]


class _Feature(StrictModel):
    side: Side = Field(description="The tower that the feature feeds.")
    column: str | None = Field(
        None, description="Column it is read from: of a profile, the catalogue or a history. Default: its own name."
    )
    name: str = Field("", description="Set from the key in `features`; not to be given.")

    @property
    def source_column(self) -> str:
        return self.column or self.name

    @classmethod
    def _unknown(cls, key: str) -> str:
        kinds = (SparseFeat, VarLenSparseFeat, TextFeat, DenseFeat)
        others = [kind.__name__ for kind in kinds if key in kind.model_fields]
        if others:
            return f"'{key}' goes with {' or '.join(others)}; remove it, or set that kind"
        return super()._unknown(key)


class _Embedded(_Feature):
    dim: int = Field(16, ge=1, description="Width of the embedding.")
    share_embedding: str | None = Field(
        None, description="Name of the feature whose embedding table and vocabulary are used."
    )
    min_count: int = Field(1, ge=1, description="Tokens seen fewer times in the training window are unknown.")
    max_size: int | None = Field(
        None, ge=1, description="At most this many tokens, the most frequent first; ties by token."
    )
    hash_buckets: int | None = Field(
        None,
        ge=1,
        description="Tokens are hashed into so many ids instead: none is unknown, and some share an id. Only what a "
        "history goes on with (`then`) is looked up in the catalogue first, and is unknown where that lacks it.",
    )
    l2: FiniteFloat | None = Field(
        None, ge=0, description="λ of λ‖e‖² on the rows of its table that a step looks up; null: model.embedding_l2."
    )

    @property
    def vocabulary(self) -> str:
        """Name of the vocabulary, and of the embedding table, that the feature's ids refer to."""
        return self.share_embedding or self.name

    @model_validator(mode="after")
    def _penalty_is_of_its_own_table(self) -> _Embedded:
        if self.l2 is not None and self.share_embedding is not None:
            raise ValueError(f"l2: {self.l2:g}: the table is of '{self.share_embedding}'; expected there, not here")
        return self

    @model_validator(mode="after")
    def _limits_are_of_counted_tokens(self) -> _Embedded:
        limits = self.changed("min_count", "max_size")
        if not limits:
            return self
        shown = " and ".join(f"{name}: {getattr(self, name)}" for name in limits)
        if self.share_embedding is not None:
            raise ValueError(f"{shown}: the vocabulary is that of '{self.share_embedding}'; expected there, not here")
        for rule in ("hash_buckets", "boundaries", "quantiles", "time"):
            if getattr(self, rule, None) is not None:
                raise ValueError(
                    f"{shown}: {rule} says what the ids are, and no tokens are counted; remove one of the two"
                )
        return self


class SparseFeat(_Embedded):
    """One id, a string or an integer. Stored as one int32; null and unknown are 1.

    With `boundaries` or `quantiles` the column is a number, and the id says between which boundaries it lies:
    value x has the id 2 + (number of boundaries ≤ x). With `time` it is the event's hour or weekday.
    """

    kind: Literal["SparseFeat"] = "SparseFeat"
    boundaries: tuple[FiniteFloat, ...] | None = Field(
        None, min_length=1, description="Of the buckets of a number, ascending."
    )
    quantiles: int | None = Field(
        None, ge=2, le=1000, description="Buckets of a number with equally many training events each."
    )
    time: Literal["hour", "weekday"] | None = Field(
        None, description="Of the event, in the settings' time zone: hour 0…23, weekday 0 (Monday)…6."
    )

    @property
    def is_bucketised(self) -> bool:
        return self.boundaries is not None or self.quantiles is not None

    @model_validator(mode="after")
    def _one_kind_of_id(self) -> SparseFeat:
        given = [
            name
            for name in ("hash_buckets", "boundaries", "quantiles", "time", "share_embedding")
            if getattr(self, name) is not None
        ]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)}: give one of them; each says by itself what the ids are")
        if self.boundaries is not None and list(self.boundaries) != sorted(set(self.boundaries)):
            raise ValueError("boundaries: expected ascending numbers, each once")
        if self.time is not None and self.side != "user":
            raise ValueError("time: the hour and weekday are the request's; expected side: user")
        if self.time is not None and self.column is not None:
            raise ValueError(f"column: '{self.column}' is not read, as time: {self.time} is the event's; remove it")
        return self


class VarLenSparseFeat(_Embedded):
    """A list of ids, each with a weight if `weighted`. Stored as `maxlen` int32, padded with 0.

    The source is text (`572,92,62`, or `502:0.3443,278:0.0868` if weighted) or an array of ids. Over a history,
    `of` names an item feature whose ids are listed instead of the items' own: with `weighted`, each id once
    with its share of all of them, the largest first, which is a user's favourites.
    """

    kind: Literal["VarLenSparseFeat"] = "VarLenSparseFeat"
    maxlen: int = Field(20, ge=1, description="Entries kept of each list.")
    weighted: bool = Field(False, description="Entries are `id:weight`; a weight scales its embedding.")
    weight_column: str | None = Field(
        None, description="Column with the weights, a list as long as the ids'; the ids then stand alone."
    )
    keep: Literal["first", "last", "heaviest"] = Field(
        "first",
        description="Entries of a list longer than maxlen that stay: the first (the newest of a history), the last "
        "(the newest of a list that grew at its end), or those of the largest weights.",
    )
    of: str | None = Field(None, description="Item feature whose ids a history is turned into.")
    separator: str = Field(
        ",",
        min_length=1,
        max_length=1,
        description="Between the entries of a text; with `of`, of one that the raw tower is sent. No other list of a "
        "history has one.",
    )
    combiner: Literal["sum", "mean", "sqrtn", "max"] = Field(
        "mean", description="How the embeddings become one: sum, sum/Σw, sum/√Σw², or the maximum."
    )
    encoder: Encoder = Field(Pooling(), description="How, where the combiner is not enough.")
    entry_dropout: FiniteFloat = Field(
        0.0, ge=0, lt=1, description="Share of the entries that are left out in training, drawn for each row."
    )

    @property
    def weight_name(self) -> str:
        """Name of the encoded column that holds the weights."""
        return f"{self.name}__weight"

    @model_validator(mode="after")
    def _weights_fit(self) -> VarLenSparseFeat:
        if self.weight_column is not None and not self.weighted:
            raise ValueError("weight_column goes with weighted: true; set it")
        if self.keep == "heaviest" and not self.weighted:
            raise ValueError("keep: heaviest goes with weighted: true; set it, or keep: first")
        if self.of is not None and self.weight_column is not None:
            raise ValueError("of counts a history's ids itself; remove weight_column")
        if self.encoder.kind != "pooling" and self.changed("combiner"):
            raise ValueError(
                f"combiner: {self.combiner} goes with encoder: pooling, found {self.encoder.kind}; "
                "remove one of the two"
            )
        heads = self.encoder.heads if isinstance(self.encoder, Transformer) else 1
        if self.dim % heads:
            raise ValueError(f"encoder.heads: {heads} do not divide dim: {self.dim}; set one that does")
        return self

    @model_validator(mode="after")
    def _the_newest_is_read_last(self) -> VarLenSparseFeat:
        if self.keep == "last" and isinstance(self.encoder, Ordered) and self.encoder.order == "newest_first":
            raise ValueError(
                f"keep: last: the newest entry stands last, and encoder {self.encoder.kind} of order: newest_first "
                "would read the list backwards; set encoder.order: newest_last, or keep: first"
            )
        return self


class TextFeat(VarLenSparseFeat):
    """Words as letter trigrams, hashed into buckets, with counts as weights (Huang et al., CIKM 2013).

    `cat` is `#cat#`, which has the trigrams `#ca`, `cat`, `at#`. Words are what stands between white space,
    in lower case; one of a single letter is the trigram `#a#`. Encoded as a weighted VarLenSparseFeat.
    """

    kind: Literal["TextFeat"] = "TextFeat"  # type: ignore[assignment]
    maxlen: int = Field(64, ge=1, description="Different trigrams kept of each text.")
    weighted: Literal[True] = True
    hash_buckets: int = Field(30_000, ge=1, description="Ids that the trigrams are hashed into.")
    combiner: Literal["sum", "mean", "sqrtn", "max"] = "sum"

    @model_validator(mode="after")
    def _counts_are_weights(self) -> TextFeat:
        if self.weight_column is not None or self.of is not None:
            raise ValueError("a text's weights are the counts of its trigrams; remove weight_column and of")
        if self.changed("separator"):
            raise ValueError(f"separator: found {self.separator!r}, but words are parted by white space; remove it")
        return self


class DenseFeat(_Feature):
    """A number; or, with `pre_embed`, the pretrained vector of an id or of a list of ids.

    An id without a vector counts as the zero vector and, under `mean`, is left out of the divisor, so that
    missing vectors do not shrink the mean of the others.
    """

    kind: Literal["DenseFeat"] = "DenseFeat"
    transform: Literal["raw", "log1p", "minmax", "standard"] = Field(
        "raw",
        description="raw; sign(x)·log(1+|x|) for counts with a long tail; (x − min) / (max − min), clipped to 0…1; or "
        "(x − mean) / deviation. The statistics are those of the training window's events.",
    )
    null: FiniteFloat | None = Field(
        None, description="Stands for null before the transform; default: 0, and the mean for minmax and standard."
    )
    time: Literal["days_since_upload"] | None = Field(
        None, description="The event's time less catalogue.upload_time, in days; null where that is."
    )
    pre_embed: str | None = Field(None, description="Name of the vectors (a key of `vectors`) to look up.")
    reduce_type: Literal["none", "mean", "sum"] = Field(
        "none", description="How a list's vectors become one; none where the column holds one id."
    )
    maxlen: int | None = Field(
        None,
        ge=1,
        description="Entries of a list that are looked up, the first that have a vector; null: all. Vectors of "
        "storage: table need it.",
    )
    separator: str = Field(",", min_length=1, max_length=1, description="Between the entries of a text.")
    projection: int | None = Field(
        None, ge=1, description="Width of a trainable projection of the pretrained vector; null: it goes in as it is."
    )

    @property
    def is_number(self) -> bool:
        return self.pre_embed is None

    @model_validator(mode="after")
    def _options_fit(self) -> DenseFeat:
        if self.pre_embed is None and self.reduce_type != "none":
            raise ValueError("reduce_type goes with pre_embed only; remove it, or name the vectors in pre_embed")
        if self.pre_embed is None and self.projection is not None:
            raise ValueError("projection: goes with pre_embed only; remove it, or name the vectors in pre_embed")
        if self.pre_embed is not None and self.transform != "raw":
            raise ValueError("transform goes with plain numbers only; remove it, or remove pre_embed")
        if self.time is not None and (self.pre_embed is not None or self.side != "item"):
            raise ValueError("time: days_since_upload is a plain number of the item; expected side: item, no pre_embed")
        if self.time is not None and self.transform in ("minmax", "standard"):
            raise ValueError(
                f"transform: {self.transform} needs statistics, which the event's time has not; expected raw or log1p"
            )
        if self.time is not None and self.column is not None:
            raise ValueError(
                f"column: '{self.column}' is not read, as time: {self.time} is from catalogue.upload_time; remove it"
            )
        if self.pre_embed is not None and self.null is not None:
            raise ValueError(
                f"null: found {self.null:g}, but an id without a vector counts as the zero vector; "
                "null goes with plain numbers only: remove it"
            )
        if self.reduce_type == "none" and (of_lists := self.changed("maxlen", "separator")):
            shown = " and ".join(f"{name}: {getattr(self, name)!r}" for name in of_lists)
            raise ValueError(
                f"{shown}: the column holds one value a row; remove it, or set pre_embed and reduce_type: mean or sum"
            )
        return self


Feature = Annotated[SparseFeat | VarLenSparseFeat | TextFeat | DenseFeat, Field(discriminator="kind")]
AnyFeature = SparseFeat | VarLenSparseFeat | DenseFeat
EmbeddedFeature = SparseFeat | VarLenSparseFeat


def of_side(features: Mapping[str, AnyFeature], side: Side) -> list[AnyFeature]:
    """Returns the features of one tower, in the order of the settings."""
    return [feature for feature in features.values() if feature.side == side]


def takes_list(feature: AnyFeature) -> TypeGuard[VarLenSparseFeat | DenseFeat]:
    """Whether a row of the feature's column may hold several ids; the text of a TextFeat is one value."""
    if isinstance(feature, DenseFeat):
        return feature.reduce_type != "none"
    return isinstance(feature, VarLenSparseFeat) and not isinstance(feature, TextFeat)


def embedded(features: Mapping[str, AnyFeature]) -> list[EmbeddedFeature]:
    """Returns the features that have an embedding, in the order of the settings."""
    return [f for f in features.values() if isinstance(f, (SparseFeat, VarLenSparseFeat))]
