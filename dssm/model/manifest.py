"""What a trained model's folder holds."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from dssm.manifest import SCHEMA_VERSION, ColumnSpec, VocabularySpec, load_versioned
from dssm.report.card_parts import PredictionCard


class ModelManifest(BaseModel):
    """What stands beside the SavedModels; written last.

    user_tower/ and item_tower/ take encoded columns, user_tower_raw/ and item_tower_raw/ what a service has, and
    scorer/ both vectors, where there is one. checkpoint/ holds the state of the training; model.json and model.html
    are the model's card.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    schema_version: int = SCHEMA_VERSION
    model_version: str
    date: str
    samples_build: str
    vocabularies: dict[str, VocabularySpec]
    frozen_vectors: list[str] = Field(
        default_factory=list,
        description="Vectors that the towers hold: their inputs are row numbers of the tables of samples_build.",
    )
    user_columns: dict[str, ColumnSpec]
    item_columns: dict[str, ColumnSpec]
    vector_dim: int = Field(description="Width of the combined vector.")
    vector_norm: float | None = Field(None, description="Of every vector, where the similarity is cosine.")
    objectives: dict[str, float] = Field(
        default_factory=dict, description="Share of each in the combined vector; its own is the output vector_NAME."
    )
    predictions: dict[str, PredictionCard] = Field(
        default_factory=dict, description="Of each objective: what its vectors predict."
    )
    ranks: int
    epochs: int
    best_epoch: int | None = Field(None, description="Whose weights were taken up, where train.validation chose.")
    steps: int
    rows_per_epoch: int
    rows_per_s: float
    input_wait: float | None = Field(None, description="Share of the steps' time in which rank 0 waited for batches.")
    bytes_per_step: float | None = Field(
        None, description="That rank 0 received a step for gradients and rows of sharded tables; None with one rank."
    )
    expected_bytes_per_step: float | None = Field(None, description="The bound that the plan of the exchange gave.")
    loss: list[float]
    auc: list[float | None]
    metrics: list[dict[str, float | None]] = Field(
        default_factory=list, description="Of the test samples after each epoch, by name."
    )
    validation: list[dict[str, float | None]] = Field(
        default_factory=list, description="Of the rows that train.validation kept back, after each epoch."
    )

    @property
    def scorer_takes(self) -> tuple[str | None, float]:
        """Whose vectors a scorer takes, and what these are divided by before.

        The first objective's own. An only one has none beside the combined ones (None), which are its own times √share.
        """
        if len(self.objectives) > 1:
            return next(iter(self.objectives)), 1.0
        return None, sum(self.objectives.values()) ** 0.5 or 1.0


def read_model_manifest(folder: str) -> ModelManifest:
    """Raises: UserError where no finished model is there, or one of another schema."""
    return load_versioned(ModelManifest, folder, "a trained model", "train")
