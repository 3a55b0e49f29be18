"""What does each layer of a model cost, and how much of the image does it see? `python -m stages.complexity MODEL`.

Reads `params.yaml` and, for one picture to draw on, `data/prepare/train.npz`.
Writes, in `data/complexity/MODEL/`:

- `layers.csv`: a row per layer; receptive field in pixels, counts for one image and one forward pass;
- `metrics.json`: the totals;
- `receptive_field.png`: the growth of the receptive field, over a training image.

Everything follows from the list of layers: no network is built, and nothing is measured.
"""

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from stages.lib.cost.macs import count_flops, count_macs, count_parameters, count_study_flops, count_study_macs
from stages.lib.cost.receptive_field import ReceptiveField, compute_receptive_fields
from stages.lib.network.architecture import Layer, list_layers
from stages.lib.params.load import load_params
from stages.lib.pictures.style import write_figure
from stages.lib.running.arguments import parse_names
from stages.lib.running.runner import run_stage
from stages.lib.storage.files import read_split, write_csv, write_json

READS = ("dataset.image_size_px", "dataset.channels", "dataset.class_names", "models")
TRAIN = Path("data/prepare/train.npz")
OUTPUT = Path("data/complexity")

FLOAT32_BYTES = 4
WRITES_A_NEW_TENSOR = ("conv", "depthwise_conv", "max_pool", "global_average_pool", "dense")
"""Kinds of layer; the others can overwrite their input."""


def compute_activation_bytes(shape: Sequence[int]) -> int:
    """Computes the memory of the float32 activations of one image."""
    return prod(shape) * FLOAT32_BYTES


def compute_peak_activation_bytes(layers: Sequence[Layer]) -> int:
    """Computes the most memory that activations take together, one image, layer by layer.

    These are the input of a layer, its output, and a shortcut that waits for its add while the convolutions beside it
    run. Batch normalization, ReLU, dropout and flatten overwrite their input, so only other kinds hold input and output
    at once. An add overwrites what the convolution before it wrote. It holds no more than that convolution did, whose
    input is no longer needed.
    """
    return max(
        compute_activation_bytes(layer.input_shape)
        + compute_activation_bytes(layer.output_shape)
        + compute_waiting_bytes(layers, index)
        for index, layer in enumerate(layers)
        if layer.kind in WRITES_A_NEW_TENSOR
    )


def compute_waiting_bytes(layers: Sequence[Layer], index: int) -> int:
    """Computes the memory of shortcuts that wait for a later add while layer `index` runs, its own input left out."""
    awaited = {layer.shortcut for layer in layers[index + 1 :]}
    earlier = layers[: max(index - 1, 0)]  # without the layer just before, whose output is the input
    return sum(compute_activation_bytes(layer.output_shape) for layer in earlier if layer.name in awaited)


def measure_layers(layers: Sequence[Layer], fields: Sequence[ReceptiveField]) -> list[dict[str, Any]]:
    """Computes a row of `layers.csv` for each layer; shares are fractions of the model's total."""
    total_macs = sum(map(count_macs, layers))
    total_parameters = sum(map(count_parameters, layers))
    return [
        {
            "layer": layer.name,
            "kind": layer.kind,
            "output_shape": "x".join(map(str, layer.output_shape)),
            "receptive_field_px": field.size_px,
            "jump_px": field.jump_px,
            "start_px": field.start_px,
            "extent_first_px": field.first_px,
            "extent_last_px": field.last_px,
            "macs": count_macs(layer),
            "flops": count_flops(layer),
            "study_macs": count_study_macs(layer),
            "study_flops": count_study_flops(layer),
            "parameters": count_parameters(layer),
            "activation_bytes": compute_activation_bytes(layer.output_shape),
            "macs_share": round(count_macs(layer) / total_macs, 6),
            "parameters_share": round(count_parameters(layer) / total_parameters, 6),
        }
        for layer, field in zip(layers, fields, strict=True)
    ]


