"""Optimizers and learning-rate schedules. Each is built by the module of `dssm.model.optimizers` in `builder`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, FiniteFloat, SerializeAsAny, model_validator

from dssm.strict import Kind, StrictModel, choice_of


class OptimizerKind(Kind):
    """A family of Keras optimizers; `builder` takes (settings, learning_rate: float or schedule).

    `plan` asks what one costs; without an answer it says that memory and time are not known.
    """

    choices: ClassVar[dict[str, type[Kind]]] = {}

    def slots(self, dim: int) -> float | None:
        """Returns the numbers of state beside each number of a table of rows `dim` wide; None: not known."""
        return None

    @property
    def moves_whole_tables(self) -> bool | None:
        """Whether a step passes over all rows of a table, looked up or not; None: not known."""
        return None


class Adam(OptimizerKind):
    """Kingma and Ba, ICLR 2015, in the form of the end of section 2: lr · √(1 − β₂ᵗ) / (1 − β₁ᵗ) · m / (√v + ε).

    It moves whole embedding tables every step: the moments of a row that no batch looked up decay, and the row goes on
    by what is left of them. A step's time grows with the tables; see lazy_adam.
    """

    kind: Literal["adam"] = "adam"
    builder: ClassVar[str] = "dssm.model.optimizers.dense:adam"
    beta_1: FiniteFloat = Field(0.9, ge=0, lt=1)
    beta_2: FiniteFloat = Field(0.999, ge=0, lt=1)
    epsilon: FiniteFloat = Field(1e-7, gt=0)

    def slots(self, dim: int) -> float:
        return 2

    @property
    def moves_whole_tables(self) -> bool:
        return True


class LazyAdam(Adam):
    """Adam that touches only the rows of an embedding that the step looked up; others keep value and moments.

    A rare row's moments decay by its own steps, the bias is corrected by the number of all steps. Towers' weights, and
    tables whose gradient is dense, move as with adam.
    """

    kind: Literal["lazy_adam"] = "lazy_adam"  # type: ignore[assignment]
    builder: ClassVar[str] = "dssm.model.optimizers.lazy_adam:build"

    @property
    def moves_whole_tables(self) -> bool:
        return False


class Adagrad(OptimizerKind):
    """Duchi et al., JMLR 2011: lr · g / √(a + ε), a the sum of g²; only the rows that the step looked up change."""

    kind: Literal["adagrad"] = "adagrad"
    builder: ClassVar[str] = "dssm.model.optimizers.dense:adagrad"
    initial_accumulator: FiniteFloat = Field(0.1, ge=0)
    epsilon: FiniteFloat = Field(1e-7, gt=0)

    def slots(self, dim: int) -> float:
        return 1

    @property
    def moves_whole_tables(self) -> bool:
        return False


class RowWiseAdagrad(Adagrad):
    """Adagrad with one accumulator for each row of an embedding: the sum over steps of the mean of the row's g².

    State of one number a row instead of dim, as in DLRM; other weights have one each.
    """

    kind: Literal["rowwise_adagrad"] = "rowwise_adagrad"  # type: ignore[assignment]
    builder: ClassVar[str] = "dssm.model.optimizers.rowwise_adagrad:build"

    def slots(self, dim: int) -> float:
        return 1 / dim


class Sgd(OptimizerKind):
    """Gradient descent. Without momentum it has no state, and only the rows that the step looked up change.

    With momentum it moves whole embedding tables every step: velocities of rows that no batch looked up decay, and
    the rows go on by them.
    """

    kind: Literal["sgd"] = "sgd"
    builder: ClassVar[str] = "dssm.model.optimizers.dense:sgd"
    momentum: FiniteFloat = Field(0.0, ge=0, lt=1)
    nesterov: bool = False

    def slots(self, dim: int) -> float:
        return int(self.momentum > 0)

    @property
    def moves_whole_tables(self) -> bool:
        return self.momentum > 0

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Sgd:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov: goes with momentum above 0; set it, or remove nesterov")
        return self


class RmsProp(OptimizerKind):
    """Tieleman and Hinton, 2012: lr · g / √(s + ε), s the running mean of g².

    Of rows that no batch looked up s decays every step, so that a rare row takes larger steps when it comes again;
    their values stay, but with momentum they move on, too. A step's time grows with the tables.
    """

    kind: Literal["rmsprop"] = "rmsprop"
    builder: ClassVar[str] = "dssm.model.optimizers.dense:rmsprop"
    decay: FiniteFloat = Field(0.9, ge=0, lt=1)
    momentum: FiniteFloat = Field(0.0, ge=0, lt=1)
    epsilon: FiniteFloat = Field(1e-7, gt=0)

    def slots(self, dim: int) -> float:
        return 1 + (self.momentum > 0)

    @property
    def moves_whole_tables(self) -> bool:
        return True


Optimizer = Annotated[SerializeAsAny[OptimizerKind], BeforeValidator(choice_of(OptimizerKind, "adam"))]


class ScheduleKind(Kind):
    """A family of learning rates by step; `builder` takes (settings, peak learning rate, steps of the training)."""

    choices: ClassVar[dict[str, type[Kind]]] = {}
    warmup_steps: int = Field(0, ge=0, description="Steps in which the rate grows from 0 to learning_rate, in a line.")


class Constant(ScheduleKind):
    kind: Literal["constant"] = "constant"
    builder: ClassVar[str] = "dssm.model.optimizers.schedules:build"


class Linear(ScheduleKind):
    """Falls in a line to `final` × learning_rate at the last step."""

    kind: Literal["linear"] = "linear"
    builder: ClassVar[str] = "dssm.model.optimizers.schedules:build"
    final: FiniteFloat = Field(0.0, ge=0, le=1)


class Cosine(ScheduleKind):
    """Falls along half a cosine to `final` × learning_rate at the last step (Loshchilov and Hutter, ICLR 2017)."""

    kind: Literal["cosine"] = "cosine"
    builder: ClassVar[str] = "dssm.model.optimizers.schedules:build"
    final: FiniteFloat = Field(0.0, ge=0, le=1)


class Exponential(ScheduleKind):
    """learning_rate × rate^(steps after warm-up / every)."""

    kind: Literal["exponential"] = "exponential"
    builder: ClassVar[str] = "dssm.model.optimizers.schedules:build"
    rate: FiniteFloat = Field(0.96, gt=0, le=1)
    every: int = Field(1000, ge=1, description="Steps.")


Schedule = Annotated[SerializeAsAny[ScheduleKind], BeforeValidator(choice_of(ScheduleKind, "constant"))]


class Clip(StrictModel):
    """Gradient clipping, after the ranks' gradients are summed."""

    by: Literal["value", "norm", "global_norm"] = Field(
        "global_norm", description="Each number, each variable's norm, or the norm of all gradients together."
    )
    limit: FiniteFloat = Field(gt=0)
