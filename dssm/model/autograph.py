"""Functions that TensorFlow's AutoGraph is to leave alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import tensorflow as tf

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., object])


def without_autograph(function: AnyFunction) -> AnyFunction:
    """Has AutoGraph rewrite nothing that a function calls, of Keras neither: nothing needs it, and it takes time."""
    return cast(AnyFunction, tf.autograph.experimental.do_not_convert(function))
