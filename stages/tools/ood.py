"""How often is the shipped model fooled by pictures of other things? Measures it on pictures of yours.

Run as `python -m stages.tools.ood PICTURE...`: pictures that show none of the model's classes, as files or as folders
of files. A tool, not a stage: it writes no file.

Reads:
    data/ship/model.tflite, and model.json beside it.
    data/prepare/test.npz: the test images, from which the pictures are to be told.

Prints, on stdout, how many of the pictures and of the test images `stages.tools.predict` answers, and does not call
unsure; what the pictures are taken for; and how well two scores tell both apart (`stages.lib.results.ood`). What stands
in brackets is the 95 % interval. Pictures that predict refuses are counted, and left out.
"""

import argparse
import signal
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.lib.errors import UserError
from stages.lib.litert.runtime import predict_logits
from stages.lib.network.metrics import compute_scores
from stages.lib.results.ood import measure_separation
from stages.lib.results.tables import format_share
from stages.lib.storage.files import read_split
from stages.tools.predict import MAX_BATCH_SIZE, MODEL, escape, print_out, read_card, read_classifier, read_photos

TEST = Path("data/prepare/test.npz")
MIN_PICTURES = 2  # of one, no interval can be told


def list_files(paths: Sequence[str]) -> list[str]:
    """Lists the given files, and of folders all files in them."""
    files = []
    for path in paths:
        inside = sorted(str(file) for file in Path(path).rglob("*") if file.is_file())
        files += inside if Path(path).is_dir() else [path]
    return files


def format_result(measured: Mapping[str, Any], num_refused: int, taken_for: Sequence[tuple[str, int]]) -> str:
    """Writes what was measured, in five lines.

    `measured` is what `measure_separation` returns, `taken_for` holds classes with the number of their pictures.
    """

    def tell(end: str) -> str:
        confidence, energy_score = (
            format_share(measured, f"{score}_{end}") for score in ("confidence", "energy_score")
        )
        return f"{confidence} by confidence, {energy_score} by energy score"

    return (
        f"{measured['num_others']:,} pictures, {num_refused:,} refused\n"
        f"answered: {format_share(measured, 'others_answered')} of them, {format_share(measured, 'known_answered')} of "
        f"{measured['num_known']:,} test images\n"
        f"taken for: {', '.join(f'{name} {count:,}' for name, count in taken_for)}\n"
        f"pairs in which the test image has the higher score (AUROC): {tell('auroc')}\n"
        f"let in where 95 % of the test images are: {tell('fpr_at_95_tpr')}\n"
    )


def main() -> None:
    """Runs the tool."""
    parser = argparse.ArgumentParser(
        "python -m stages.tools.ood", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", metavar="PICTURE", nargs="+", help="a file or a folder, of none of the classes")
    files = list_files(parser.parse_args().pictures)

    card = read_card(MODEL)
    known, _ = read_split(TEST)
    others, errors = read_photos(files, card)
    if len(others) < MIN_PICTURES:
        first = f"; {next(iter(errors.values()))}" if errors else ""
        raise UserError(f"PICTURE: expected at least {MIN_PICTURES} that predict can read, got {len(others)}{first}")
    interpreter = read_classifier(MODEL, card, MAX_BATCH_SIZE)
    logits = [predict_logits(interpreter, images) for images in (known, np.array(list(others.values())))]
    scores = [compute_scores(each, card["temperature"]) for each in logits]
    measured = measure_separation(scores[0], scores[1], card["min_confidence"])
    taken_for = Counter(card["class_names"][label] for label in logits[1].argmax(axis=1)).most_common()
    print_out(format_result(measured, len(errors), taken_for))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {escape(str(error))}")
