"""Turns the operations of a file into the steps that compute them: pools are fused, reshapes vanish. No TensorFlow."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from stages.lib.device.arithmetic import quantize_factor, round_half_away, scale_twice
from stages.lib.device.reader import Network, Operation, Tensor

IMAGE = "image"
"""The name of the first step, which takes the image; the others are named as their operation."""


@dataclass(frozen=True)
class Step:
    """One step: it makes one tensor, most kinds row by row.

    For row n of its output, counted from 0, it takes the rows from stride * n + first up to stride * n + end - 1 of its
    input, where -1 is the padding above the image.

    Attributes:
        kind: that of its operation, or image.
        name: likewise.
        operation: with the kernel; of a pool that is fused, the convolution's. None for the image.
        inputs: names of the steps whose output it takes.
        output: what it makes.
        is_pooled: whether a 2x2 max pool of stride 2 follows the convolution, whose own output is never stored.
        rows: how often it takes rows: for each row of its output, or, of a mean, for each row of its input.
        stride: see above; 2 for a pool, fused or not.
        first: see above.
        end: see above.
    """

    kind: str
    name: str
    operation: Operation | None
    inputs: tuple[str, ...]
    output: Tensor
    is_pooled: bool
    rows: int
    stride: int
    first: int
    end: int

    @property
    def is_image_like(self) -> bool:
        """Whether its output has height, width and channels, and is no vector."""
        return len(self.output.shape) == 3 and self.kind not in ("average_pool", "mean")


def list_steps(network: Network) -> list[Step]:
    """Lists the steps of a network, in the order of its operations; the first one takes the image."""
    image = network.tensors[network.image]
    steps = [Step("image", IMAGE, None, (), image, False, image.shape[0], 1, 0, 1)]
    makers = {network.image: IMAGE}  # of each tensor
    uses = Counter(index for operation in network.operations for index in operation.inputs)
    fused: set[int] = set()
    for operation in network.operations:
        if operation.kind == "flatten" or operation.output in fused:
            makers[operation.output] = makers[operation.inputs[0]]
            continue
        pool = _find_fused_pool(operation, network.operations) if uses[operation.output] == 1 else None
        if pool:
            fused.add(pool.output)
        output = network.tensors[pool.output if pool else operation.output]
        inputs = tuple(makers[index] for index in operation.inputs)
        taken = network.tensors[operation.inputs[0]]
        folded = _fold_constants(operation, taken, output)
        steps.append(_make_step(folded, inputs, taken, output, is_pooled=pool is not None))
        makers[operation.output] = operation.name
    return steps


def _find_fused_pool(operation: Operation, operations: Sequence[Operation]) -> Operation | None:
    if operation.kind not in ("conv", "depthwise"):
        return None
    user = next(other for other in operations if operation.output in other.inputs)
    return user if user.kind == "max_pool" else None


def _fold_constants(operation: Operation, taken: Tensor, output: Tensor) -> Operation:
    """Gives outputs without weights, whose biases are as large as int32 allows, small biases of the same effect."""
    if not operation.kernel.size:
        return operation
    bias, scales = operation.bias.copy(), operation.kernel_scales.copy()
    for index in np.flatnonzero(~operation.kernel.reshape(len(bias), -1).any(axis=1)):
        factor = taken.scale * scales[index] / output.scale
        if operation.kind == "dense":
            result = int(round_half_away(np.array(float(bias[index]) * factor)))
        else:
            result = scale_twice(int(bias[index]), quantize_factor(factor))
        bias[index] = 4 * min(max(result, -256), 256)  # clipped later, too
        scales[index] = 0.25 * output.scale / taken.scale
    return replace(operation, bias=bias, kernel_scales=scales)


def _make_step(operation: Operation, inputs: tuple[str, ...], taken: Tensor, output: Tensor, is_pooled: bool) -> Step:
    first, end = 0, 1
    stride = 2 if is_pooled or operation.kind == "max_pool" else 1
    rows = output.shape[0]
    if operation.kind in ("conv", "depthwise") and operation.kernel.shape[1] == 3:
        first, end = -1, 2
    if operation.kind in ("average_pool", "mean"):
        rows = taken.shape[0]
    if operation.kind == "dense":
        first, end, rows = 0, taken.shape[0] if len(taken.shape) == 3 else 1, 1
    return Step(
        operation.kind, operation.name, operation, inputs, output, is_pooled, rows, stride, first, end + stride - 1
    )
