"""How well scores tell pictures of the classes from others is counted, and the program counts it on pictures given."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from boxes import draw_box, make_model, ship
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import roc_curve

from stages.lib.results.ood import list_bins, measure_separation
from stages.lib.storage.files import write_arrays
from stages.ship import read_digits

ROOT = Path(__file__).parents[1]


def scores_of(*confidence: float) -> dict[str, np.ndarray]:
    return {"confidence": np.array(confidence), "energy_score": -np.array(confidence)}


@pytest.fixture
def drawn() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Scores of 300 known and 200 other pictures, many of them equal."""
    rng = np.random.default_rng(0)
    known, others = rng.normal(0.7, 0.2, 300).round(1), rng.normal(0.5, 0.2, 200).round(1)
    return scores_of(*known), scores_of(*others)


def test_shares_are_those_of_a_few_pictures_counted_by_hand() -> None:
    measured = measure_separation(scores_of(0.9, 0.8, 0.5), scores_of(0.8, 0.4), min_confidence=0.8)

    assert (measured["num_known"], measured["num_others"]) == (3, 2)
    assert (measured["known_answered"], measured["others_answered"]) == (0.666667, 0.5)
    assert measured["confidence_auroc"] == 0.75  # 1 + 0.5 + 0 of 3 pairs with 0.8, and 3 of 3 with 0.4
    assert measured["energy_score_auroc"] == 0.25
    assert measured["confidence_fpr_at_95_tpr"] == 0.5  # all three known are let in from 0.5 on
    assert measured["energy_score_fpr_at_95_tpr"] == 1.0


def test_every_share_has_its_interval_around_it(drawn: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]) -> None:
    measured = measure_separation(*drawn, min_confidence=0.6)

    shares = [name for name in measured if f"{name}_low" in measured]
    assert len(measured) == 2 + 3 * len(shares) == 2 + 3 * 6
    for name in shares:
        assert 0 <= measured[f"{name}_low"] <= measured[name] <= measured[f"{name}_high"] <= 1, name
        assert measured[f"{name}_low"] < measured[f"{name}_high"], name


def test_auroc_counts_pairs_and_the_limit_is_the_highest_that_lets_in_95_percent(
    drawn: tuple[dict[str, np.ndarray], dict[str, np.ndarray]],
) -> None:
    known, others = (each["confidence"] for each in drawn)
    pairs = np.sign(known[:, np.newaxis] - others)
    false_positive, true_positive, _ = roc_curve(
        np.repeat([1, 0], [300, 200]), np.concatenate([known, others]), drop_intermediate=False
    )

    measured = measure_separation(*drawn, min_confidence=0.6)

    assert measured["confidence_auroc"] == pytest.approx((pairs.mean() + 1) / 2, abs=1e-6)
    assert measured["confidence_fpr_at_95_tpr"] == pytest.approx(false_positive[np.argmax(true_positive >= 0.95)])


def test_bins_of_a_score_hold_all_pictures_of_both_kinds_and_have_the_same_ends(
    drawn: tuple[dict[str, np.ndarray], dict[str, np.ndarray]],
) -> None:
    rows = list_bins(*drawn, min_confidence=0.6)

    assert list(dict.fromkeys((row["score"], row["pictures"], row["answered_from"]) for row in rows)) == [
        ("confidence", "known", 0.6),
        ("confidence", "others", 0.6),
        ("energy score", "known", None),
        ("energy score", "others", None),
    ]
    for score in ("confidence", "energy score"):
        of_score = [row for row in rows if row["score"] == score]
        for pictures, scores in zip(("known", "others"), drawn, strict=True):
            fractions = {row["low"]: row["fraction"] for row in of_score if row["pictures"] == pictures}
            assert sum(fractions.values()) == pytest.approx(1, abs=2e-3)
            values = scores[score.replace(" ", "_")]
            first = next(row for row in of_score if row["pictures"] == pictures)
            inside = (values >= first["low"] - 1e-3) & (values < first["high"])
            assert first["fraction"] == pytest.approx(inside.mean(), abs=1e-3)
        edges = sorted({(row["low"], row["high"]) for row in of_score})
        assert all(high <= low for (_, high), (low, _) in pairwise(edges))


