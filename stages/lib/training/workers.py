"""Training on several workers at once: the strategy, and what they tell each other."""

from collections.abc import Sequence

import numpy as np

from stages.lib.errors import UserError
from stages.lib.network.keras2 import tf
from stages.lib.training.cluster import Cluster

LOST_WORKER_ERRORS = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.UnknownError,
    tf.errors.UnavailableError,
)
"""What a worker sees when another one is gone or never came, or its own port is taken."""


def build_strategy(cluster: Cluster) -> tf.distribute.Strategy:
    """Builds the strategy of this process, before any other use of TensorFlow: every worker has to build its own.

    Raises:
        UserError: if this worker has several GPUs: data and dropout are split by workers.
    """
    if cluster.num_workers == 1:
        return tf.distribute.get_strategy()
    num_gpus = len(tf.config.list_physical_devices("GPU"))
    if num_gpus > 1:
        raise UserError(
            f"TF_CONFIG: expected at most one GPU in each worker, got {num_gpus}; start a worker for each GPU, and "
            "show it that one through CUDA_VISIBLE_DEVICES"
        )
    return tf.distribute.MultiWorkerMirroredStrategy()


def broadcast_from_chief(strategy: tf.distribute.Strategy, values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns the chief's values on every worker.

    Shapes and dtypes agree on all workers. Values travel as one float64 vector: exact for float32, and for integers
    up to 2 ** 53.
    """
    if strategy.num_replicas_in_sync == 1:
        return list(values)
    vector = tf.constant(np.concatenate([value.ravel().astype(np.float64) for value in values]))

    def share() -> tf.Tensor:
        replica = tf.distribute.get_replica_context()
        is_chief = tf.equal(replica.replica_id_in_sync_group, 0)
        # The others add -0.0, which leaves a -0.0 of the chief as it is; 0.0 would not.
        return replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.where(is_chief, vector, -0.0))

    shared = strategy.experimental_local_results(strategy.run(tf.function(share)))[0].numpy()
    parts = np.split(shared, np.cumsum([value.size for value in values])[:-1])
    return [part.reshape(value.shape).astype(value.dtype) for part, value in zip(parts, values, strict=True)]