def sum_up(rows: Sequence[Mapping[str, Any]], layers: Sequence[Layer]) -> dict[str, int]:
    """Computes the content of `metrics.json`.

    The receptive field is that of the last layer before a unit sees the whole image, in the global pool or in the first
    dense layer: the last one whose units lie on a grid.
    """
    summed = ("macs", "flops", "study_macs", "study_flops", "parameters")
    fields_on_a_grid = [row["receptive_field_px"] for row in rows if row["jump_px"] is not None]
    return {
        **{name: sum(row[name] for row in rows) for name in summed},
        "receptive_field_px": fields_on_a_grid[-1],
        "peak_activation_bytes": compute_peak_activation_bytes(layers),
    }


def describe_field(layer: Layer, field: ReceptiveField) -> str:
    """Describes a layer's receptive field in two short lines; `inside` is the part that the image holds."""
    seen = field.last_px - field.first_px + 1
    clipped = f", {seen} x {seen} inside" if seen < field.size_px else ""
    return (
        f"{layer.name}: {field.size_px} x {field.size_px} px{clipped}\n"
        f"pixels {field.first_px} to {field.last_px}, a unit every {field.jump_px} px"
    )


def plot_receptive_field(
    layers: Sequence[Layer], fields: Sequence[ReceptiveField], image: np.ndarray, class_name: str, model_name: str
) -> Figure:
    """Plots what the center unit of each convolution and pool sees: nested squares over `image`, pale.

    Convolutions are solid and pools dashed, so that edges that coincide stay visible. A pointwise convolution is left
    out: it sees what the layer before it sees. `image` is uint8: (N, N), where 0 is drawn white, or (N, N, 3).
    """
    shown = [(layer, field) for layer, field in zip(layers, fields, strict=True) if layer.kernel_size > 1]
    side = image.shape[0]
    colors = colormaps["plasma"](np.linspace(0, 0.75, len(shown)))  # the rest is too light for a white ground
    label_ys = side * np.linspace(min(0.95, 0.1 * len(shown)), 0.05, len(shown)) - 0.5  # the first layer lowest
    figure, (axes, margin) = plt.subplots(1, 2, figsize=(8.5, max(5.6, 0.5 * len(shown))), width_ratios=(5, 2))
    margin.set_axis_off()  # it keeps the place of the labels
    if image.ndim == 3:  # the limits below are for one channel alone
        image = 255 - (255 - image) // 2
    axes.imshow(image, cmap="gray_r", vmin=0, vmax=2 * 255)  # pale, so that the squares stand out
    for (layer, field), color, label_y in zip(shown, colors, label_ys, strict=True):
        corner, width = field.first_px - 0.5, field.last_px - field.first_px + 1  # pixel i is i - 0.5 to i + 0.5
        style = {"edgecolor": color, "linestyle": "--" if layer.kind == "max_pool" else "-"}
        axes.add_patch(Rectangle((corner, corner), width, width, fill=False, linewidth=2, **style))
        axes.annotate(
            describe_field(layer, field),
            xy=(corner + width, corner),
            xytext=(1.05 * side, label_y),
            color=color,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "linewidth": 0.8, "relpos": (0, 0.5), **style},
        ).set_in_layout(False)
    axes.set(title="solid: convolution, dashed: pool", xlabel="column, pixels", ylabel="row, pixels")
    figure.suptitle(f"What the center unit of each layer of the {model_name} model sees ({class_name})", weight="bold")
    return figure


def main() -> None:
    """Runs the stage."""
    params = load_params(reads=READS)
    (name,) = parse_names(__doc__, model="models")
    class_names = params.dataset.class_names
    layers = list_layers(
        params.dataset.image_size_px,
        len(class_names),
        **params.models[name].model_dump(),
        channels=params.dataset.channels,
    )
    fields = compute_receptive_fields(layers)
    images, labels = read_split(TRAIN)
    rows = measure_layers(layers, fields)
    metrics = sum_up(rows, layers)
    write_csv(OUTPUT / name / "layers.csv", rows)
    write_json(OUTPUT / name / "metrics.json", metrics)
    figure = plot_receptive_field(layers, fields, images[0], class_names[labels[0]], name)
    write_figure(OUTPUT / name / "receptive_field.png", figure)
    print(f"{OUTPUT / name}: {metrics['macs']:,} MACs, {metrics['parameters']:,} parameters")


if __name__ == "__main__":
    run_stage(main)
