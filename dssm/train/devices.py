"""Which processor a rank computes on."""

from __future__ import annotations

import os
from collections.abc import Sequence

import horovod.tensorflow as hvd
import tensorflow as tf

from dssm.config import Settings
from dssm.errors import UserError


def use_device(settings: Settings) -> None:
    """Gives the rank its GPU, where there is one, and its share of the cores.

    A GPU multiplies float32 matrices in float32: TensorFlow's default since Ampere is TF32, which keeps 10 bits of each
    factor and would make another model of the same settings; `train.mixed_precision` is the way to trade digits.

    Raises: UserError where Spark has assigned a GPU that TensorFlow does not see, or ranks would share one.
    """
    if settings.train.deterministic:
        tf.config.experimental.enable_op_determinism()
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        own = gpu_of_rank(len(gpus), _assigned_by_spark(settings), hvd.local_rank(), hvd.local_size())
        tf.config.set_visible_devices(gpus[own], "GPU")
        # Without it TensorFlow takes the whole memory, and the NCCL of the same process finds none.
        tf.config.experimental.set_memory_growth(gpus[own], True)
        tf.config.experimental.enable_tensor_float_32_execution(False)
    cores = len(os.sched_getaffinity(0))
    threads = settings.train.threads or max(1, cores // hvd.local_size())
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(2)
    except RuntimeError:
        pass  # TensorFlow has run in this process already (a second date): its threads stay as they are


def gpu_of_rank(gpus: int, assigned: Sequence[str], local_rank: int, local_size: int) -> int:
    """Returns the place of a rank's GPU among those that TensorFlow sees.

    Args:
      gpus: number of those.
      assigned: addresses that Spark gave to the rank's task (spark.task.resource.gpu.amount); none where it gave none.
      local_rank, local_size: of the rank among those of its host.
    Raises: UserError.
    """
    if gpus == 1 and (local_size == 1 or assigned):
        return 0  # CUDA_VISIBLE_DEVICES has chosen already, or there is no choice
    if assigned:
        own = int(assigned[0])
        if own >= gpus:
            raise UserError(
                f"train: Spark assigned GPU {own} to a rank, but TensorFlow sees {gpus} on its host; expected an "
                "address below that: see spark.executor.resource.gpu.discoveryScript and CUDA_VISIBLE_DEVICES"
            )
        return own
    if local_size > gpus:
        raise UserError(
            f"train.ranks: {local_size} ranks on a host with {gpus} GPUs; expected at most one rank a GPU: lower it, "
            "or hide the GPUs (CUDA_VISIBLE_DEVICES=-1) to train on the processor"
        )
    return local_rank


def _assigned_by_spark(settings: Settings) -> list[str]:
    if not settings.train.by_spark:
        return []
    from horovod.spark.task.task_info import get_available_devices

    return list(get_available_devices())
