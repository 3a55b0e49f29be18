import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from stages import complexity as stage
from stages.complexity import (
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
from stages.lib.storage.files import read_csv, read_json, write_arrays

PARAMS = Path(__file__).parents[1] / "params.yaml"
TINY = list_layers(4, 3, [[2]], False, False, False, dense=[5], batch_norm=["conv"], dropout=0.1)
RESIDUAL = list_layers(4, 3, [[2], [2, 3, 2]], False, True, True, dense=[], batch_norm=["conv"], dropout=0.1)
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


def test_peak_is_the_largest_pair_and_layers_that_work_in_place_hold_one_tensor() -> None:
    third = list_layers(28, 10, [[32, 64], [64, 128]], False, False, False, [128], ["conv", "dense"], 0.2)
    assert compute_peak_activation_bytes(third) == 4 * max(PAIRS_OF_THIRD.values()) == 4 * PAIRS_OF_THIRD["conv2"]


def test_peak_of_a_pair_holds_the_shortcut_beside_the_input_and_the_output_of_its_last_convolution() -> None:
    wide = list_layers(4, 3, [[2, 5, 2]], False, True, True, [], ["conv"], 0)
    assert compute_peak_activation_bytes(wide) == 4 * 16 * (2 + 5 + 2)
    without = list_layers(4, 3, [[2, 5, 2]], False, False, True, [], ["conv"], 0)
    assert compute_peak_activation_bytes(without) == 4 * 16 * (5 + 2)


def test_peak_of_a_separable_network_holds_input_and_output_of_a_depthwise_convolution_and_the_shortcut() -> None:
    narrowing = list_layers(4, 3, [[8, 2]], True, False, True, [], ["conv"], 0)
    assert compute_peak_activation_bytes(narrowing) == 4 * 16 * (8 + 8)
    residual = list_layers(4, 3, [[4, 4, 4]], True, True, True, [], ["conv"], 0)
    assert compute_peak_activation_bytes(residual) == 4 * 16 * (4 + 4 + 4)


def test_a_shortcut_is_counted_once_where_it_is_the_input_itself_and_not_after_its_add() -> None:
    narrow = list_layers(4, 3, [[4, 1, 4]], False, True, True, [], [], 0)
    last = [*narrow, Layer("after", "conv", (4, 4, 4), (4, 4, 4), kernel_size=3)]
    first, second, third, after = (
        compute_waiting_bytes(last, index) for index, layer in enumerate(last) if layer.kind == "conv"
    )
    assert (first, second, third, after) == (0, 0, 4 * 16 * 4, 0)


@pytest.mark.parametrize("dense", [[], [5]])
@pytest.mark.parametrize(("global_pool", "batch_norm"), [(True, []), (False, []), (False, ["flatten"])])
def test_receptive_field_of_the_metrics_is_that_of_the_last_window(
    global_pool: bool, batch_norm: list[str], dense: list[int]
) -> None:
    layers = list_layers(8, 3, [[2], [2]], False, False, global_pool, dense, batch_norm, 0.1)
    metrics = sum_up(measure_layers(layers, compute_receptive_fields(layers)), layers)
    assert metrics["receptive_field_px"] == (8 if global_pool else 10)  # 3, pooled 4, then 8, pooled 10


def test_field_that_is_clipped_is_described_with_what_is_left_of_it() -> None:
    assert (
        describe_field(TINY[0], ReceptiveField(3, 1, 0.0, 1, 3)) == "conv1: 3 x 3 px\npixels 1 to 3, a unit every 1 px"
    )
    clipped = describe_field(TINY[0], ReceptiveField(9, 2, 0.5, 0, 3))
    assert clipped == "conv1: 9 x 9 px, 4 x 4 inside\npixels 0 to 3, a unit every 2 px"


def test_squares_frame_exactly_the_pixels_that_the_center_units_see() -> None:
    axes = plot_receptive_field(TINY, FIELDS, IMAGE, "Coat", "tiny").axes[0]
    squares = get_rectangles(axes)
    corners = [(square.get_x(), square.get_y(), square.get_width(), square.get_height()) for square in squares]
    assert corners == [(0.5, 0.5, 3, 3), (0.5, 0.5, 3, 3)]  # pixels 1 to 3; a pixel reaches 0.5 to either side
    assert [square.get_linestyle() for square in squares] == ["-", "--"]


def test_a_coloured_image_is_drawn_pale_in_its_colours() -> None:
    image = np.array([[(255, 0, 0), (0, 0, 0)], [(255, 255, 255), (0, 101, 0)]], np.uint8)
    axes = plot_receptive_field(TINY, FIELDS, image, "Coat", "tiny").axes[0]
    shown = np.asarray(axes.images[0].get_array())
    assert shown.tolist() == [[[255, 128, 128], [128, 128, 128]], [[255, 255, 255], [128, 178, 128]]]


def test_of_a_separable_convolution_the_depthwise_part_is_drawn_alone() -> None:
    layers = list_layers(4, 3, [[2, 2]], True, False, False, [], ["conv"], 0)
    axes = plot_receptive_field(layers, compute_receptive_fields(layers), IMAGE, "Coat", "tiny").axes[0]
    names = [text.get_text().partition(":")[0] for text in axes.texts]
    assert names == ["conv1", "conv2_depthwise", "pool1"]


@pytest.fixture
def crumb(tmp_dir: Path) -> Path:
    """The folder of a run: the committed params.yaml and two training images."""
    shutil.copy(PARAMS, tmp_dir)
    write_arrays(tmp_dir / stage.TRAIN, images=np.zeros((2, 28, 28), np.uint8), labels=np.array([9, 0], np.uint8))
    return tmp_dir


@pytest.mark.usefixtures("crumb")
def test_stage_writes_its_files_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["complexity", "third"])
    stage.main()
    written = {path.name for path in Path("data/complexity/third").iterdir()}
    assert written >= {"layers.csv", "metrics.json", "receptive_field.png"}
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
def test_unknown_model_is_refused_with_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["complexity", "thrid"])
    with pytest.raises(UserError, match="model: unknown name 'thrid'; did you mean 'third'"):
        stage.main()
    assert not Path("data/complexity").exists()
