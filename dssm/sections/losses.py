"""Losses: which rows a positive is compared with, and how.

Each is built by the module of `dssm.model.losses` that `builder` names. To add one is to write a subclass of
`LossKind` and its builder.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, FiniteFloat, SerializeAsAny, field_validator, model_validator

from dssm.strict import Kind, StrictModel, choice_of


class StreamingFrequency(StrictModel):
    """An item's sampling probability from the steps between its appearances (Yi et al., RecSys 2019, algorithm 2)."""

    buckets: int = Field(2**20, ge=1, description="H, of each hash function.")
    hashes: int = Field(2, ge=1, le=16, description="Hash functions; the largest estimated gap counts.")
    rate: FiniteFloat = Field(0.01, gt=0, le=1, description="α of the moving average of gaps.")
    initial_gap: FiniteFloat = Field(100.0, gt=0, description="Steps; of an item that was not seen yet.")


class LossKind(Kind):
    """A family of functions from a batch's scores to losses and weights of rows.

    `builder` takes (settings, `dssm.model.losses.Scored`) and returns the losses and weights, each (rows,).
    The properties say what `Scored` must hold for it, and what the samples must offer.
    """

    choices: ClassVar[dict[str, type[Kind]]] = {}

    @property
    def reads_candidates(self) -> bool:
        """Whether rows are compared with other rows' items."""
        return False

    @property
    def reads_sampled(self) -> bool:
        """Whether rows are compared with the negatives of samples.negatives."""
        return False

    @property
    def takes_sampled(self) -> bool:
        """Whether negatives of samples.negatives are read where there are any."""
        return self.reads_sampled

    @property
    def is_pointwise(self) -> bool:
        """Whether a row's own score has a meaning of its own: a rating, see `rating`, or else a log-odds."""
        return self.rating is not None

    @property
    def rating(self) -> Literal["linear", "sigmoid"] | None:
        """How a row's score gives a rating, by whose squared error the loss is measured: it is the score itself, or its
        sigmoid. None: the score is none. A log-odds is measured by log loss, accuracy, precision and recall.
        """
        return None

    @property
    def is_log_odds(self) -> bool:
        """Whether a row's own score is the log-odds that it is a positive."""
        return self.is_pointwise and self.rating is None

    @property
    def draws_all_rows(self) -> bool:
        """Whether rows without a positive label are targets and candidates too."""
        return False

    @property
    def joins_ranks(self) -> bool:
        """Whether candidates are those of all ranks."""
        return True

    @property
    def reads_shares(self) -> bool:
        """Whether the chance of a candidate to be drawn is its item's share of the training rows."""
        return False

    @property
    def catalogue_items(self) -> int:
        """Items that each rank draws uniformly from the catalogue for each step, as further candidates."""
        return 0

    @property
    def streaming(self) -> StreamingFrequency | None:
        """The streaming estimate of items' frequency, where the loss needs one."""
        return None


class WeightedBce(LossKind):
    """−[w₊ y log p + (1 − y) log(1 − p)], p = sigmoid(s); sampled negatives are rows with y = 0."""

    kind: Literal["weighted_bce"] = "weighted_bce"
    builder: ClassVar[str] = "dssm.model.losses.pointwise:weighted_bce_rows"
    positive_weight: FiniteFloat = Field(1.0, gt=0, description="w₊.")

    @property
    def takes_sampled(self) -> bool:
        return True

    @property
    def is_pointwise(self) -> bool:
        return True


class Regression(LossKind):
    """(prediction − y)², y scaled to 0…1; rows whose y is not known weigh nothing."""

    kind: Literal["regression"] = "regression"
    builder: ClassVar[str] = "dssm.model.losses.pointwise:regression_rows"
    prediction: Literal["linear", "sigmoid"] = Field("linear", description="The score itself, or its sigmoid.")

    @property
    def rating(self) -> Literal["linear", "sigmoid"]:
        return self.prediction


