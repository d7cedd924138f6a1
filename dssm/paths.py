"""Where a run's files lie: runs/NAME/DATE/."""

from __future__ import annotations

from dataclasses import dataclass

from dssm import storage


@dataclass(frozen=True)
class RunPaths:
    """The folders and files of one run."""

    folder: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", storage.absolute(self.folder))

    @property
    def samples(self) -> str:
        return f"{self.folder}/samples"

    def part(self, name: str) -> str:
        """A dataset of build_samples: train, test, users, items or interactions."""
        return f"{self.samples}/{name}"

    @property
    def model(self) -> str:
        return f"{self.folder}/model"

    @property
    def checkpoints(self) -> str:
        """The states of a training that is going on; they are gone when the model is there."""
        return f"{self.folder}/checkpoints"

    @property
    def timeline(self) -> str:
        """Horovod's timeline of a training with --profile, for chrome://tracing."""
        return f"{self.folder}/profile/timeline.json"

    @property
    def logs(self) -> str:
        """TensorBoard's event files."""
        return f"{self.folder}/logs"

    @property
    def evaluation(self) -> str:
        return f"{self.folder}/evaluation.json"

    @property
    def tables(self) -> str:
        """Where the run's published tables lie; see `dssm.published.run_table`."""
        return f"{self.folder}/tables.json"
