"""Whether a step can run on a GPU without going back to the processor: TensorFlow's kernels are known without one."""

from __future__ import annotations

from typing import Any

import pytest
import tensorflow as tf
from tensorflow.python.framework import kernels

from dssm.train.step import make_optimizer, make_step
from tests.datasets import ITEMS, make_settings
from tests.train.joint import CASES, joint_batches, joint_catalogue
from tests.train.tiny import make_model, make_negatives

pytestmark = [
    pytest.mark.usefixtures("single_rank"),
    pytest.mark.skipif(not tf.test.is_built_with_cuda(), reason="this TensorFlow has no kernels of GPUs"),
]

STRUCTURE = ("Placeholder", "NoOp")  # of the graph: they compute nothing


def has_gpu_kernel(node: Any) -> bool:
    """Whether one of the operation's GPU kernels takes the node's types."""
    registered = kernels.get_registered_kernels_for_op(node.op).kernel
    return any(
        all(types_of(node, of.name) <= set(of.allowed_values.list.type) for of in kernel.constraint)
        for kernel in registered
        if kernel.device_type in ("GPU", "DEFAULT")
    )


def types_of(node: Any, attribute: str) -> set[int]:
    value = node.attr[attribute]
    return {value.type} if value.type else set(value.list.type)


@pytest.mark.slow
# A loss of each kind, and the optimizers with updates of their own, are among them.
@pytest.mark.parametrize("name", ["streaming", "mixed", "bpr", "sampled", "batch_norm", "objectives"])
def test_every_operation_of_a_step_has_a_gpu_kernel(name: str):
    settings = make_settings("unused", **CASES[name])
    model = make_model(settings, seed=3)
    step: Any = make_step(settings, model, make_optimizer(settings.train, 8, model), make_negatives(settings), ITEMS)
    parts = (joint_batches(settings)[0], joint_catalogue(settings, 0))
    batch, catalogue = ({column: tf.constant(values) for column, values in part.items()} for part in parts)
    graph = step.get_concrete_function(batch, catalogue).graph.as_graph_def()
    functions = {function.signature.name for function in graph.library.function}
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    computing = [
        node for node in nodes if node.op not in (*STRUCTURE, *functions) and "CPU" not in node.device
    ]  # what is told to stay on the processor keeps its data there
    assert len(computing) > 100
    assert {node.op for node in computing if not has_gpu_kernel(node)} == set()


def test_an_operation_without_one_is_found():
    graph = tf.Graph()
    with graph.as_default():
        tf.strings.length(tf.constant("a"))
        tf.unique(tf.constant([1.0]))
    without = [node.op for node in graph.as_graph_def().node if not has_gpu_kernel(node)]
    assert without == ["Const", "StringLength"]
