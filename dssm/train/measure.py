"""Metrics of scores over all ranks' rows, as one process computes them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

from dssm.metrics import BINARY_METRICS, auc, binary_metrics
from dssm.model.scorer import SCORER
from dssm.model.two_tower import TwoTowerModel
from dssm.sections.losses import Regression
from dssm.stream.batches import Batch
from dssm.train.scores import label_and_weight, tower_vectors

Predict = Callable[[Batch], dict[str, tuple[tf.Tensor, tf.Tensor, tf.Tensor]]]


def make_predict(model: TwoTowerModel) -> Predict:
    """Returns `predictions` of the model, compiled: traced once, however often it is measured."""
    return tf.function(lambda batch: predictions(model, batch), autograph=False)


def measure(
    model: TwoTowerModel, predict: Predict, batches: Iterator[Batch], threshold: float = 0.5
) -> dict[str, float]:
    """Measures the batches of all ranks; NaN where there are none.

    Args:
      predict: of `make_predict`.
      threshold: chance from which accuracy, precision and recall take a row as predicted to be positive.
    Returns: `auc` of the first objective and `NAME_auc` of each further one; in the same way `mse` of those with the
      loss regression, and `log_loss`, `accuracy`, `precision` and `recall` of others whose score is a log-odds; of a
      model with a scorer `scorer_auc`, by its probability for the first objective. A label that is a share counts as
      positive above one half.
    """
    parts: dict[str, list[np.ndarray]] = defaultdict(list)
    for batch in batches:
        for name, (score, label, weight) in predict(batch).items():
            rows = np.stack([score.numpy(), label.numpy()], axis=1)
            parts[name].append(rows[weight.numpy() > 0])
    found: dict[str, float] = {}
    for number, (name, loss) in enumerate(model.losses.items()):
        score, label = _of_all_ranks(parts[name], name)
        prefix, positive = f"{name}_" if number else "", _are_positive(label)
        if isinstance(loss, Regression):
            found[f"{prefix}mse"] = float(np.mean((score - label) ** 2)) if len(label) else np.nan
        elif loss.is_pointwise:
            measured = binary_metrics(label.astype(np.float64), score.astype(np.float64), positive, threshold)
            found |= {f"{prefix}{metric}": value for metric, value in measured.items()}
        found[f"{prefix}auc"] = auc(positive, score)
    if model.scorer is not None:
        logit, label = _of_all_ranks(parts[SCORER], SCORER)
        found[f"{SCORER}_auc"] = auc(_are_positive(label), logit)
    return found


def metric_names(model: TwoTowerModel) -> list[str]:
    """Returns the names of what `measure` finds."""
    names = []
    for number, (name, loss) in enumerate(model.losses.items()):
        own = ["mse"] if isinstance(loss, Regression) else BINARY_METRICS if loss.is_pointwise else []
        names += [f"{name}_{metric}" if number else metric for metric in (*own, "auc")]
    return names if model.scorer is None else [*names, f"{SCORER}_auc"]


def _of_all_ranks(parts: list[np.ndarray], name: str) -> np.ndarray:
    """Returns the scores and the labels of all ranks' rows, (2, rows). Args: parts: of this rank, (n, 2) each."""
    joined = np.concatenate([np.zeros((0, 2), np.float32), *parts])
    if hvd.size() > 1:
        joined = hvd.allgather(tf.constant(joined, tf.float32), name=f"measured_{name}").numpy()
    return joined.T


def _are_positive(labels: np.ndarray) -> np.ndarray:
    are_shares = ((labels > 0) & (labels < 1)).any()
    return labels > (0.5 if are_shares else 0)


def predictions(model: TwoTowerModel, batch: Batch) -> dict[str, tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
    """Returns, for each objective, what the model predicts, the labels and the weights of the rows: (batch,) each.

    The prediction is the score, or the rating for the loss regression. Beside the objectives, a scorer's logits.
    """
    users, items = tower_vectors(model.towers, batch, training=False)
    found = {}
    for name, loss in model.losses.items():
        label, weight = label_and_weight(batch, model.settings.all_objectives[name].label)
        score = tf.reduce_sum(users[name] * items[name], axis=1) / model.settings.tau
        if name in model.biases:
            score += model.biases[name]
        if isinstance(loss, Regression) and loss.prediction == "sigmoid":
            score = tf.sigmoid(score)
        found[name] = (score, label, weight)
    if model.scorer is not None:
        first = next(iter(model.losses))
        found[SCORER] = (model.scorer([users[first], items[first]], training=False), *found[first][1:])
    return found
