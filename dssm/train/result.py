"""What a rank hands back to the launcher."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from dssm.errors import UserError
from dssm.model.manifest import ModelManifest


class TrainResult(BaseModel):
    """The trained model's manifest or, at a fault of the user's, its message."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelManifest | None = None
    error: str | None = None

    def unwrap(self) -> ModelManifest:
        """Raises: UserError where the training ended with one."""
        if self.model is None:
            raise UserError(self.error or "train: no result")
        return self.model
