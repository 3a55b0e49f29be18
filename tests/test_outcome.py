from pathlib import Path

import numpy as np
import pytest

from stages.lib.network.keras2 import keras
from stages.lib.network.model import read_model
from stages.lib.storage.files import read_arrays, read_csv, read_json
from stages.lib.training.outcome import describe_run, write_trained

FILES = {"model.h5", "history.csv", "metrics.json", "probabilities.npz"}
ROWS = [{"epoch": 1, "split": "val", "accuracy": 0.5}]


def test_a_training_leaves_its_model_its_curves_and_what_the_model_says_of_validation_images(tmp_path: Path) -> None:
    logits_are_pixels = keras.Sequential([keras.layers.InputLayer(input_shape=(1, 2, 1)), keras.layers.Flatten()])
    images, labels = np.array([[[255, 0]], [[0, 255]]], np.uint8), np.array([0, 0], np.uint8)

    metrics = write_trained(tmp_path / "new", logits_are_pixels, ROWS, (images, labels))

    # Logits 1, 0 and 0, 1: the true class has 1 / (1 + 1/e) = 0.731059 and 0.268941; the mean of -ln is 0.813262.
    # One class has images, half of which are found; two are predicted: their F1 are 2/3 and 0.
    measured = {"val_accuracy": 0.5, "val_balanced_accuracy": 0.5, "val_macro_f1": 0.333333, "val_loss": 0.813262}
    assert metrics == measured
    assert {path.name for path in (tmp_path / "new").iterdir()} == FILES
    assert read_json(tmp_path / "new/metrics.json") == metrics
    assert read_csv(tmp_path / "new/history.csv") == [{"epoch": "1", "split": "val", "accuracy": "0.5"}]
    assert len(read_model(tmp_path / "new/model.h5").layers) == 1
    stored, probabilities = read_arrays(tmp_path / "new/probabilities.npz", "labels", "val")
    assert np.array_equal(stored, labels)
    assert probabilities.dtype == np.float16
    np.testing.assert_allclose(probabilities, [[0.731059, 0.268941], [0.268941, 0.731059]], atol=5e-4)


def test_a_run_is_described_with_its_times_settings_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    run = describe_run(12.345, 1000, "float32", "a CPU")

    assert list(run) == [
        *("seconds", "images_per_second", "policy", "cpu", "num_cpus", "settings", "date", "python"),
        *("tensorflow", "tf-keras", "tensorflow-model-optimization", "numpy", "h5py", "dvc"),
    ]
    assert (run["seconds"], run["images_per_second"], run["policy"], run["cpu"]) == (12.3, 81, "float32", "a CPU")
    assert run["settings"]["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert run["numpy"] == np.__version__
