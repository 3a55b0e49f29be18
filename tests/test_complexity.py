import shutil
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from stages import complexity as stage
from stages.complexity import (
    compute_activation_bytes,
    compute_peak_activation_bytes,
    compute_waiting_bytes,
    describe_field,
    measure_layers,
    plot_receptive_field,
    sum_up,
)
from stages.lib.cost.receptive_field import ReceptiveField, compute_receptive_fields
from stages.lib.errors import UserError
from stages.lib.network.architecture import Layer, list_layers
from stages.lib.pictures.style import write_figure
from stages.lib.storage.files import read_csv, read_json, write_arrays

PARAMS = Path(__file__).parents[1] / "params.yaml"
TINY = list_layers(4, 3, [[2]], False, False, dense=[5], batch_norm=["conv"], dropout=0.1)
RESIDUAL = list_layers(4, 3, [[2], [2, 3, 2]], True, True, dense=[], batch_norm=["conv"], dropout=0.1)
FIELDS = compute_receptive_fields(TINY)
IMAGE = np.arange(16, dtype=np.uint8).reshape(4, 4)

PAIRS_OF_THIRD = {  # floats of the input and of the output, one image
    "conv1": 28 * 28 * (1 + 32),
    "conv2": 28 * 28 * (32 + 64),
    "pool1": 28 * 28 * 64 + 14 * 14 * 64,
}


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def get_rectangles(axes: Axes) -> list[Rectangle]:
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


def test_rows_of_a_tiny_network_are_written_in_full() -> None:
    rows = [list(row.values()) for row in measure_layers(TINY, FIELDS)]
    # conv: 32 outputs x 9; dense: 8 x 5 and 5 x 3; of 343 MACs and of 91 parameters
    assert rows == [
        ["conv1", "conv", "4x4x2", 3, 1, 0.0, 1, 3, 288, 576, 288, 320, 20, 128, 0.83965, 0.21978],
        ["conv1_bn", "batch_norm", "4x4x2", 3, 1, 0.0, 1, 3, 0, 0, 0, 0, 8, 128, 0, 0.087912],
        ["conv1_relu", "relu", "4x4x2", 3, 1, 0.0, 1, 3, 0, 0, 0, 0, 0, 128, 0, 0],
        ["pool1", "max_pool", "2x2x2", 4, 2, 0.5, 1, 3, 0, 0, 0, 0, 0, 32, 0, 0],
        ["flatten", "flatten", "8", 4, 2, 0.5, 1, 3, 0, 0, 0, 0, 0, 32, 0, 0],
        ["dense1", "dense", "5", 4, None, None, 0, 3, 40, 80, 45, 45, 45, 20, 0.116618, 0.494505],
        ["dense1_relu", "relu", "5", 4, None, None, 0, 3, 0, 0, 0, 0, 0, 20, 0, 0],
        ["dense1_dropout", "dropout", "5", 4, None, None, 0, 3, 0, 0, 0, 0, 0, 20, 0, 0],
        ["logits", "dense", "3", 4, None, None, 0, 3, 15, 30, 18, 18, 18, 12, 0.043732, 0.197802],
    ]


@pytest.mark.parametrize("share", ["macs_share", "parameters_share"])
def test_shares_sum_to_one(share: str) -> None:
    assert sum(row[share] for row in measure_layers(TINY, FIELDS)) == pytest.approx(1, abs=1e-5)


def test_metrics_of_a_tiny_network_are_its_totals() -> None:
    assert sum_up(measure_layers(TINY, FIELDS), TINY) == {
        "macs": 343,
        "flops": 686,
        "study_macs": 351,
        "study_flops": 383,
        "parameters": 91,
        "receptive_field_px": 4,
        "peak_activation_bytes": 192,  # the convolution: 16 + 32 floats
    }


def test_activations_are_float32() -> None:
    assert compute_activation_bytes((28, 28, 32)) == 28 * 28 * 32 * 4


