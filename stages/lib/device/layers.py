"""Computes what the C of each step needs: kernels in their form, biases, scalings, places of rows. No TensorFlow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np

from stages.lib.device.arithmetic import Scaling, check_sums, divide_factor, find_single_scaling, quantize_factor
from stages.lib.device.encode import Form, choose_form
from stages.lib.device.plan import Plan, Window
from stages.lib.device.steps import Step


@dataclass(frozen=True)
class Taken:
    """What a step takes.

    Attributes:
        step: that makes it.
        window: where it is.
        first: row of the window, padding included, that is taken first for row 0.
        end: row after the last one that is taken for row 0.
        column: bytes from the start of a row to the first pixel that is taken.
        is_whole: whether all rows are there before the step starts.
    """

    step: Step
    window: Window
    first: int
    end: int
    column: int
    is_whole: bool


@dataclass(frozen=True)
class Layer:
    """A step, as the template of its kind shows it; what its kind does not have is empty.

    Attributes:
        step: what it computes.
        window: where its rows are, or its units; None for the logits.
        inputs: what it takes.
        form: how its kernel is stored.
        tables: its constants, by name.
        taps: neighbouring weights of a kernel that belong to one line of the input.
        tap_pitch: bytes from one of those lines to the next.
        macs: multiply-accumulates for an image with the stored weights.
        dense_macs: with all weights, for each pixel of a convolution.
        scalings: of add, for its two terms and their sum; of mean, for the sum.
    """

    step: Step
    window: Window | None
    inputs: list[Taken]
    form: Form | None = None
    tables: Mapping[str, np.ndarray] = field(default_factory=dict)
    taps: int = 1
    tap_pitch: int = 0
    macs: int = 0
    dense_macs: int = 0
    scalings: list[Scaling] = field(default_factory=list)

    @property
    def lowest(self) -> int:
        """Least int8 that it gives: the zero point after a ReLU."""
        is_relu = self.step.operation is not None and self.step.operation.relu
        return self.step.output.zero_point if is_relu else -128

    @property
    def weights_bytes(self) -> int:
        """Bytes of its tables."""
        return sum(table.nbytes for table in self.tables.values())

    @property
    def is_wide(self) -> bool:
        """Whether a factor is 1/2 or more, or sums have more than 30 bits, so that `scale` needs more instructions.

        The factor of a term of add is 1/2 at most, and is none of these.
        """
        if self.step.kind == "dense":
            return False
        has_large_factor = any(scaling.shift < 1 for scaling in self.scalings[-1 if self.step.kind == "add" else 0 :])
        return has_large_factor or (self.form is not None and bool(np.abs(bound_sums(self.step)).max() >= 2**30))

    @property
    def source_address(self) -> int:
        """Address of the first value that a dense layer takes."""
        window = self.inputs[0].window
        return window.address + window.padding * (window.row_bytes + 1)

    @property
    def sums_per_line(self) -> int:
        """Sums of a line of a convolution, before its pool."""
        return self.step.output.shape[1] * (2 if self.step.is_pooled else 1)


def compute_scalings(step: Step, inputs: Sequence[Step]) -> list[Scaling]:
    """Computes how the sums of a step become int8.

    Args:
        step: of any kind; most kinds have no sums.
        inputs: the steps whose output it takes.

    Returns:
        One for each output of a convolution or dense layer; of a mean one for all; of an add those of its two terms,
        shifted up by 20 bits, and of their sum, as Add in LiteRT's tflite/kernels/add.cc prepares them; else none.

    Raises:
        UserError: if the sums are too large.
    """
    scale, operation = inputs[0].output.scale if inputs else 0.0, step.operation
    if operation is None or step.kind in ("max_pool", "average_pool"):
        return []
    if step.kind == "add":
        unit = 2 * max(taken.output.scale for taken in inputs)
        factors = [taken.output.scale / unit for taken in inputs] + [unit / (2**20 * step.output.scale)]
        scalings = [quantize_factor(factor) for factor in factors]
        check_sums(step.name, 2**28, scalings)
        return scalings
    if step.kind == "mean":
        count = _count_pixels(inputs[0])
        scalings = [divide_factor(quantize_factor(scale / step.output.scale), count)]
        check_sums(step.name, 256 * count, scalings)
        return scalings
    factors = (scale * operation.kernel_scales / step.output.scale).tolist()
    sums = bound_sums(step)
    if step.kind != "dense":
        scalings = [quantize_factor(factor) for factor in factors]
        check_sums(step.name, int(np.abs(sums).max()), scalings)
        return scalings
    check_sums(step.name, int(np.abs(sums).max()), [Scaling(0, 1)])
    results = (-128 - step.output.zero_point, 127 - step.output.zero_point)
    return [
        find_single_scaling(step.name, factor, (least, most), results)
        for factor, (least, most) in zip(factors, sums.tolist(), strict=True)
    ]


def bound_sums(step: Step) -> np.ndarray:
    """Bounds the sums of each output of a convolution or dense layer, on the way, too: (outputs, 2) int64."""
    assert step.operation is not None  # noqa: S101  (only the image has none)
    bias, kernel = step.operation.bias.astype(np.int64), step.operation.kernel.astype(np.int64)
    reach = 256 * np.abs(kernel).reshape(len(bias), -1).sum(axis=1)
    return np.stack([bias - reach, bias + reach], axis=1)


def _count_pixels(step: Step) -> int:
    return prod(step.output.shape[:2])


def choose_offset_type(steps: Sequence[Step], plan: Plan) -> type[np.uint16 | np.uint32]:
    """Chooses the type of an offset in bytes within the rows that a convolution takes."""
    windows = [plan.windows[name] for step in steps for name in step.inputs if step.kind in ("conv", "depthwise")]
    return np.uint16 if all(3 * window.row_bytes <= 2**16 for window in windows) else np.uint32


def make_layer(step: Step, steps: Mapping[str, Step], plan: Plan, offset_type: type, prefer: str) -> Layer:
    """Computes all that the template of a step shows.

    Args:
        step: one of `steps`.
        steps: all of them, by name.
        plan: of the working memory.
        offset_type: from `choose_offset_type`.
        prefer: as in `stages.lib.device.encode.choose_form`.
    """
    wholes = [phase[-1] for phase in plan.phases]
    inputs = []
    for name in step.inputs:
        place = plan.windows[name]
        first, end = step.first + place.padding, step.end + place.padding
        inputs.append(Taken(steps[name], place, first, end, first, is_whole=name in wholes))
    window = plan.windows.get(step.name)
    taken = [steps[name] for name in step.inputs]
    scalings = compute_scalings(step, taken)
    if step.operation is None or not step.operation.kernel.size:
        return Layer(step, window, inputs, scalings=scalings)
    weights, taps, pitch = _arrange_weights(step, inputs[0])
    places = np.arange(weights.shape[1])
    offsets: np.ndarray = (places // taps * pitch + places % taps).astype(offset_type)
    form = choose_form(weights, None if step.kind == "dense" else offsets, taps, prefer)
    sums = weights.astype(np.int64).sum(axis=1)
    tables = {
        "bias": (step.operation.bias - taken[0].output.zero_point * sums).astype(np.int32),
        "multiplier": np.array(
            [scaling.multiplier for scaling in scalings], np.int64 if step.kind == "dense" else np.int32
        ),
        "shift": np.array([scaling.shift for scaling in scalings], np.int8),
        **form.list_tables(),
    }
    pixels = 1 if step.kind == "dense" else _count_pixels(taken[0])
    computed = _count_pixels(step) * (4 if step.is_pooled else 1) if step.is_image_like else 1
    macs, dense_macs = len(form.values) * computed, step.operation.kernel.size * pixels
    return Layer(step, window, inputs, form, tables, taps, pitch, macs, dense_macs, scalings)


def _arrange_weights(step: Step, taken: Taken) -> tuple[np.ndarray, int, int]:
    """Arranges the weights of each output in the order in which their inputs lie in memory.

    Returns:
        (outputs, places) int8; how many neighbours share a line; the bytes from one line to the next.
    """
    assert step.operation is not None  # noqa: S101  (only the image has none)
    kernel, window = step.operation.kernel, taken.window
    if step.kind != "dense":
        pitch = window.pitch if step.kind == "conv" else window.row_bytes
        return kernel.transpose(0, 1, 3, 2).reshape(len(kernel), -1), kernel.shape[2], pitch
    if not taken.step.is_image_like:
        return kernel, 1, 1
    height, width, channels = taken.step.output.shape
    y, x, channel = np.meshgrid(np.arange(height), np.arange(width), np.arange(channels), indexing="ij")
    place = y * window.row_bytes + channel * window.pitch + x
    weights = np.zeros((len(kernel), place.max() + 1), np.int8)
    weights[:, place.ravel()] = kernel
    return weights, 1, 1
