"""Keras' own optimizers, from the settings.

XLA is off in all of them: on a GPU it would compile an update anew for each number of rows that a batch touches.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from dssm.model.optimizers.fused_adagrad import FusedAdagrad
from dssm.model.optimizers.schedules import LearningRate
from dssm.sections.optimizers import Adagrad, Adam, RmsProp, Sgd


def adam(settings: Adam, learning_rate: LearningRate) -> tf.keras.optimizers.Optimizer:
    return tf.keras.optimizers.Adam(
        learning_rate,
        beta_1=settings.beta_1,
        beta_2=settings.beta_2,
        epsilon=settings.epsilon,
        jit_compile=False,
    )


def adagrad(settings: Adagrad, learning_rate: LearningRate) -> tf.keras.optimizers.Optimizer:
    return FusedAdagrad(
        learning_rate,
        initial_accumulator_value=settings.initial_accumulator,
        epsilon=settings.epsilon,
        jit_compile=False,
    )


def sgd(settings: Sgd, learning_rate: LearningRate) -> tf.keras.optimizers.Optimizer:
    if not settings.momentum:
        return PlainSgd(learning_rate, jit_compile=False)
    return tf.keras.optimizers.SGD(
        learning_rate, momentum=settings.momentum, nesterov=settings.nesterov, jit_compile=False
    )


def rmsprop(settings: RmsProp, learning_rate: LearningRate) -> tf.keras.optimizers.Optimizer:
    return tf.keras.optimizers.RMSprop(
        learning_rate,
        rho=settings.decay,
        momentum=settings.momentum,
        epsilon=settings.epsilon,
        jit_compile=False,
    )


@tf.keras.utils.register_keras_serializable("dssm")
class PlainSgd(tf.keras.optimizers.SGD):
    """SGD without momentum and without state.

    Keras 2.15 keeps a velocity for each variable at momentum 0 as well, and adds it to whole tables every step.
    """

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        tf.keras.optimizers.Optimizer.build(self, var_list)
        if getattr(self, "_built", False):
            return
        self.momentums = [None] * len(var_list)
        self._built = True
