"""Settings of sequence encoders: what makes one vector of a list's embeddings.

Each is built by the module of `dssm.model.encoders` that `builder` names. To add one is to write a subclass of
`EncoderKind` and its builder.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, FiniteFloat, SerializeAsAny, model_validator

from dssm.strict import Kind, choice_of


class EncoderKind(Kind):
    """A family of layers from (batch, entries, dim) embeddings, ids and weights to (batch, width).

    `builder` takes (settings, dim, name) and returns a Keras layer whose call takes `embeddings` (batch, entries,
    dim), `ids` (batch, entries) and `weights` (batch, entries) or None, and gives (batch, width).
    """

    choices: ClassVar[dict[str, type[Kind]]] = {}

    def width(self, dim: int) -> int:
        """Returns the numbers in the encoded vector of a list whose embeddings have `dim`."""
        return dim


class Pooling(EncoderKind):
    """The feature's `combiner`: sum, mean, sqrtn or max."""

    kind: Literal["pooling"] = "pooling"
    builder: ClassVar[str] = "dssm.model.encoders.pooling:build"


class AttentionPooling(EncoderKind):
    """A weighted mean; the weights are a softmax of vᵀ tanh(W e + b) (Yang et al., NAACL 2016), per head."""

    kind: Literal["attention"] = "attention"
    builder: ClassVar[str] = "dssm.model.encoders.attention:build"
    units: int = Field(32, ge=1, description="Rows of W.")
    heads: int = Field(1, ge=1, description="Poolings side by side; the vector is as many times as wide.")

    def width(self, dim: int) -> int:
        return dim * self.heads


class Ordered(EncoderKind):
    """An encoder that depends on the order of the entries."""

    order: Literal["newest_first", "newest_last"] = Field(
        "newest_first",
        description="How the list is stored; it is read from its oldest entry to its newest. A history is "
        "newest_first, a list of keep: last newest_last.",
    )


class Cnn(Ordered):
    """Windows of entries by a convolution, then the maximum over the list (CLSM: Shen et al., CIKM 2014)."""

    kind: Literal["cnn"] = "cnn"
    builder: ClassVar[str] = "dssm.model.encoders.cnn:build"
    filters: int = Field(64, ge=1, description="Width of the encoded vector.")
    window: int = Field(3, ge=1, description="Entries in a window; those beyond the list's ends are zeros.")
    activation: Literal["tanh", "relu"] = "tanh"

    def width(self, dim: int) -> int:
        return self.filters


class _Recurrent(Ordered):
    units: int = Field(64, ge=1, description="Width of the state, and of the encoded vector.")

    def width(self, dim: int) -> int:
        return self.units


class Lstm(_Recurrent):
    """The last state of an LSTM (Hochreiter and Schmidhuber, 1997; LSTM-DSSM: Palangi et al., 2014)."""

    kind: Literal["lstm"] = "lstm"
    builder: ClassVar[str] = "dssm.model.encoders.recurrent:build"


class Gru(_Recurrent):
    """The last state of a GRU (Cho et al., EMNLP 2014)."""

    kind: Literal["gru"] = "gru"
    builder: ClassVar[str] = "dssm.model.encoders.recurrent:build"


class Transformer(Ordered):
    """Self-attention blocks with learned positions and a causal mask; the newest entry's output (SASRec: Kang and
    McAuley, ICDM 2018).
    """

    kind: Literal["transformer"] = "transformer"
    builder: ClassVar[str] = "dssm.model.encoders.transformer:build"
    blocks: int = Field(1, ge=1)
    heads: int = Field(2, ge=1, description="Of each attention; the embedding's width is a multiple.")
    hidden: int = Field(128, ge=1, description="Width of the feed-forward layer.")
    dropout: FiniteFloat = Field(0.0, ge=0, lt=1)
    causal: bool = Field(True, description="An entry attends to itself and to older ones only.")
    pool: Literal["last", "mean"] = Field("last", description="The newest entry's output, or the mean of all.")

    @model_validator(mode="after")
    def _newest_is_last(self) -> Transformer:
        if not self.causal and self.pool == "last":
            raise ValueError("pool: last goes with causal: true; set pool: mean, or causal: true")
        return self


Encoder = Annotated[SerializeAsAny[EncoderKind], BeforeValidator(choice_of(EncoderKind, "pooling"))]
