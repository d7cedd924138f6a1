"""Adam whose step costs what the batch looked up, and not what the tables hold."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from dssm.model.optimizers.schedules import LearningRate
from dssm.sections.optimizers import LazyAdam as LazyAdamSettings


def build(settings: LazyAdamSettings, learning_rate: LearningRate) -> LazyAdam:
    return LazyAdam(
        learning_rate,
        beta_1=settings.beta_1,
        beta_2=settings.beta_2,
        epsilon=settings.epsilon,
        jit_compile=False,
    )


@tf.keras.utils.register_keras_serializable("dssm")
class LazyAdam(tf.keras.optimizers.Adam):
    """Adam (Kingma and Ba, ICLR 2015, end of section 2) that leaves the rows alone that a sparse gradient lacks.

    A row's moments decay only in steps that touch it; their bias is corrected by the number of all steps, as in
    TensorFlow Addons' LazyAdam. With every row touched in every step it is Adam, and so it is for dense gradients.
    """

    def update_step(self, gradient: Any, variable: tf.Variable) -> None:
        """Moves one variable. The rows of a sparse gradient must be unique: `apply_gradients` sees to it."""
        if not isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable)
            return
        rows, slopes = gradient.indices, gradient.values
        place = self._index_dict[self._var_key(variable)]
        mean, square = self._momentums[place], self._velocities[place]
        step = tf.cast(self.iterations + 1, slopes.dtype)
        bias_1 = 1 - tf.pow(tf.cast(self.beta_1, slopes.dtype), step)
        bias_2 = 1 - tf.pow(tf.cast(self.beta_2, slopes.dtype), step)
        rate = tf.cast(self.learning_rate, slopes.dtype) * tf.sqrt(bias_2) / bias_1

        means, squares = tf.gather(mean, rows), tf.gather(square, rows)
        means += (slopes - means) * (1 - self.beta_1)
        squares += (tf.square(slopes) - squares) * (1 - self.beta_2)
        mean.scatter_update(tf.IndexedSlices(means, rows))
        square.scatter_update(tf.IndexedSlices(squares, rows))
        variable.scatter_sub(tf.IndexedSlices(means * rate / (tf.sqrt(squares) + self.epsilon), rows))
