"""What a rank hands back to the launcher."""

from __future__ import annotations

import contextlib
import sys

from pydantic import BaseModel, ConfigDict

from dssm import storage
from dssm.errors import UserError
from dssm.model.manifest import ModelManifest

FAULT = ".fault"
FAULTS_TO = "DSSM_FAULTS_TO"  # the environment of ranks names the folder


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


def leave_fault(folder: str | None, name: str, error: UserError) -> None:
    """Leaves a process's fault for the job, which sees a lost rank where the others do not share the fault.

    Args: folder: of this launch: ranks of an earlier one may live on. None: nobody asks.
    """
    print(f"{name}: {error}", file=sys.stderr, flush=True)  # the host may not share the folder
    if folder:
        with contextlib.suppress(OSError, UserError):
            storage.write_text(f"{folder}/{name}{FAULT}", str(error))


def fault_left(folder: str) -> str | None:
    """Returns what a process of this launch has left; where several have, of one. None where that can't be read."""
    with contextlib.suppress(OSError):
        if storage.exists(folder):
            left = storage.file_names(folder, FAULT, fresh=True)
            return storage.read_text(f"{folder}/{left[0]}") if left else None
    return None
