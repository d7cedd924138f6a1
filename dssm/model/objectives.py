"""How the objectives' losses become one."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from dssm.sections.model import Model


class ObjectiveWeights(tf.Module):
    """The weights of the objectives' losses: fixed, or learned beside the model.

    `uncertainty` takes Σ e⁻ˢ L + s with a learned s for each objective (Kendall et al., CVPR 2018): s is the log of
    the variance of the objective's noise, and settles at log L. It begins at 0, the sum of the losses. A batch in which
    no row has a weight under an objective says nothing of its L, and leaves s out: paid in all batches, s would settle
    at log(P L), P being the share of batches that say something, and weigh the objective up by 1 / P.
    """

    def __init__(self, model: Model) -> None:
        super().__init__(name="objective_weights")
        self.weights = {name: objective.weight for name, objective in model.all_objectives.items()}
        learned = self.weights if model.objective_weights == "uncertainty" else ()
        self.log_variance = {name: tf.Variable(0.0, name=f"log_variance_{name}") for name in learned}

    def combine(
        self, losses: Mapping[str, tf.Tensor], row_weights: Mapping[str, tf.Tensor], share: float = 1.0
    ) -> tf.Tensor:
        """Returns the weighted sum of the losses.

        Args:
          losses: of each objective, scalars.
          row_weights: of each objective, Σ weight over the rows of the joint batch, scalars.
          share: of Σ s, which no row carries: 1 / ranks where `losses` are this rank's shares of the means, whose
            gradients are summed over ranks.
        Returns: a scalar.
        Raises: ValueError where the losses are not those of the objectives.
        """
        if set(losses) != set(self.weights):
            raise ValueError(f"losses: found {sorted(losses)}, expected {sorted(self.weights)}")
        terms = [self._factor(name) * losses[name] for name in self.weights]
        known = {name: tf.cast(row_weights[name] > 0, s.dtype) for name, s in self.log_variance.items()}
        return tf.add_n(terms + [share * known[name] * s for name, s in self.log_variance.items()])

    def _factor(self, name: str) -> tf.Tensor | float:
        if name not in self.log_variance:
            return self.weights[name]
        return tf.exp(-self.log_variance[name])
