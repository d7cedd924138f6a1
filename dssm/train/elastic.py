"""Training whose ranks may be lost, and joined by others, between two commits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import horovod.tensorflow as hvd
import tensorflow as tf
from horovod.common.elastic import State
from horovod.common.exceptions import HorovodInternalError

from dssm.train.checkpoint import Arrays
from dssm.train.collectives import lost_rank_in
from dssm.train.place import Place
from dssm.train.rank_watchdog import expect_nothing
from dssm.train.state import TrainingState

T = TypeVar("T")


class ElasticState(State):
    """What Horovod's elastic loop keeps: the variables and the place, as of the last commit, in this rank's memory."""

    def __init__(self, state: TrainingState, place: Place) -> None:
        super().__init__(bcast_object=hvd.broadcast_object, get_rank=hvd.rank)
        self.place = place
        self._state = state
        self._kept: tuple[Place, Arrays] | None = None

    def commit_at(self, place: Place) -> None:
        """Keeps the variables and the place, on all ranks at the same step.

        Raises: HostsUpdatedInterrupt, on all ranks, where hosts have come or are about to go.
        """
        self.place = place
        self.commit()

    def save(self) -> None:
        self._kept = (self.place, self._state.copied())

    def restore(self) -> None:
        if self._kept is not None:
            self.place, arrays = self._kept
            self._state.assign(arrays)

    def sync(self) -> None:
        with _lost_ranks_known():  # Horovod's wrapper has an eye on the training alone
            self.place = self._state.share(self.place)
        self.save()


@contextmanager
def _lost_ranks_known() -> Iterator[None]:
    """Has Horovod's elastic loop know a collective that another rank ended, and no other error.

    Its own wrapper knows allreduce, allgather and broadcast alone, and swallows what else TensorFlow raises.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if lost_rank_in(error) is not None:
            raise HorovodInternalError(str(error)) from error
        raise RuntimeError(str(error)) from error


def run_elastic(state: ElasticState, train: Callable[[Place], T]) -> T:
    """Trains from the state's place to the end, again from the last commit whenever the ranks change."""

    @hvd.elastic.run
    def run(synced: ElasticState) -> T:
        try:
            with _lost_ranks_known():
                return train(synced.place)
        finally:
            expect_nothing()  # to find each other again takes the time it takes

    return run(state)