class InBatchSoftmax(LossKind):
    """−log softmax over the batch's items of s − log q, s = ⟨u, v⟩ / τ (Yi et al., RecSys 2019, eq. 3–5)."""

    kind: Literal["in_batch_softmax"] = "in_batch_softmax"
    builder: ClassVar[str] = "dssm.model.losses.in_batch:in_batch_softmax_rows"
    candidates: Literal["all_ranks", "rank"] = Field(
        "all_ranks", description="Whose items are the in-batch candidates."
    )
    logq: Literal["frequency", "batch", "streaming", "off"] = Field(
        "frequency",
        description="Sampling probability q of the correction: the item's share of the training rows that are "
        "positives by the sources' own label (with impression_weight, of all that weigh), its share of the batch, the "
        "streaming estimate, or no correction. An objective with another label takes one of the last three.",
    )
    logq_strength: FiniteFloat = Field(
        1.0, ge=0, le=1, description="Factor on log q; below 1, popular items are pushed down."
    )
    mask_accidental_hits: bool = Field(
        True,
        description="Leave out candidates that are the row's own item again, or another target of its user "
        "among the candidates; with impression_weight above 0 its impressions are targets, too. Clicks of its user "
        "that are in no row of the batch are not known here.",
    )
    impression_weight: FiniteFloat = Field(
        0.0,
        ge=0,
        le=1,
        description="Factor on the weight of rows without a positive label, which are targets and candidates too "
        "where it is above 0.",
    )
    frequency: StreamingFrequency = Field(StreamingFrequency(), description="Goes with logq: streaming.")

    @field_validator("logq", mode="before")
    @classmethod
    def _off_without_quotes(cls, given: object) -> object:
        """YAML 1.1 reads a bare off as false."""
        return "off" if given is False else given

    @property
    def reads_candidates(self) -> bool:
        return True

    @property
    def draws_all_rows(self) -> bool:
        return self.impression_weight > 0

    @property
    def joins_ranks(self) -> bool:
        return self.candidates == "all_ranks"

    @property
    def reads_shares(self) -> bool:
        return self.logq == "frequency"

    @property
    def streaming(self) -> StreamingFrequency | None:
        return self.frequency if self.logq == "streaming" else None

    @model_validator(mode="after")
    def _options_of_logq(self) -> InBatchSoftmax:
        if self.logq == "off" and self.changed("logq_strength"):
            raise ValueError(
                f"logq_strength: {self.logq_strength:g} with logq: off; remove it, or set logq: frequency, batch or "
                "streaming"
            )
        if self.logq != "streaming" and self.changed("frequency"):
            raise ValueError(f"frequency: goes with logq: streaming, found logq: {self.logq}; remove it, or set that")
        return self


class MixedNegative(InBatchSoftmax):
    """In-batch candidates and items drawn uniformly from the catalogue; q is of the mixture (Yang et al., WWW 2020)."""

    kind: Literal["mixed_negative"] = "mixed_negative"  # type: ignore[assignment]
    builder: ClassVar[str] = "dssm.model.losses.in_batch:in_batch_softmax_rows"
    uniform: int = Field(
        512,
        ge=1,
        description="M, items a rank and step. Of several objectives each takes the first of those that the largest M "
        "draws.",
    )

    @property
    def catalogue_items(self) -> int:
        return self.uniform


class SampledSoftmax(LossKind):
    """−log softmax over a positive and its sampled negatives.

    With the correction it is that of the whole catalogue, estimated by importance sampling: each negative's
    logit less log(K q) (Bengio and Senécal, 2003). Without it, and with unclicked impressions as negatives, it is
    the loss of the first DSSM (Huang et al., CIKM 2013), whose smoothing factor γ is 1/τ.
    """

    kind: Literal["sampled_softmax"] = "sampled_softmax"
    builder: ClassVar[str] = "dssm.model.losses.sampled:sampled_softmax_rows"
    correction: bool = Field(True, description="Subtract log(K q) from the negatives' logits.")

    @property
    def reads_sampled(self) -> bool:
        return True


class _Pairwise(LossKind):
    negatives: Literal["batch", "sampled"] = Field(
        "sampled", description="The other rows' items, or those of samples.negatives."
    )
    candidates: Literal["all_ranks", "rank"] = Field("all_ranks", description="Of negatives: batch, whose items.")
    mask_accidental_hits: bool = Field(
        True,
        description="Of negatives: batch; leave out the row's own item, and its user's other positives in the batch.",
    )

    @property
    def reads_candidates(self) -> bool:
        return self.negatives == "batch"

    @property
    def joins_ranks(self) -> bool:
        return self.candidates == "all_ranks"

    @property
    def reads_sampled(self) -> bool:
        return self.negatives == "sampled"

    @model_validator(mode="after")
    def _options_of_negatives(self) -> _Pairwise:
        if self.negatives == "sampled" and (given := self.changed("candidates", "mask_accidental_hits")):
            raise ValueError(f"{given[0]}: goes with negatives: batch; remove it, or set that")
        return self


class Hinge(_Pairwise):
    """max(0, m − s₊ + s₋), the mean over a positive's negatives."""

    kind: Literal["hinge"] = "hinge"
    builder: ClassVar[str] = "dssm.model.losses.pairwise:hinge_rows"
    margin: FiniteFloat = Field(1.0, gt=0, description="m, in units of the score, which is divided by τ.")


class Bpr(_Pairwise):
    """−log σ(s₊ − s₋), the mean over a positive's negatives (Rendle et al., UAI 2009)."""

    kind: Literal["bpr"] = "bpr"
    builder: ClassVar[str] = "dssm.model.losses.pairwise:bpr_rows"


Loss = Annotated[SerializeAsAny[LossKind], BeforeValidator(choice_of(LossKind, "in_batch_softmax"))]
