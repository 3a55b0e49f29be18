"""Muon: momentum whose update of each kernel is made orthogonal; AdamW for everything else.

Source: Jordan et al. 2024, Muon: an optimizer for hidden layers in neural networks
(https://kellerjordan.github.io/posts/muon), with the update scale and weight decay of Liu et al. 2025, Muon is Scalable
for LLM Training, arXiv 2502.16982, section 2.2, under which a learning rate of AdamW fits both parts.
"""

import math
from typing import Any

from stages.lib.network.keras2 import keras, tf

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration, tuned by Jordan et al. to bring singular values to about 1 in five steps."""


def orthogonalize(matrix: tf.Tensor) -> tf.Tensor:
    """Brings all singular values of a matrix to about 1, from 0.7 to 1.2, by five Newton-Schulz steps.

    A step is X <- (a I + b X X^T + c (X X^T)^2) X. Only the small square X X^T is iterated here, and X is multiplied
    once, by the product of all steps: the same result, three times as fast for a long matrix.

    Args:
        matrix: (rows, columns) float32.

    Returns:
        (rows, columns) float32.
    """
    a, b, c = COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix / (tf.norm(matrix) + 1e-7)  # the norm bounds the singular values by 1
    gram = tf.matmul(x, x, transpose_a=is_tall, transpose_b=not is_tall)  # of the short side
    identity = tf.eye(gram.shape[0])
    product = identity
    for _ in range(5):
        step = a * identity + b * gram + c * tf.matmul(gram, gram)
        product = tf.matmul(step, product)
        gram = tf.matmul(tf.matmul(step, gram), step)  # all of them are symmetric and commute
    return tf.matmul(x, product) if is_tall else tf.matmul(product, x)


class Muon(keras.optimizers.AdamW):
    """Muon for kernels of hidden layers; AdamW for the last kernel, depthwise ones, biases and batch normalization.

    A depthwise kernel maps each channel to itself: it has no singular values to make equal.

    Args:
        learning_rate: a number or a schedule.
        weight_decay: decoupled, of every variable.
        last_kernel: start of the name of the kernel that makes the logits.
        momentum: share of the momentum that is kept in each step.
    """

    def __init__(
        self,
        learning_rate: Any,
        weight_decay: float,
        last_kernel: str,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(learning_rate, weight_decay, name="Muon")
        self.last_kernel = last_kernel
        self.momentum = momentum

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """Updates one variable; called by Keras."""
        is_matrix = len(variable.shape) >= 2 and "depthwise_kernel" not in variable.name
        if not is_matrix or variable.name.startswith(self.last_kernel):
            super().update_step(gradient, variable)
            return
        average = self._momentums[self._index_dict[self._var_key(variable)]]  # the place AdamW keeps for it
        average.assign(self.momentum * average + gradient)
        nesterov = gradient + self.momentum * average
        matrix = tf.reshape(nesterov, (-1, variable.shape[-1]))
        update = orthogonalize(matrix) * (0.2 * math.sqrt(max(matrix.shape)))
        rate = tf.cast(self.learning_rate, variable.dtype)
        variable.assign_sub(rate * tf.reshape(update, variable.shape))
