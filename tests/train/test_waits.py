"""How long a step waits is told once for each moment, whatever waits beside it."""

from __future__ import annotations

import threading
import time

import tensorflow as tf

from dssm.train.waits import note_wait, timing_waits

COMES_S = 1.5


def _waits(*ready_s: float) -> tuple[list[float], float]:
    """Waits for several others at once, which send after COMES_S.

    Args: ready_s: when each part of this rank's own is ready.
    Returns: the waits, and the time that all took.
    """
    coming = [(tf.queue.FIFOQueue(9, tf.float32, [()]), s) for ready in ready_s for s in (ready, COMES_S)]

    @tf.function
    def step() -> list[tf.Tensor]:
        arrived = [queue.dequeue() for queue, _ in coming]  # as a collective, it keeps no thread while it waits
        with timing_waits(True) as waits:
            for own, made in zip(arrived[::2], arrived[1::2], strict=True):
                note_wait([own, None], made)
        return waits

    for queue, _ in coming:
        queue.enqueue(0.0)
    step()  # traces
    for queue, seconds in coming:
        threading.Timer(seconds, queue.enqueue, [0.0]).start()
    started = time.monotonic()
    found = [float(wait) for wait in step()]
    return found, time.monotonic() - started


def test_a_wait_begins_when_the_ranks_own_part_is_ready():
    (early,), _ = _waits(0.0)
    (late,), _ = _waits(COMES_S + 0.1)
    assert early > 0.5 * COMES_S
    assert late < 0.5 * COMES_S


def test_what_is_waited_for_at_once_counts_once():
    waits, elapsed = _waits(0.0, 0.0, 0.0)
    assert min(waits) >= 0
    assert 0.5 * COMES_S < sum(waits) <= elapsed


def test_nothing_is_noted_where_no_step_is_timed():
    with timing_waits(False) as waits:
        note_wait(tf.constant(0.0), tf.constant(1.0))
    note_wait(tf.constant(0.0), tf.constant(1.0))
    assert waits == []
