"""What a task of the user pass needs to know, and which file each of its rows goes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dssm.features import AnyFeature
from dssm.samples.lookups import Lookups
from dssm.samples.profiles import ProfileEncoder, PublishedUsers, UserVocabulary
from dssm.samples.splitmix import mixed
from dssm.samples.words import Words
from dssm.sections import Counter, History, Negatives


@dataclass(frozen=True)
class Router:
    """Which file a row goes to: `files` of each dataset, in this order; `tasks`: the key of each file's task."""

    files: Mapping[str, int]
    tasks: tuple[int, ...]

    def first(self, dataset: str) -> int:
        names = list(self.files)
        return sum(self.files[name] for name in names[: names.index(dataset)])

    def route(self, dataset: str, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the file and the task of rows with these order numbers, (n,) int32 each."""
        files = self.first(dataset) + (mixed(order.astype(np.uint64)) % np.uint64(self.files[dataset])).astype(np.int64)
        return files.astype(np.int32), np.asarray(self.tasks, np.int32)[files]


@dataclass(frozen=True)
class PassPlan:
    """What `dssm.samples.user_pass` does with a task's rows.

    Attributes:
      sources: names of the event sources, in the order of their codes.
      train_start, test_start: of the windows, in ms.
      all_users: whether users without a positive in the test window are asked for, too.
      by_user: whether each user's own first test row is its split (leave_last_out), instead of `test_start`.
      tested: sources whose positives are what popularity counts.
      user_id_features: features of the user id itself that need no vocabulary of tokens.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    histories: Mapping[str, History]
    counters: Mapping[str, Counter]
    profiles: tuple[ProfileEncoder | UserVocabulary | PublishedUsers, ...]
    user_id_features: tuple[AnyFeature, ...]
    user_id_words: Words
    negatives: Mapping[str, Negatives]
    tested: tuple[str, ...]
    train_start: int
    test_start: int
    all_users: bool
    by_user: bool
    unclicked_weight: float
    seed: int
    router: Router
    lookups: Lookups
