"""Learning rates by step. Step 0 is the first, steps − 1 the last."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from dssm.errors import UserError
from dssm.sections.optimizers import Cosine, Exponential, Linear, ScheduleKind

LearningRate = Any  # a float, or a tf.keras.optimizers.schedules.LearningRateSchedule


def build(settings: ScheduleKind, peak: float, steps: int) -> LearningRate:
    """Returns the learning rate, where it is always the same, or the schedule.

    Args:
      settings: `train.schedule`.
      peak: `train.learning_rate`, which is reached at step `warmup_steps`.
      steps: of the whole training; `linear` and `cosine` come to their end at the last.

    Raises:
      UserError: the warm-up is as long as the training or longer.
    """
    warmup = settings.warmup_steps
    if warmup and warmup >= steps:
        raise UserError(
            f"train.schedule.warmup_steps: {warmup}, but the training has {steps} steps and would never reach "
            f"learning_rate; expected fewer than {steps}: lower it, or raise train.epochs"
        )
    after = _after_warmup(settings, peak, steps - 1 - warmup)
    return WarmUp(peak, warmup, after) if warmup else after


def _after_warmup(settings: ScheduleKind, peak: float, span: int) -> LearningRate:
    """Returns the learning rate by step after the warm-up; `span` steps lie between the peak and the last step."""
    schedules = tf.keras.optimizers.schedules
    if isinstance(settings, Exponential):
        return schedules.ExponentialDecay(peak, settings.every, settings.rate)
    if isinstance(settings, Linear):
        return schedules.PolynomialDecay(peak, max(span, 1), peak * settings.final)
    if isinstance(settings, Cosine):
        return schedules.CosineDecay(peak, max(span, 1), settings.final)
    return peak


@tf.keras.utils.register_keras_serializable("dssm")
class WarmUp(tf.keras.optimizers.schedules.LearningRateSchedule):
    """Grows in a line from 0 at step 0 to the peak at step `steps`, from where `after` counts its own steps."""

    def __init__(self, peak: float, steps: int, after: LearningRate) -> None:
        super().__init__()
        self.peak, self.steps, self.after = peak, steps, after

    def __call__(self, step: Any) -> tf.Tensor:
        step = tf.convert_to_tensor(step)
        since = tf.maximum(step - self.steps, 0)
        after = self.after(since) if callable(self.after) else self.after
        return tf.where(step < self.steps, self.peak * tf.cast(step, tf.float32) / self.steps, after)

    def get_config(self) -> dict[str, Any]:
        after = tf.keras.optimizers.schedules.serialize(self.after) if callable(self.after) else self.after
        return {"peak": self.peak, "steps": self.steps, "after": after}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> WarmUp:
        after = config["after"]
        if isinstance(after, dict):
            after = tf.keras.optimizers.schedules.deserialize(after)
        return cls(config["peak"], config["steps"], after)


@tf.keras.utils.register_keras_serializable("dssm")
class Later(tf.keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that begins at step `start`."""

    def __init__(self, schedule: LearningRate, start: int) -> None:
        super().__init__()
        self.schedule, self.start = schedule, start

    def __call__(self, step: Any) -> tf.Tensor:
        return self.schedule(tf.maximum(tf.convert_to_tensor(step) - self.start, 0))

    def get_config(self) -> dict[str, Any]:
        return {"schedule": tf.keras.optimizers.schedules.serialize(self.schedule), "start": self.start}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Later:
        return cls(tf.keras.optimizers.schedules.deserialize(config["schedule"]), config["start"])
