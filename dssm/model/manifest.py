"""What a trained model's folder holds."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from dssm import storage
from dssm.errors import UserError
from dssm.manifest import MANIFEST, SCHEMA_VERSION, ColumnSpec, VocabularySpec


class ModelManifest(BaseModel):
    """Beside user_tower/ and item_tower/, both SavedModels; written last."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    schema_version: int = SCHEMA_VERSION
    model_version: str
    date: str
    samples_build: str
    vocabularies: dict[str, VocabularySpec]
    user_columns: dict[str, ColumnSpec]
    item_columns: dict[str, ColumnSpec]
    vector_dim: int
    ranks: int
    epochs: int
    steps: int
    rows_per_epoch: int
    rows_per_s: float
    loss: list[float]
    auc: list[float | None]


def read_model_manifest(folder: str) -> ModelManifest:
    """Raises: UserError where no finished model is there."""
    path = f"{folder}/{MANIFEST}"
    if not storage.exists(path):
        raise UserError(f"{path}: not found; expected a trained model: run train for this date first")
    return ModelManifest.model_validate_json(storage.read_text(path))
