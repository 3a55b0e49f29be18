"""What is on a photo? Names the likeliest classes of image files, with the model that the pipeline ships.

Run as `python -m stages.tools.predict PHOTO...`: photos of one garment each on a plain background, of any size and
colour. A tool, not a stage: it writes no file.

Reads:
    data/ship/model.tflite, or another with --model; beside it model.json, of which `sha256`, `class_names` and
    `image_size_px` are used.

Prints, on stdout, the three likeliest classes of each photo and their probabilities, a line a photo; with --json a list
of {"file", "predictions": [{"class", "probability"}, ...]} or {"file", "error"}, in the order of the photos. A photo
that is refused is a line on stderr and an exit status of 1; the others are answered all the same.
"""

import argparse
import hashlib
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from stages.lib.errors import UserError
from stages.lib.litert.runtime import predict_logits, read_interpreter
from stages.lib.network.metrics import compute_probabilities
from stages.lib.network.quiet import quiet_stderr
from stages.lib.storage.files import read_json
from stages.tools.photo import read_prepared

MODEL = Path("data/ship/model.tflite")
REMEDY = "run `dvc pull` to fetch it or `dvc repro ship` to make it"
NUM_CLASSES_SHOWN = 3
MAX_BATCH_SIZE = 32
"""Photos that go through the network together: more would be no faster, and take memory."""


def parse_arguments() -> argparse.Namespace:
    """Reads the command line: `photos`, `model` and `json`."""
    parser = argparse.ArgumentParser(
        "python -m stages.tools.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", metavar="PHOTO", nargs="+", help="image file of one garment on a plain background")
    parser.add_argument("--model", metavar="PATH", type=Path, default=MODEL, help="LiteRT file; default %(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    return parser.parse_args()


def read_card(path: Path) -> tuple[list[str], int]:
    """Reads the class names, label 0 first, and the image size in pixels of the model at `path`.

    Raises:
        UserError: if the model or the .json beside it is missing, that lacks a key, or it is of another model.
    """
    card_path = path.with_suffix(".json")
    for needed in (path, card_path):
        if not needed.is_file():
            raise UserError(f"{needed}: not found; {REMEDY}")
    card = read_json(card_path)
    for key, kind in (("sha256", str), ("class_names", list), ("image_size_px", int)):
        if not isinstance(card.get(key), kind):
            raise UserError(f"{card_path}: expected {key} of type {kind.__name__}, got {card.get(key)!r}; {REMEDY}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != card["sha256"]:
        raise UserError(f"{path}: expected SHA-256 {card['sha256']}, as {card_path} says, got {found}; {REMEDY}")
    return card["class_names"], card["image_size_px"]


def read_photos(photos: Sequence[str], image_size_px: int) -> tuple[np.ndarray, dict[int, str]]:
    """Reads image files as the network expects them.

    Returns:
        (M, image_size_px, image_size_px) uint8, the photos that can be used, in their order.
        Why each of the others cannot, by its index in `photos`.
    """
    images = []
    errors = {}
    for index, photo in enumerate(photos):
        try:
            images.append(read_prepared(Path(photo), image_size_px))
        except UserError as error:
            errors[index] = " ".join(str(error).splitlines())
    return np.array(images, np.uint8).reshape(-1, image_size_px, image_size_px), errors


def classify(path: Path, images: np.ndarray, class_names: Sequence[str]) -> list[list[dict[str, Any]]]:
    """Classifies (M, size, size) uint8 images, M >= 0.

    Returns:
        For each image the likeliest classes, likeliest first, as `class` and `probability`.

    Raises:
        UserError: as `read_classifier`.
    """
    if len(images) == 0:
        return []
    interpreter = read_classifier(path, min(len(images), MAX_BATCH_SIZE), images.shape[1], len(class_names))
    probabilities = compute_probabilities(predict_logits(interpreter, images))
    return [rank(row, class_names) for row in probabilities]


def read_classifier(path: Path, batch_size: int, image_size_px: int, num_classes: int) -> Interpreter:
    """Reads a model and makes it ready for batches of exactly `batch_size` images.

    Raises:
        UserError: if the model has another number of classes, or takes images of another size.
    """
    with quiet_stderr(show_on_failure=False):  # the runtime announces itself; its failures raise
        interpreter = read_interpreter(path, batch_size, num_threads=1)
    (given,), (found,) = interpreter.get_input_details(), interpreter.get_output_details()
    expected, got = (image_size_px, num_classes), (int(given["shape"][1]), int(found["shape"][1]))
    if got != expected:
        raise UserError(
            f"{path}: expected images of {expected[0]} pixels and {expected[1]} classes, as the .json beside it says, "
            f"got {got[0]} pixels and {got[1]} classes; {REMEDY}"
        )
    return interpreter


def rank(probabilities: np.ndarray, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Lists the likeliest of (classes,) probabilities, likeliest first; of equals, the one with the lower label.

    >>> rank(np.array([0.1, 0.2, 0.1, 0.6]), ["shirt", "coat", "bag", "boot"])[1:]
    [{'class': 'coat', 'probability': 0.2}, {'class': 'shirt', 'probability': 0.1}]
    """
    labels = np.argsort(-probabilities, kind="stable")[:NUM_CLASSES_SHOWN]
    return [{"class": class_names[label], "probability": round(float(probabilities[label]), 6)} for label in labels]


def list_results(
    photos: Sequence[str], predictions: Sequence[list[dict[str, Any]]], errors: dict[int, str]
) -> list[dict[str, Any]]:
    """Lists the `file` of every photo with its `predictions` or its `error`, in order."""
    remaining = iter(predictions)
    return [
        {"file": photo} | ({"error": errors[index]} if index in errors else {"predictions": next(remaining)})
        for index, photo in enumerate(photos)
    ]


def format_line(result: dict[str, Any]) -> str:
    """Writes an answer as a line.

    >>> format_line({"file": "a.png", "predictions": [{"class": "Bag", "probability": 0.97531}]})
    'a.png: Bag 97.5 %'
    """
    shares = [f"{each['class']} {100 * each['probability']:.1f} %" for each in result["predictions"]]
    file = result["file"].encode(errors="backslashreplace").decode()  # a name need not be text
    return f"{file}: {', '.join(shares)}"


def main() -> None:
    """Runs the tool."""
    arguments = parse_arguments()
    class_names, image_size_px = read_card(arguments.model)
    images, errors = read_photos(arguments.photos, image_size_px)
    results = list_results(arguments.photos, classify(arguments.model, images, class_names), errors)
    if arguments.json:
        print(json.dumps(results, indent=2, allow_nan=False))
    else:
        print("".join(f"{format_line(result)}\n" for result in results if "predictions" in result), end="", flush=True)
    for error in errors.values():
        print(f"error: {error}", file=sys.stderr)
    sys.exit(1 if errors else 0)


if __name__ == "__main__":
    for quiet_end in (signal.SIGINT, signal.SIGPIPE):  # Ctrl-C, and a reader such as `head` that has seen enough
        signal.signal(quiet_end, signal.SIG_DFL)
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
