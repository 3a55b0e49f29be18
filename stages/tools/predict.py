"""What is on a photo? Names the likeliest classes of image files, with the model that the pipeline ships.

Run as `python -m stages.tools.predict PHOTO...`: pictures of any size and colour; of Fashion-MNIST, photos of one
garment each on a plain background. A tool, not a stage: it writes no file.

Reads:
    data/ship/model.tflite, or with --model any other .tflite file of the pipeline.
    Its class names, the size of its images, and how a picture becomes such an image, which is how it did in training:
    from a .json of its name beside it, else from model.json beside it, else from data/ship/model.json. A line on stderr
    says so where that was written for another file, as for those in data/export/, which have none of their own.

Prints, on stdout, the three likeliest classes of each photo and their probabilities, a line a photo, and that the model
is unsure where they are below its `min_confidence`; with --json a list of {"file", "is_sure", "energy_score",
"predictions": [{"class", "probability"}, ...]} or {"file", "error"}, in the order of the photos; `is_sure` is null for
a model that does not know. A photo that is refused is a line on stderr and an exit status of 1; the others are answered
all the same.

A picture of something else is likely to be called one of the classes, too, and maybe surely. `energy_score` is the
higher, the more a picture is like those of the training; nothing says from where on it is too low.
"""

import argparse
import errno
import json
import math
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from stages.lib.errors import UserError
from stages.lib.litert.runtime import predict_logits, read_interpreter
from stages.lib.network.metrics import compute_probabilities, compute_scores
from stages.lib.network.quiet import quiet_stderr
from stages.lib.sources.decode import read_picture
from stages.lib.sources.fit import check_fit, find_enough_px, prepare_picture
from stages.lib.storage.files import compute_sha256, read_json

MODEL = Path("data/ship/model.tflite")
CARD = MODEL.with_suffix(".json")
REMEDY = (
    "`dvc repro` makes it (README.md says how long that takes); where `dvc remote list` shows a remote, `dvc pull` "
    "fetches it"
)
EMPTY = "expected a path, got an empty one; is a variable not set?"  # Path would make the working directory of it
NUM_CLASSES_SHOWN = 3
MAX_BATCH_SIZE = 32
"""Photos that go through the network together: more would be no faster, and take memory."""


def find_card(model: Path) -> Path:
    """Finds the .json that describes a model: beside it, of its name or model.json; else that of the shipped model.

    Raises:
        UserError: if there is none.
    """
    places = (model.parent / f"{model.stem}.json", model.parent / CARD.name, CARD)
    for place in places:
        if place.is_file():
            return place
    names = ", ".join(dict.fromkeys(map(str, places)))
    remedy = REMEDY if model == MODEL else f"copy {CARD} beside it"
    raise UserError(f"{model}: expected its class names in one of {names}, found none; {remedy}")


def read_card(model: Path, **more: type) -> dict[str, Any]:
    """Reads what describes a model.

    Args:
        model: path of a .tflite file.
        more: keys that the .json has to have if it was written for this model, with their types.

    Returns:
        `class_names`, label 0 first; `image_size_px`, `channels`, `fit` and `background`, which say how a picture
        becomes an input;
        and `card`, the path of the .json. All else that it holds, such as `sha256`, `temperature` and `min_confidence`,
        only if it was written for this model.

    Raises:
        UserError: if the model or every .json is missing, that lacks a key, or has the model's name and is not its own.
    """
    if not model.is_file():
        remedy = REMEDY if model == MODEL else "check the path that --model gives"
        raise UserError(f"{model}: {'a folder, no file' if model.is_dir() else 'not found'}; {remedy}")
    path = find_card(model)
    remedy = REMEDY if model == MODEL else "put its own model.json beside it"
    card, found = read_json(path), compute_sha256(model)
    has_its_name = path.with_suffix(model.suffix) == model
    is_own = has_its_name or card.get("sha256") == found
    own = {"sha256": str, "temperature": float, "min_confidence": float, **more}
    needed = {"class_names": list, "image_size_px": int, "channels": int, "fit": str, "background": int} | (
        own if is_own else {}
    )
    for key, kind in needed.items():
        if not isinstance(card.get(key), kind):
            anew = "`dvc repro ship` writes it anew" if path == CARD else remedy
            raise UserError(f"{path}: expected {key} of type {kind.__name__}, got {card.get(key)!r}; {anew}")
    check_fit(card["fit"], card["background"], str(path), remedy)
    if is_own and not 0 < card["temperature"] < math.inf:
        raise UserError(f"{path}: expected a temperature above 0, got {card['temperature']}; {remedy}")
    if is_own and found != card["sha256"]:
        raise UserError(f"{model}: expected SHA-256 {card['sha256']}, as {path} says, got {found}; {remedy}")
    return {"card": path} | {key: value for key, value in card.items() if is_own or key in needed}