def test_peak_is_the_largest_pair_and_layers_that_work_in_place_hold_one_tensor() -> None:
    third = list_layers(28, 10, [[32, 64], [64, 128]], False, False, [128], ["conv", "dense"], 0.2)
    assert compute_peak_activation_bytes(third) == 4 * max(PAIRS_OF_THIRD.values()) == 4 * PAIRS_OF_THIRD["conv2"]


def test_peak_may_be_at_a_pool() -> None:
    pool = Layer("pool", "max_pool", (4, 4, 8), (2, 2, 8), kernel_size=2, strides=2)
    dense = Layer("logits", "dense", (32,), (3,))
    assert compute_peak_activation_bytes([pool, dense]) == 4 * (128 + 32)


def test_peak_of_a_pair_holds_the_shortcut_beside_the_input_and_the_output_of_its_last_convolution() -> None:
    wide = list_layers(4, 3, [[2, 5, 2]], True, True, [], ["conv"], 0)
    assert compute_peak_activation_bytes(wide) == 4 * 16 * (2 + 5 + 2)
    without = list_layers(4, 3, [[2, 5, 2]], False, True, [], ["conv"], 0)
    assert compute_peak_activation_bytes(without) == 4 * 16 * (5 + 2)


def test_a_shortcut_is_counted_once_where_it_is_the_input_itself_and_not_after_its_add() -> None:
    narrow = list_layers(4, 3, [[4, 1, 4]], True, True, [], [], 0)
    last = [*narrow, Layer("after", "conv", (4, 4, 4), (4, 4, 4), kernel_size=3)]
    first, second, third, after = (
        compute_waiting_bytes(last, index) for index, layer in enumerate(last) if layer.kind == "conv"
    )
    assert (first, second, third, after) == (0, 0, 4 * 16 * 4, 0)


def test_peak_may_be_at_a_global_pool() -> None:
    pool = Layer("global_pool", "global_average_pool", (4, 4, 8), (8,))
    assert compute_peak_activation_bytes([pool, Layer("logits", "dense", (8,), (3,))]) == 4 * (128 + 8)


def test_peak_of_the_fifth_model_is_at_its_first_pair() -> None:
    fifth = list_layers(28, 10, [[32] * 3, [96] * 3, [128] * 3], True, True, [], ["conv"], 0)
    assert compute_peak_activation_bytes(fifth) == 4 * 3 * 28 * 28 * 32


@pytest.mark.parametrize("dense", [[], [5]])
@pytest.mark.parametrize(("global_pool", "batch_norm"), [(True, []), (False, []), (False, ["flatten"])])
def test_receptive_field_of_the_metrics_is_that_of_the_last_window(
    global_pool: bool, batch_norm: list[str], dense: list[int]
) -> None:
    layers = list_layers(8, 3, [[2], [2]], False, global_pool, dense, batch_norm, 0.1)
    metrics = sum_up(measure_layers(layers, compute_receptive_fields(layers)), layers)
    assert metrics["receptive_field_px"] == (8 if global_pool else 10)  # 3, pooled 4, then 8, pooled 10


def test_receptive_field_of_the_metrics_without_windows_is_a_pixel() -> None:
    layers = list_layers(8, 3, [], False, False, [5], [], 0)
    assert sum_up(measure_layers(layers, compute_receptive_fields(layers)), layers)["receptive_field_px"] == 1


def test_field_that_is_clipped_is_described_with_what_is_left_of_it() -> None:
    assert (
        describe_field(TINY[0], ReceptiveField(3, 1, 0.0, 1, 3)) == "conv1: 3 x 3 px\npixels 1 to 3, a unit every 1 px"
    )
    clipped = describe_field(TINY[0], ReceptiveField(9, 2, 0.5, 0, 3))
    assert clipped == "conv1: 9 x 9 px, 4 x 4 inside\npixels 0 to 3, a unit every 2 px"


