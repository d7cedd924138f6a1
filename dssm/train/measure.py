"""Metrics of scores over all ranks' rows, as one process computes them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

from dssm.metrics import BINARY_METRICS, ScoreCounts, binary_sums, metrics_of_sums
from dssm.model.scorer import SCORER
from dssm.model.two_tower import TwoTowerModel
from dssm.sections import LossKind
from dssm.stream.batches import Batch
from dssm.train.scores import label_and_weight, tower_vectors

TOLD_ERROR = 0.001  # of an AUC
FEW_PLACES = 2**17  # of counted scores, up to which ranks exchange these alone: 2 MiB in the place of 16
Predict = Callable[[Batch], dict[str, tuple[tf.Tensor, tf.Tensor, tf.Tensor]]]


def make_predict(model: TwoTowerModel) -> Predict:
    """Returns `predictions` of the model, compiled: traced once, however often it is measured."""
    return tf.function(lambda batch: predictions(model, batch), autograph=False)


class _Objective:
    """What is kept of the rows of one objective, or of the scorer: as much for any number of rows."""

    def __init__(self, loss: LossKind | None, threshold: float) -> None:
        self._threshold = threshold
        self._is_rating = loss is not None and loss.rating is not None
        self._is_log_odds = loss is not None and loss.is_log_odds
        self._counts, self._sums = ScoreCounts(), np.zeros(6)
        self._unknown = 0  # scores that are no numbers

    def add(self, scores: np.ndarray, labels: np.ndarray) -> None:
        # A share counts as positive above one half; where no label is a share, that is any above 0.
        positive = labels > 0.5
        self._counts.add(positive, scores)
        self._unknown += int(np.isnan(scores).sum())
        labels, scores = labels.astype(np.float64), scores.astype(np.float64)
        if self._is_rating:
            self._sums[:2] += [len(labels), ((scores - labels) ** 2).sum()]
        elif self._is_log_odds:  # the sources' own label may be any number; the losses hold it to 0…1 as well
            self._sums += binary_sums(np.clip(labels, 0, 1), scores, positive, self._threshold)

    def of_all_ranks(self, name: str) -> dict[str, float]:
        """Every rank calls it. Args: name: of the collectives. Returns: the metrics of all ranks' rows."""
        if hvd.size() > 1:
            used = np.count_nonzero(self._counts.counts)
            *sums, unknown, used = _total(np.array([*self._sums, self._unknown, used]), f"measured_{name}_sums")
            self._sums, self._unknown = np.array(sums), int(unknown)
            self._counts.counts = _total_counts(self._counts.counts, int(used), f"measured_{name}_counts")
        found = metrics_of_sums(self._sums) if self._is_log_odds else {}
        if self._is_rating:
            rows, errors = self._sums[:2].tolist()
            found["mse"] = errors / rows if rows else np.nan
        if (error := self._counts.auc_error()) > TOLD_ERROR and hvd.rank() == 0:
            print(
                f"train: {name}: many scores are alike or equal, and the AUC may be off by {error:.4f}", file=sys.stderr
            )
        return {**found, "auc": np.nan if self._unknown else self._counts.auc()}


def measure(
    model: TwoTowerModel, predict: Predict, batches: Iterator[Batch], threshold: float = 0.5
) -> dict[str, float]:
    """Measures the batches of all ranks; NaN where there are none. Memory does not grow with their rows.

    Args:
      predict: of `make_predict`.
      threshold: chance from which accuracy, precision and recall take a row as predicted to be positive.
    Returns: `auc` of the first objective and `NAME_auc` of each further one, see `ScoreCounts`; in the same way `mse`
      of those whose loss predicts a rating, and `log_loss`, `accuracy`, `precision` and `recall` of those whose score
      is a log-odds; of a model with a scorer `scorer_auc`, by its probability for the first objective. A label that is
      a share counts as positive above one half.
    """
    parts = {name: _Objective(loss, threshold) for name, loss in model.losses.items()}
    if model.scorer is not None:
        parts[SCORER] = _Objective(None, threshold)
    for batch in batches:
        for name, (score, label, weight) in predict(batch).items():
            counts = weight.numpy() > 0
            parts[name].add(score.numpy()[counts], label.numpy()[counts])
    found: dict[str, float] = {}
    for number, (name, part) in enumerate(parts.items()):
        prefix = f"{name}_" if number else ""
        found |= {f"{prefix}{metric}": value for metric, value in part.of_all_ranks(name).items()}
    return found


def metric_names(model: TwoTowerModel) -> list[str]:
    """Returns the names of what `measure` finds."""
    names = []
    for number, (name, loss) in enumerate(model.losses.items()):
        own = ["mse"] if loss.rating is not None else BINARY_METRICS if loss.is_log_odds else []
        names += [f"{name}_{metric}" if number else metric for metric in (*own, "auc")]
    return names if model.scorer is None else [*names, f"{SCORER}_auc"]


def _total(values: np.ndarray, name: str) -> np.ndarray:
    return np.asarray(hvd.allreduce(tf.constant(values), op=hvd.Sum, name=name).numpy())


def _total_counts(counts: np.ndarray, used: int, name: str) -> np.ndarray:
    """Returns the sum of the ranks' counts. Args: used: places that are not 0, of all ranks together."""
    if used > FEW_PLACES:
        return _total(counts, name)
    (places,) = np.nonzero(counts.ravel())
    pairs = hvd.allgather(tf.constant(np.stack([places, counts.ravel()[places]], axis=1)), name=f"{name}_few").numpy()
    summed = np.zeros_like(counts)
    np.add.at(summed.reshape(-1), pairs[:, 0], pairs[:, 1])
    return summed


def predictions(model: TwoTowerModel, batch: Batch) -> dict[str, tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
    """Returns, for each objective, what the model predicts, the labels and the weights of the rows: (batch,) each.

    The prediction is the score, or the rating where the loss predicts one. Beside the objectives, a scorer's logits.
    """
    users, items = tower_vectors(model.towers, batch, training=False)
    found = {}
    for name, loss in model.losses.items():
        label, weight = label_and_weight(batch, model.settings.all_objectives[name].label)
        score = tf.reduce_sum(users[name] * items[name], axis=1) / model.settings.tau
        if name in model.biases:
            score += model.biases[name]
        if loss.rating == "sigmoid":
            score = tf.sigmoid(score)
        found[name] = (score, label, weight)
    if model.scorer is not None:
        first = next(iter(model.losses))
        found[SCORER] = (model.scorer([users[first], items[first]], training=False), *found[first][1:])
    return found
