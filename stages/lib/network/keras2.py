"""TensorFlow and Keras 2, imported the one way that fits tensorflow-model-optimization, which needs Keras 2."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # before TensorFlow: decides what the libraries on top of it take for Keras
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no lines about drivers of absent GPUs; failures still raise


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Holds back what native code prints within the block, which no log level stops; shows it on failure."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(saved, held.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


with quiet_stderr():
    import tensorflow as tf
    import tf_keras as keras

tf.get_logger().setLevel("ERROR")  # Keras 2 warns of uncompiled models, which is how they are meant to be stored
if tf.config.list_physical_devices("GPU"):
    # Some GPU kernels add up in the order in which threads finish. CPU kernels do not, and would become slower.
    tf.config.experimental.enable_op_determinism()

__all__ = ["keras", "quiet_stderr", "tf"]
