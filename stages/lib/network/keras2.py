"""TensorFlow and Keras 2, imported the one way that fits tensorflow-model-optimization, which needs Keras 2."""

import os

from stages.lib.network.quiet import quiet_stderr

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # before TensorFlow is imported: libraries on top of it then use Keras 2, too
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no lines about drivers of absent GPUs; failures still raise

with quiet_stderr():
    import tensorflow as tf
    import tf_keras as keras

tf.get_logger().setLevel("ERROR")  # Keras 2 warns of models without an optimizer, which is how we store them
if tf.config.list_physical_devices("GPU"):
    # Some GPU kernels add numbers in the order in which threads finish, so that results differ between runs. CPU
    # kernels do not, and would only become slower.
    tf.config.experimental.enable_op_determinism()

__all__ = ["keras", "tf"]
