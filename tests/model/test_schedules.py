from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from dssm.errors import UserError
from dssm.model.optimizers.schedules import WarmUp
from dssm.sections.optimizers import Constant, Cosine, Exponential, Linear, ScheduleKind

PEAK = 0.02


def _expected(kind: ScheduleKind, steps: int, step: int) -> float:
    """The rate of a step, from the settings' docstrings."""
    if step < kind.warmup_steps:
        return PEAK * step / kind.warmup_steps
    since, span = step - kind.warmup_steps, steps - 1 - kind.warmup_steps
    if isinstance(kind, Exponential):
        return PEAK * kind.rate ** (since / kind.every)
    if isinstance(kind, Constant) or not span:
        return PEAK
    progress = since / span
    left = 1 - progress if isinstance(kind, Linear) else (1 + math.cos(math.pi * progress)) / 2
    return PEAK * (kind.final + (1 - kind.final) * left)


def _rate(schedule: object, step: int) -> float:
    return float(schedule(tf.constant(step, tf.int64))) if callable(schedule) else float(schedule)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from([Constant(), Linear(), Linear(final=0.1), Cosine(), Cosine(final=0.3), Exponential(every=7)]),
    warmup=st.integers(0, 30),
    more=st.integers(1, 40),
    share=st.floats(0, 1),
)
def test_every_steps_rate(kind, warmup, more, share):
    kind = kind.model_copy(update={"warmup_steps": warmup})
    steps = warmup + more
    schedule = kind.build(PEAK, steps)
    for step in {0, warmup, steps - 1, round(share * (steps - 1))}:
        assert _rate(schedule, step) == pytest.approx(_expected(kind, steps, step), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize(
    ("kind", "rates"),
    [
        (Constant(warmup_steps=4), {0: 0.0, 1: 0.005, 3: 0.015, 4: 0.02, 5: 0.02, 104: 0.02}),
        (Linear(warmup_steps=4), {0: 0.0, 2: 0.01, 4: 0.02, 54: 0.01, 104: 0.0}),
        (Linear(final=0.5), {0: 0.02, 52: 0.015, 104: 0.01}),
        (Cosine(warmup_steps=4, final=0.1), {0: 0.0, 4: 0.02, 54: 0.011, 104: 0.002}),
        (Exponential(warmup_steps=4, rate=0.25, every=50), {0: 0.0, 4: 0.02, 29: 0.01, 54: 0.005, 104: 0.00125}),
    ],
)
def test_rates_of_a_training_of_105_steps(kind: ScheduleKind, rates: dict[int, float]):
    schedule = kind.build(PEAK, 105)
    np.testing.assert_allclose([_rate(schedule, step) for step in rates], list(rates.values()), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("kind", "final"), [(Linear(final=0.25), 0.25), (Cosine(final=0.25), 0.25), (Constant(), 1)])
def test_after_the_last_step_the_rate_stays(kind: ScheduleKind, final: float):
    assert _rate(kind.build(PEAK, 10), 25) == pytest.approx(PEAK * final)


def test_a_constant_rate_without_warm_up_is_a_number():
    assert Constant().build(PEAK, 10) == PEAK


@pytest.mark.parametrize("kind", [Linear(), Cosine(), Exponential(), Constant()])
def test_a_training_of_one_step_has_the_peak(kind: ScheduleKind):
    assert _rate(kind.build(PEAK, 1), 0) == pytest.approx(PEAK)


@pytest.mark.parametrize("steps", [0, 1, 4, 5])
def test_a_warm_up_as_long_as_the_training_is_refused(steps: int):
    with pytest.raises(UserError, match=rf"^train.schedule.warmup_steps: 5, but the training has {steps} steps"):
        Constant(warmup_steps=5).build(PEAK, steps)


@pytest.mark.parametrize(
    "kind", [Constant(warmup_steps=3), Linear(warmup_steps=3), Cosine(), Exponential(warmup_steps=3)]
)
def test_a_schedule_comes_back_from_its_config(kind: ScheduleKind):
    schedules = tf.keras.optimizers.schedules
    schedule = kind.build(PEAK, 20)
    again = schedules.deserialize(schedules.serialize(schedule))
    assert type(again) is type(schedule)
    assert [_rate(again, step) for step in range(20)] == [_rate(schedule, step) for step in range(20)]
    optimizer = tf.keras.optimizers.SGD(schedule)
    restored = tf.keras.optimizers.deserialize(tf.keras.optimizers.serialize(optimizer))
    assert restored.get_config() == optimizer.get_config()


def test_a_schedule_works_in_a_graph_and_with_python_numbers():
    schedule = WarmUp(PEAK, 4, PEAK)
    assert float(tf.function(schedule)(tf.constant(2, tf.int64))) == pytest.approx(PEAK / 2)
    assert float(schedule(1)) == pytest.approx(PEAK / 4)
    assert float(schedule(tf.Variable(9, dtype=tf.int64))) == pytest.approx(PEAK)