def test_the_picture_of_a_residual_network_shows_neither_adds_nor_the_global_pool() -> None:
    fields = compute_receptive_fields(RESIDUAL)
    squares = get_rectangles(plot_receptive_field(RESIDUAL, fields, IMAGE, "Coat", "tiny").axes[0])
    assert [square.get_linestyle() for square in squares] == ["-", "--", "-", "-", "-"]


def test_squares_frame_exactly_the_pixels_that_the_center_units_see() -> None:
    axes = plot_receptive_field(TINY, FIELDS, IMAGE, "Coat", "tiny").axes[0]
    squares = get_rectangles(axes)
    corners = [(square.get_x(), square.get_y(), square.get_width(), square.get_height()) for square in squares]
    assert corners == [(0.5, 0.5, 3, 3), (0.5, 0.5, 3, 3)]  # pixels 1 to 3; a pixel reaches 0.5 to either side
    assert [square.get_linestyle() for square in squares] == ["-", "--"]


@pytest.mark.parametrize("blocks", [[], [[2]], [[2, 2], [2, 2], [2, 2, 2, 2]]], ids=["none", "one", "many"])
def test_labels_of_the_receptive_field_stay_inside_the_picture_and_apart(blocks: list[list[int]]) -> None:
    layers = list_layers(28, 3, blocks, False, False, [], [], 0)
    image = np.zeros((28, 28), np.uint8)
    figure = plot_receptive_field(layers, compute_receptive_fields(layers), image, "Ankle boot", "eleven_words")
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(label) for label in figure.axes[0].texts]  # without their lines; lowest first
    assert len(boxes) == sum(len(block) + 1 for block in blocks)
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 for box in boxes)
    assert all(lower.y1 <= upper.y0 for lower, upper in pairwise(boxes))


def test_same_pictures_have_the_same_bytes(tmp_dir: Path) -> None:
    for name in ("one", "two"):
        write_figure(tmp_dir / f"{name}_field.png", plot_receptive_field(TINY, FIELDS, IMAGE, "Coat", "tiny"))
    assert (tmp_dir / "one_field.png").read_bytes() == (tmp_dir / "two_field.png").read_bytes()


@pytest.fixture
def crumb(tmp_dir: Path) -> Path:
    """The folder of a run: the committed params.yaml and two training images."""
    shutil.copy(PARAMS, tmp_dir)
    write_arrays(tmp_dir / stage.TRAIN, images=np.zeros((2, 28, 28), np.uint8), labels=np.array([9, 0], np.uint8))
    return tmp_dir


@pytest.mark.usefixtures("crumb")
def test_stage_writes_its_three_files_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["complexity", "third"])
    stage.main()
    written = sorted(path.name for path in Path("data/complexity/third").iterdir())
    assert written == ["layers.csv", "metrics.json", "receptive_field.png"]
    metrics, rows = (
        read_json(Path("data/complexity/third/metrics.json")),
        read_csv(Path("data/complexity/third/layers.csv")),
    )
    assert metrics["macs"] == sum(int(row["macs"]) for row in rows)
    assert (rows[0]["output_shape"], rows[-1]["jump_px"]) == ("28x28x32", "")
    assert capsys.readouterr().out == (
        f"data/complexity/third: {metrics['macs']:,} MACs, {metrics['parameters']:,} parameters\n"
    )


@pytest.mark.usefixtures("crumb")
def test_stage_measures_a_residual_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["complexity", "fifth"])
    stage.main()
    metrics = read_json(Path("data/complexity/fifth/metrics.json"))
    assert (metrics["macs"], metrics["parameters"], metrics["receptive_field_px"]) == (72_480_512, 622_890, 46)


@pytest.mark.usefixtures("crumb")
def test_unknown_model_is_refused_with_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["complexity", "thrid"])
    with pytest.raises(UserError, match="model: unknown name 'thrid'; did you mean 'third'"):
        stage.main()
    assert not Path("data/complexity").exists()
