"""What TensorBoard would draw of a training."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from dssm.config import Settings
from dssm.paths import RunPaths

Curves = dict[str, dict[int, float]]


def curves_of(settings: Settings) -> Curves:
    """Returns the points of each curve, value by step, in the order in which they were written."""
    curves: Curves = {}
    for events in sorted(Path(RunPaths(settings.run_folder).logs).glob("events.*.v2")):
        for event in tf.compat.v1.train.summary_iterator(str(events)):
            for value in event.summary.value:
                if value.tensor.dtype == tf.float32.as_datatype_enum:  # the profiler leaves a text beside them
                    curves.setdefault(value.tag, {})[event.step] = float(tf.make_ndarray(value.tensor))
    return curves
