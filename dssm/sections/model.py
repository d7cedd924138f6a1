"""The model: towers, objectives, similarity.

Each tower is built by the module of `dssm.model.towers` that `builder` names. To add one is to write a subclass of
`TowerKind` and its builder.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, FiniteFloat, PositiveInt, SerializeAsAny, model_validator

from dssm.sections.losses import Loss
from dssm.strict import Kind, StrictModel, choice_of

Activation = Literal["linear", "relu", "leaky_relu", "prelu", "dice", "tanh", "sigmoid", "elu", "selu", "gelu", "swish"]
L2_OF_TOWER = "λ of λ‖W‖², on each kernel of the tower's own layers; its features' encoders and projections have none."


class TowerKind(Kind):
    """A family of functions from a side's features to its vectors.

    `builder` takes (settings, features: Sequence[FeatureBlock], context: TowerContext) of `dssm.model.towers` and
    returns {objective: (batch, width)}.
    """

    choices: ClassVar[dict[str, type[Kind]]] = {}

    def width(self, vector_dim: int) -> int:
        """Returns the numbers in the vector that it makes for an objective."""
        return vector_dim

    def unit_vectors(self) -> int:
        """Returns how many vectors of unit norm, side by side, that is under cosine."""
        return 1


class Dnn(TowerKind):
    """Dense layers over the features side by side."""

    kind: Literal["dnn"] = "dnn"
    builder: ClassVar[str] = "dssm.model.towers.dnn:build"
    layers: tuple[PositiveInt, ...] = Field((256, 128), description="Widths of the hidden layers.")
    activation: Activation | tuple[Activation, ...] = Field("relu", description="Of all hidden layers, or of each.")
    last_activation: Activation = Field("linear", description="Of the vector, before its norm.")
    batch_norm: bool = Field(False, description="Before the activation of each hidden layer; over all ranks' rows.")
    dropout: FiniteFloat = Field(0.0, ge=0, lt=1, description="Share of each hidden layer that is dropped in training.")
    initial_deviation: FiniteFloat | None = Field(
        None, gt=0, description="Of the kernels, normal; null: uniform by fan-in and fan-out (Glorot)."
    )
    l2: FiniteFloat = Field(0.0, ge=0, description=L2_OF_TOWER)
    residual: tuple[str, ...] = Field(
        (),
        description="Features of this side, as wide as vector_dim when encoded, that are added to the vector "
        "before its norm.",
    )

    @model_validator(mode="after")
    def _options_of_layers(self) -> Dnn:
        if not self.layers and (given := self.changed("activation", "batch_norm", "dropout")):
            raise ValueError(f"{given[0]}: goes with hidden layers, found layers: []; remove it, or set their widths")
        if isinstance(self.activation, tuple) and len(self.activation) != len(self.layers):
            raise ValueError(
                f"activation: found {len(self.activation)} for {len(self.layers)} layers; expected one, or one for each"
            )
        return self


class Senet(Dnn):
    """Features re-weighted by squeeze and excitation, then dense layers (FiBiNET: Huang et al., RecSys 2019)."""

    kind: Literal["senet"] = "senet"  # type: ignore[assignment]
    builder: ClassVar[str] = "dssm.model.towers.senet:build"
    reduction: int = Field(3, ge=1, description="r: the hidden layer of the excitation has ⌈features / r⌉ units.")


class Fm(TowerKind):
    """The sum of the features' embeddings: its inner product is the part of a factorization machine between the
    two sides (Rendle, ICDM 2010). Features of another width than `dim` are projected to it.
    """

    kind: Literal["fm"] = "fm"
    builder: ClassVar[str] = "dssm.model.towers.fm:build"
    dim: int | None = Field(None, ge=1, description="Width of the vector; null: model.vector_dim.")
    l2: FiniteFloat = Field(0.0, ge=0, description="λ of λ‖W‖², on the projections.")

    def width(self, vector_dim: int) -> int:
        return self.dim or vector_dim


class Cross(TowerKind):
    """A cross network over the features side by side: x ← x₀ ∘ (W x + b) + x (DCN V2: Wang et al., WWW 2021)."""

    kind: Literal["cross"] = "cross"
    builder: ClassVar[str] = "dssm.model.towers.cross:build"
    depth: int = Field(2, ge=1, description="Cross layers.")
    rank: int | None = Field(None, ge=1, description="Of W = U V; null: full.")
    l2: FiniteFloat = Field(0.0, ge=0, description=L2_OF_TOWER)


class Parallel(TowerKind):
    """Towers side by side; the score is the sum of their similarities, the vector their vectors one after another."""

    kind: Literal["parallel"] = "parallel"
    builder: ClassVar[str] = "dssm.model.towers.parallel:build"
    channels: dict[str, Tower] = Field(min_length=1, description="Towers by name; the other side has the same names.")

    def width(self, vector_dim: int) -> int:
        return sum(channel.width(vector_dim) for channel in self.channels.values())

    def unit_vectors(self) -> int:
        return sum(channel.unit_vectors() for channel in self.channels.values())


class MultiObjective(TowerKind):
    """Shared hidden layers, then a tower for each of model.objectives."""

    kind: Literal["multi_objective"] = "multi_objective"
    builder: ClassVar[str] = "dssm.model.towers.multi_objective:build"
    shared: Tower = Field(Dnn(layers=(256,)), description="A dnn or senet: its last hidden layer is what is shared.")
    head: Tower = Field(Dnn(layers=(128,)), description="Over the shared layer; one of its own for each objective.")

    def width(self, vector_dim: int) -> int:
        return self.head.width(vector_dim)

    def unit_vectors(self) -> int:
        return self.head.unit_vectors()

    @model_validator(mode="after")
    def _shared_has_hidden_layers(self) -> MultiObjective:
        if not isinstance(self.shared, Dnn) or not self.shared.layers:
            raise ValueError("shared: expected a dnn or senet with at least one layer")
        if self.shared.changed("residual", "last_activation"):
            raise ValueError("shared: makes no vector; give residual and last_activation to head")
        return self


Tower = Annotated[SerializeAsAny[TowerKind], BeforeValidator(choice_of(TowerKind, "dnn"))]


def _has_heads(tower: TowerKind) -> bool:
    """Whether a tower, or a channel of it, makes a vector of its own for each objective."""
    if isinstance(tower, Parallel):
        return any(_has_heads(channel) for channel in tower.channels.values())
    return isinstance(tower, MultiObjective)


class Scorer(StrictModel):
    """A head over both vectors, for re-scoring what was retrieved, which `recommend` and `serve` do on request.

    It is trained beside the retrieval's loss. Its inputs are u, v, u∘v and |u − v|, its loss is weighted_bce on the
    batch's rows and their sampled negatives.
    """

    kind: Literal["logistic", "shallow"] = Field("logistic", description="Logistic regression, or one with layers.")
    layers: tuple[PositiveInt, ...] = Field((64,), description="Of shallow.")
    weight: FiniteFloat = Field(1.0, gt=0, description="Factor on its loss.")

    @model_validator(mode="after")
    def _layers_of_shallow(self) -> Scorer:
        if self.kind == "logistic" and self.changed("layers"):
            raise ValueError("layers: goes with kind: shallow; remove it, or set that")
        return self


class Objective(StrictModel):
    label: str = Field(
        "label",
        description="'label', the sources' own, or one of their targets; an objective of a target's name gives it.",
    )
    loss: Loss | None = Field(None, description="Default: train.loss.")
    weight: FiniteFloat = Field(1.0, gt=0, description="Factor on its loss; goes with objective_weights: fixed.")
    share: FiniteFloat = Field(1.0, ge=0, description="Factor on its score in the combined vector's; 0 leaves it out.")


class EmbeddingTables(StrictModel):
    """Where the embeddings' tables lie."""

    placement: Literal["replicated", "sharded"] = Field(
        "replicated",
        description="Replicated: each rank holds every table whole. Sharded: of N ranks, rank r holds the rows r, "
        "r + N, … of each large table with their optimizer's state, and a step fetches the rows that it looks up; "
        "for tables larger than a worker's memory.",
    )
    min_rows: int = Field(
        100_000, ge=1, description="Of sharded: tables with fewer rows stay whole, as fetching has its price."
    )

    def shards(self, rows: int) -> bool:
        """Returns whether a table of so many rows is spread over the ranks."""
        return self.placement == "sharded" and rows >= self.min_rows

    @model_validator(mode="after")
    def _min_rows_of_sharded(self) -> EmbeddingTables:
        if self.placement == "replicated" and self.changed("min_rows"):
            raise ValueError("min_rows: goes with placement: sharded; remove it, or set that")
        return self


