"""What of TensorFlow's errors is a lost rank's."""

from __future__ import annotations

import pytest
import tensorflow as tf

from dssm.train.collectives import lost_rank_in

AT = """Graph execution error:

Detected at node gradients_rows defined at (most recent call last):
  File "/env/site-packages/horovod/spark/task/gloo_exec_fn.py", line 30, in <module>

  File "/srv/gloo/train/step.py", line 12, in gradients

"""
END = "\n\t [[{{node gradients_rows}}]] [Op:__inference_step_2687]"


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Horovod has been shut down. This was caused by an exception on one of the ranks.", tf.errors.UnknownError),
        (
            "[/tmp/build/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:133] Timed out waiting 30000ms for send",
            tf.errors.UnknownError,
        ),
        ("[/b/gloo/transport/tcp/pair.cc:589] Read error [10.0.0.2]: Connection reset by peer", tf.errors.UnknownError),
        ("ncclAllReduce failed: remote process exited or there was a network error", tf.errors.UnknownError),
        ("NCCL Error: unhandled system error", tf.errors.AbortedError),
    ],
)
def test_a_collective_that_another_rank_ended(said: str, kind: type[tf.errors.OpError]):
    assert lost_rank_in(kind(None, None, AT + said + END)) == said


@pytest.mark.parametrize(
    "error",
    [
        # the traceback of every node passes through Horovod's files
        tf.errors.UnknownError(None, None, AT + "a file could not be read" + END),
        tf.errors.InvalidArgumentError(None, None, "indices[3] = 900 is not in [0, 200) [Op:HorovodAllgather]"),
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating a tensor for HorovodAllreduce"),
        MemoryError("gloo has no room"),
    ],
)
def test_a_fault_of_the_ranks_own(error: Exception):
    assert lost_rank_in(error) is None