@pytest.mark.parametrize("size", [8, 28])
def test_digits_are_light_on_black_in_the_range_of_the_images_and_scaled_to_their_size(size: int) -> None:
    digits, original = read_digits(size, channels=1, is_light_on_dark=True)[..., 0], load_digits().images

    assert (digits.shape, digits.dtype.name) == ((1797, size, size), "uint8")
    assert (digits.min(), digits.max()) == (0, 255)
    assert np.median(digits) < 64
    shrunk = [np.asarray(Image.fromarray(digit).resize((8, 8), Image.Resampling.BOX)) for digit in digits[:100]]
    assert np.corrcoef(np.ravel(shrunk), original[:100].ravel())[0, 1] > 0.98
    if size == 8:
        np.testing.assert_array_equal(digits, np.rint(original * 255 / 16))


# The program


@pytest.fixture(scope="module")
def content() -> bytes:
    return make_model()


@pytest.fixture
def folder(tmp_path: Path, content: bytes) -> Path:
    """A folder with a model that is sure of large boxes, test images of which it is, and pictures of three boxes."""
    ship(tmp_path / "data/ship/model.tflite", content, min_confidence=0.9)
    write_arrays(
        tmp_path / "data/prepare/test.npz", images=np.full((40, 28, 28), 255, np.uint8), labels=np.zeros(40, np.uint8)
    )
    (tmp_path / "pictures/more").mkdir(parents=True)
    (tmp_path / "pictures/square.png").write_bytes(draw_box(150, 150))
    (tmp_path / "pictures/more/tall.png").write_bytes(draw_box(60, 200))
    (tmp_path / "pictures/more/wide.png").write_bytes(draw_box(180, 60))
    (tmp_path / "pictures/more/notes.txt").write_text("no picture")
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the program as a user does."""
    command = [sys.executable, "-m", "stages.tools.ood", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_pictures_in_files_and_folders_are_measured_beside_the_test_images_and_nothing_is_written(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    result = run(folder, "pictures")

    assert (result.returncode, result.stderr) == (0, "")
    all_of_them, none_of_them = "100.00 % (100.0 to 100.0)", "0.00 % (0.0 to 56.1)"
    assert result.stdout.splitlines() == [
        "3 pictures, 1 refused",
        "answered: 33.33 % (6.1 to 79.2) of them, 100.00 % (91.2 to 100.0) of 40 test images",
        "taken for: Trouser 1, Sneaker 1, Bag 1",
        "pairs in which the test image has the higher score (AUROC): "
        f"{all_of_them} by confidence, {all_of_them} by energy score",
        f"let in where 95 % of the test images are: {none_of_them} by confidence, {none_of_them} by energy score",
    ]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    files = [str(path.relative_to(folder)) for path in sorted((folder / "pictures").rglob("*.png"))]
    assert run(folder, *files).stdout == result.stdout.replace("1 refused", "0 refused")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["pictures/square.png"], "PICTURE: expected at least 2 that predict can read, got 1"),
        (["empty"], "PICTURE: expected at least 2 that predict can read, got 0"),
        (["absent.png"], "PICTURE: expected at least 2 that predict can read, got 0; absent.png: No such file"),
    ],
)
def test_too_few_pictures_are_one_line_that_says_why(folder: Path, given: list[str], message: str) -> None:
    (folder / "empty").mkdir()

    result = run(folder, *given)

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("missing", ["data/ship/model.tflite", "data/prepare/test.npz"])
def test_what_is_missing_of_a_run_is_one_line(folder: Path, missing: str) -> None:
    (folder / missing).unlink()

    result = run(folder, "pictures")

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {missing}: not found; ")
    assert result.stderr.count("\n") == 1