def read_photos(photos: Sequence[str], card: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads image files as the network learned them; `card` is what `read_card` returns.

    Returns:
        The photos that can be used, each as `prepare_picture` makes it, by their names.
        Why each of the others cannot, by its name.
    """
    images, errors = {}, {}
    for photo in photos:
        try:
            if not photo:
                raise UserError(EMPTY)
            size_px, fit = card["image_size_px"], card["fit"]
            picture = read_picture(Path(photo), find_enough_px(size_px, fit))
            images[photo] = prepare_picture(picture, size_px, card["channels"], fit, card["background"])
        except UserError as error:
            errors[photo] = f"{photo or 'PHOTO'}: {error}"
    return images, errors


def classify(model: Path, card: Mapping[str, Any], images: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """Classifies uint8 images as `read_photos` returns them, which may be none; returns for each what `answer` does.

    Raises:
        UserError: as `read_classifier`.
    """
    if not images:
        return []
    interpreter = read_classifier(model, card, batch_size=min(len(images), MAX_BATCH_SIZE))
    return [answer(logits, card) for logits in predict_logits(interpreter, np.array(images))]


def read_classifier(model: Path, card: Mapping[str, Any], batch_size: int) -> Interpreter:
    """Reads a model and makes it ready for batches of exactly `batch_size` images.

    Says on stderr which card is used, where that was written for another model.

    Raises:
        UserError: if the model has another number of classes than its card, or takes images of another size.
    """
    with quiet_stderr(show_on_failure=False):  # the runtime announces itself; its failures raise
        interpreter = read_interpreter(model, batch_size, num_threads=1)
    (given,), (found,) = interpreter.get_input_details(), interpreter.get_output_details()
    expected = (card["image_size_px"], card["channels"], len(card["class_names"]))
    got = (given["shape"][1], given["shape"][3], found["shape"][1])
    if got != expected:
        told = "images of {} pixels with {} channels and {} classes"
        raise UserError(
            f"{model}: expected {told.format(*expected)}, as {card['card']} says, got {told.format(*got)}; put its own "
            "model.json beside it"
        )
    if "sha256" not in card:
        said = (
            f"class names and size of images are those of {card['card']}; its confidence is not fitted, so it is never"
        )
        print(escape(f"{model}: {said} called unsure"), file=sys.stderr)
    return interpreter


def answer(logits: np.ndarray, card: Mapping[str, Any]) -> dict[str, Any]:
    """Makes an answer of (classes,) logits, as this module's docstring describes it; it has no file."""
    temperature = card.get("temperature", 1.0)
    (probabilities,) = compute_probabilities(logits[np.newaxis] / temperature)
    (energy_score,) = compute_scores(logits[np.newaxis], temperature)["energy_score"]
    return {
        "is_sure": bool(probabilities.max() >= card["min_confidence"]) if "min_confidence" in card else None,
        "energy_score": round(float(energy_score), 6),
        "predictions": rank(probabilities, card["class_names"]),
    }


def rank(probabilities: np.ndarray, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Lists the likeliest of (classes,) probabilities, likeliest first; of equals, the one with the lower label.

    >>> rank(np.array([0.1, 0.2, 0.1, 0.6]), ["shirt", "coat", "bag", "boot"])[1:]
    [{'class': 'coat', 'probability': 0.2}, {'class': 'shirt', 'probability': 0.1}]
    """
    labels = np.argsort(-probabilities, kind="stable")[:NUM_CLASSES_SHOWN]
    return [{"class": class_names[label], "probability": round(float(probabilities[label]), 6)} for label in labels]


def check_given(path: str) -> str:
    """Returns a path of the command line.

    Raises:
        argparse.ArgumentTypeError: if it is empty.
    """
    if not path:
        raise argparse.ArgumentTypeError(EMPTY)
    return path


def escape(text: str) -> str:
    r"""Writes what a terminal does not show as a character, a line break for one, as it is written in Python.

    >>> escape("Größe 1\n\x1b[31m")
    'Größe 1\\n\\x1b[31m'
    """
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def format_line(photo: str, answered: Mapping[str, Any]) -> str:
    """Writes an answer as a line.

    >>> format_line("a.png", {"is_sure": False, "predictions": [{"class": "Bag", "probability": 0.47531}]})
    'a.png: unsure, Bag 47.5 %'
    """
    shares = [f"{each['class']} {100 * each['probability']:.1f} %" for each in answered["predictions"]]
    return escape(f"{photo}: {'unsure, ' if answered['is_sure'] is False else ''}{', '.join(shares)}")


def print_out(text: str) -> None:
    """Prints on stdout, now.

    Raises:
        UserError: if that is closed or full.
    """
    try:
        if sys.__stdout__ is None:
            raise OSError(errno.EBADF, "closed")
        print(text, end="", flush=True)
    except OSError as error:
        raise UserError(f"stdout: {error.strerror}; the answer could not be printed: send it elsewhere") from error


def main() -> None:
    """Runs the tool."""
    parser = argparse.ArgumentParser(
        "python -m stages.tools.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", metavar="PHOTO", nargs="+", help="a picture, such as the training had")
    parser.add_argument("--model", metavar="PATH", type=check_given, default=MODEL, help="default %(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    arguments = parser.parse_args()

    model = Path(arguments.model)
    card = read_card(model)
    images, errors = read_photos(arguments.photos, card)
    answers = dict(zip(images, classify(model, card, list(images.values())), strict=True))
    if arguments.json:
        results = [
            {"file": photo} | ({"error": errors[photo]} if photo in errors else answers[photo])
            for photo in arguments.photos
        ]
        print_out(json.dumps(results, indent=2, allow_nan=False) + "\n")
    else:
        lines = [format_line(photo, answers[photo]) for photo in arguments.photos if photo in answers]
        print_out("".join(f"{line}\n" for line in lines))
    for error in errors.values():
        print(f"error: {escape(error)}", file=sys.stderr)
    sys.exit(1 if errors else 0)


if __name__ == "__main__":
    for quiet_end in (signal.SIGINT, signal.SIGPIPE):  # Ctrl-C, and a reader such as `head` that has seen enough
        signal.signal(quiet_end, signal.SIG_DFL)
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {escape(str(error))}")
