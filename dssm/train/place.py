"""Where a training is: what a checkpoint says beside the weights."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from dssm.stream.plan import Leg


class Best(BaseModel):
    """The epoch whose weights are kept, by the metric on the validation rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int
    value: float


class Place(BaseModel):
    """A place between two steps of a training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int = Field(0, description="Number of the pass over the rows that is going on, from 0.")
    legs: tuple[Leg, ...] = Field((), description="Of that pass; the last one is going on.")
    steps: int = Field(0, description="Taken in all.")
    loss_sum: float = Field(0.0, description="Over the steps of the pass.")
    losses: tuple[float, ...] = Field((), description="Mean of each pass that has ended.")
    metrics: tuple[dict[str, float | None], ...] = Field((), description="Of the test samples after each of them.")
    validation: tuple[dict[str, float | None], ...] = Field((), description="Of the validation rows, likewise.")
    best: Best | None = None
    took_best: bool = Field(False, description="The epochs are over, and the best one's weights are taken up.")
    stopped: bool = Field(False, description="No epoch follows: the metric has stopped improving.")

    @property
    def steps_of_pass(self) -> int:
        return sum(leg.steps for leg in self.legs)

    def on_leg(self, ranks: int, batch_size: int) -> Place:
        """Returns the place as ranks of this number go on from it: on the leg that they were on, or on a new one."""
        if self.legs and (self.legs[-1].ranks, self.legs[-1].batch_size) == (ranks, batch_size):
            return self
        legs = tuple(leg for leg in self.legs if leg.steps)
        return self.model_copy(update={"legs": (*legs, Leg(ranks, batch_size, 0))})

    def after_steps(self, steps: int, loss_sum: float) -> Place:
        """Returns the place after so many more steps on its last leg, whose losses add up to `loss_sum`."""
        last = self.legs[-1]
        legs = (*self.legs[:-1], Leg(last.ranks, last.batch_size, last.steps + steps))
        return self.model_copy(update={"legs": legs, "steps": self.steps + steps, "loss_sum": self.loss_sum + loss_sum})

    def after_pass(self, metrics: dict[str, float | None], validation: dict[str, float | None] | None) -> Place:
        """Returns the place at the start of the next pass."""
        mean = self.loss_sum / max(self.steps_of_pass, 1)
        return self.model_copy(
            update={
                "epoch": self.epoch + 1,
                "legs": (),
                "loss_sum": 0.0,
                "losses": (*self.losses, mean),
                "metrics": (*self.metrics, metrics),
                "validation": self.validation if validation is None else (*self.validation, validation),
            }
        )