class Model(StrictModel):
    user_tower: Tower = Dnn()
    item_tower: Tower = Dnn()
    vector_dim: int = Field(64, ge=1, description="Width of both towers' vectors.")
    similarity: Literal["cosine", "inner_product"] = Field(
        "cosine", description="Cosine: vectors have unit norm. Inner product: they are as the towers give them."
    )
    temperature: FiniteFloat | None = Field(
        None, gt=0, description="τ of s = ⟨u, v⟩ / τ; null: 0.1 for cosine, 1 for the inner product."
    )
    score_bias: bool = Field(False, description="A learned number is added to each score of a pointwise loss.")
    scorer: Scorer | None = None
    objectives: dict[str, Objective] = Field(
        default_factory=dict,
        description="By name; several go with towers of kind multi_objective, and differ in their label or loss. "
        "Default: the label alone.",
    )
    objective_weights: Literal["fixed", "uncertainty"] = Field(
        "fixed",
        description="Losses are summed with their weights, or with learned ones: e⁻ˢ L + s (Kendall et al., CVPR "
        "2018), where s settles at log L; a step without a row that counts for an objective leaves its s out.",
    )
    embedding: EmbeddingTables = EmbeddingTables()
    embedding_deviation: FiniteFloat | None = Field(
        None, gt=0, description="Of the embeddings' initial values, normal; null: 1/√dim."
    )
    embedding_l2: FiniteFloat = Field(
        0.0,
        ge=0,
        description="λ of λ‖e‖², on the embeddings that a step's rows look up, each once, where a feature has no `l2` "
        "of its own. No other weight of a feature has a penalty: neither its encoder nor its projection.",
    )

    @property
    def tau(self) -> float:
        if self.temperature is not None:
            return self.temperature
        return 0.1 if self.similarity == "cosine" else 1.0

    @property
    def all_objectives(self) -> dict[str, Objective]:
        """The objectives, or the one that there is without any."""
        return self.objectives or {"label": Objective()}

    @model_validator(mode="after")
    def _towers_fit(self) -> Model:
        self._check_same_width("", self.user_tower, self.item_tower)
        has_heads = _has_heads(self.user_tower) or _has_heads(self.item_tower)
        if not self.objectives and has_heads:
            raise ValueError("objectives: a multi_objective tower needs them; name at least one")
        if len(self.objectives) > 1 and not has_heads:
            raise ValueError("objectives: several go with a tower of kind multi_objective; set it, or name one alone")
        if "scorer" in self.objectives:
            raise ValueError("objectives.scorer: the name is the scorer's among the losses; expected another")
        if self.objectives and not any(objective.share for objective in self.objectives.values()):
            raise ValueError("objectives: all have share: 0, which leaves no combined vector; give one a share")
        return self

    @model_validator(mode="after")
    def _weights_are_given_or_learned(self) -> Model:
        if self.objective_weights == "fixed":
            return self
        if len(self.objectives) < 2:
            raise ValueError("objective_weights: uncertainty weighs several objectives; name them, or set fixed")
        for name, objective in self.objectives.items():
            if objective.changed("weight"):
                raise ValueError(
                    f"objectives.{name}.weight: found {objective.weight:g}, but of e⁻ˢ w L + s the learned s settles "
                    "at log(w L), which cancels it; remove it, or set objective_weights: fixed"
                )
        return self

    def _check_same_width(self, place: str, user: TowerKind, item: TowerKind) -> None:
        """Checks that each similarity is of two vectors of the same width."""
        user, item = (t.head if isinstance(t, MultiObjective) else t for t in (user, item))
        if isinstance(user, Parallel) != isinstance(item, Parallel):
            raise ValueError(
                f"user_tower{place} is {user.kind}, item_tower{place} is {item.kind}; "
                "expected parallel for both or for none"
            )
        if isinstance(user, Parallel) and isinstance(item, Parallel):
            if list(user.channels) != list(item.channels):
                raise ValueError(
                    f"user_tower{place}.channels: found {', '.join(user.channels)}; item_tower{place}.channels has "
                    f"{', '.join(item.channels)}: expected the same names in the same order"
                )
            for name, channel in user.channels.items():
                self._check_same_width(f"{place}.channels.{name}", channel, item.channels[name])
            return
        widths = [tower.width(self.vector_dim) for tower in (user, item)]
        if widths[0] != widths[1]:
            raise ValueError(
                f"user_tower{place} makes vectors {widths[0]} wide, item_tower{place} {widths[1]}; expected the same"
            )
