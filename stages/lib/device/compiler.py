"""Compiles int8 LiteRT files of this project to C99 that needs no library and no runtime. No TensorFlow."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from stages.lib.device.encode import Form
from stages.lib.device.layers import Layer, choose_offset_type, make_layer
from stages.lib.device.plan import make_plan
from stages.lib.device.reader import read_network
from stages.lib.device.steps import list_steps
from stages.lib.litert.runtime import quantize
from stages.lib.network.pixels import scale_pixels

TEMPLATES = Path(__file__).parent / "templates"
KERNELS = (
    "scale",
    "scale_once",
    "clip",
    "fill",
    "window",
    "get_row",
    "avx2",
    "expand",
    "sum_sparse",
    "sum_dense3",
    "sum_dense1",
    "store_line",
    "store_pooled",
    "max_pool",
    "dot_sparse",
    "dot_dense",
)
"""Functions that layers share, in the order in which they use each other; each is a file of `templates/kernels`."""
LINE_WIDTH = 120


@dataclass(frozen=True)
class LayerCost:
    """What a layer with a kernel costs.

    Attributes:
        name: such as conv2; the last one is logits.
        kind: conv, depthwise or dense.
        macs: multiply-accumulates for an image.
        dense_macs: the same with no zero skipped, and for each pixel of a convolution.
        weights_bytes: of its constant tables.
        form: sparse or dense.
    """

    name: str
    kind: str
    macs: int
    dense_macs: int
    weights_bytes: int
    form: str


@dataclass(frozen=True)
class Code:
    """A network as C99.

    Attributes:
        source: model.c.
        header: model.h.
        buffer_bytes: working memory that the caller gives; aligned to 4.
        weights_bytes: of all constant tables.
        macs: multiply-accumulates for an image.
        dense_macs: the same with no zero skipped.
        layers: what each layer with a kernel costs, in order.
    """

    source: str
    header: str
    buffer_bytes: int
    weights_bytes: int
    macs: int
    dense_macs: int
    layers: list[LayerCost]


def compile_to_c(content: bytes, class_names: Sequence[str], prefer: str) -> Code:
    """Compiles a LiteRT file to C, whose logits are those of LiteRT's reference kernels, bit for bit.

    Args:
        content: of an int8 LiteRT file, from a square image to logits.
        class_names: one for each logit.
        prefer: size or speed: each kernel is stored with or without its zeros, whichever is smaller or faster on a
            small device; dense: all weights are stored and computed with, as a control.

    Raises:
        UserError: if the file is none that is known here; the message names the layer.
        ValueError: if there are not as many names as logits.
    """
    network = read_network(content)
    steps = {step.name: step for step in list_steps(network)}
    plan = make_plan(list(steps.values()))
    offset_type = choose_offset_type(list(steps.values()), plan)
    layers = [make_layer(step, steps, plan, offset_type, prefer) for step in steps.values()]
    image, logits = layers[0].step.output, layers[-1].step.output
    if logits.shape != (len(class_names),):
        raise ValueError(f"expected {logits.shape[0]} names of classes; got {len(class_names)}")
    costs = [
        LayerCost(
            layer.step.name,
            layer.step.kind,
            layer.macs,
            layer.dense_macs,
            layer.weights_bytes,
            "dense" if layer.form.name == "dense" else "sparse",
        )
        for layer in layers
        if layer.form
    ]
    quantized = quantize(scale_pixels(np.arange(256, dtype=np.uint8)), image.scale, image.zero_point)
    buffer_bytes = plan.buffer_bytes
    weights_bytes = sum(cost.weights_bytes for cost in costs) + quantized.nbytes
    macs, dense_macs = sum(cost.macs for cost in costs), sum(cost.dense_macs for cost in costs)
    header = _render(
        "model.h",
        image=image,
        logits=logits,
        class_names=class_names,
        buffer_bytes=buffer_bytes,
        weights_bytes=weights_bytes,
        macs=macs,
        dense_macs=dense_macs,
    )
    is_wide = any(layer.is_wide for layer in layers)
    source = _render(
        "model.c",
        class_names=class_names,
        costs=costs,
        quantized=quantized,
        kernels=_list_kernels(layers),
        layers=layers,
        phases=[[layer for layer in layers if layer.step.name in phase] for phase in plan.phases],
        is_wide=is_wide,
        scales_lines_alone=not is_wide and not any(layer.step.kind in ("add", "mean") for layer in layers),
        offset_type=f"{np.dtype(offset_type).name}_t",
        widest=max((layer.sums_per_line for layer in layers if layer.step.kind in ("conv", "depthwise")), default=1),
    )
    return Code(source, header, buffer_bytes, weights_bytes, macs, dense_macs, costs)


def _render(template: str, **values: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=False,  # noqa: S701  (C, no HTML)
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "table": format_table,
        "c_string": format_string,
        "c_float": format_float,
        "c_int": lambda number: str(number) if number >= 0 else f"({number})",
        "row": format_row,
        "shape": lambda shape: "x".join(map(str, shape)),
        "number": lambda number: f"{number:,}",
    }
    return environment.get_template(template).render(**values)


def format_table(values: np.ndarray, declaration: str) -> str:
    """Writes a constant array; an empty one gets a zero, since C has no empty arrays.

    >>> print(format_table(np.array([1, -2]), "int8_t conv1_values"))
    static const int8_t conv1_values[2] = {
        1, -2};
    """
    numbers = ", ".join(map(str, values.tolist() or [0])) + "};"
    lines, start, width = [], 0, LINE_WIDTH - 4
    while len(numbers) - start > width:  # textwrap would take minutes
        end = numbers.rindex(",", start, start + width) + 1
        lines.append(numbers[start:end])
        start = end + 1
    lines.append(numbers[start:])
    return "\n    ".join([f"static const {declaration}[{max(len(values), 1)}] = {{", *lines])


def format_string(text: str) -> str:
    r"""Writes a text as a C string in UTF-8; all but plain ASCII is escaped, and ?, with which trigraphs start.

    >>> print(format_string('a "b" ü'))
    "a \"b\" \303\274"
    """
    escaped = {byte: f"\\{chr(byte)}" for byte in b'"\\?'}
    return '"' + "".join(escaped.get(b, chr(b) if 32 <= b < 127 else f"\\{b:03o}") for b in text.encode()) + '"'


def format_float(value: float) -> str:
    """Writes a float32 in as few digits as tell it from all others.

    >>> format_float(1 / 255), format_float(1.0)
    ('0.003921569f', '1.0f')
    """
    return f"{np.float32(value)!s}f"


def format_row(stride: int, offset: int) -> str:
    """Writes the row stride * y + offset.

    >>> format_row(2, 3), format_row(1, 0)
    ('2 * y + 3', 'y')
    """
    return (f"{stride} * y" if stride > 1 else "y") + (f" + {offset}" if offset else "")


def _list_kernels(layers: Sequence[Layer]) -> list[str]:
    """Lists those of `KERNELS` that some layers need."""
    needed = {"clip", "window"}
    if any(layer.window and layer.window.padding for layer in layers):
        needed.add("fill")
    if any(layer.step.kind not in ("image", "dense") for layer in layers):
        needed.add("get_row")
    for layer in layers:
        match layer.step.kind, layer.form:
            case "dense", Form(name=form):
                needed |= {"scale_once", "dot_dense" if form == "dense" else "dot_sparse"}
            case _, Form(name=form):
                needed |= {"scale", "avx2", "store_pooled" if layer.step.is_pooled else "store_line"}
                needed |= {f"sum_dense{layer.taps}"} if form == "dense" else {"sum_sparse"}
                needed |= {"expand"} if form == "gaps" else set()
            case (("add" | "mean"), _):
                needed.add("scale")
            case "max_pool", _:
                needed.add("max_pool")
    return [name for name in KERNELS if name in needed]
