"""What do the images themselves hide? Finds duplicates, and labels that the models doubt. It changes no data.

Reads:
    data/prepare/train.npz, val.npz, test.npz: the images; splits.npz, pictures.csv: which image of the source each is.
    data/train/<candidate>/<seed>/probabilities.npz, data/evaluate/<candidate>/<seed>/predictions.npz: what candidates
    say of the validation and of the test images, in the order of the files; and which the finished model gets right.

Writes, in data/audit/:
    duplicates.csv: pairs of images that are equal, or nearly so; the most similar first.
    suspects.csv: validation and test images whose label is in doubt; the most suspicious first.
    duplicates.png: the least similar of those pairs.   suspects.png: the first of those images.
    metrics.json: how many there are; and the test accuracy of the finished model, with and without the test images that
    have a duplicate among the training images.

Both tables begin with `file` and `index`, as `prepare.leave_out` wants them; of a pair across training and test images,
that is the training image. No choice rests on what is found. Images stay on disk, and are read a block at a time.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cleanlab.filter import find_label_issues
from matplotlib.figure import Figure

from stages.lib.errors import UserError
from stages.lib.params.load import load_params
from stages.lib.pictures.gallery import plot_gallery
from stages.lib.pictures.style import write_figure
from stages.lib.results.chance import compute_interval
from stages.lib.results.rows import find_evaluated, write_rows
from stages.lib.running.runner import run_stage
from stages.lib.storage.files import read_arrays, read_csv, read_split, write_json
from stages.lib.storage.selected import Rows, Selected
from stages.lib.storage.variant import DATA, Variant, name_finished

READS = ("seed", "study", "dataset.class_names", "audit")
OUTPUT = DATA / "audit"
FILES = ("train", "t10k")  # how the names of the IDX files begin
SPLITS = ("train", "val", "test")
BLOCK = 1000  # images at once: the products of two blocks take 4 MB
NUM_SAMPLED = 500  # images at least, from which the axes are taken
NUM_AXES = 31  # more take longer to multiply, fewer rule out less
ROUNDING = 1e-5  # more than float32 gets wrong, so that no pair is missed
MAX_PAIRS = 100_000  # of a table that lies in Git


@dataclass(frozen=True)
class Originals:
    """All images that a split has, in the order of the source."""

    images: Rows  # (N, size, size) uint8
    labels: np.ndarray  # (N,) uint8
    splits: np.ndarray  # (N,) str: which split has it
    names: list[tuple[str, int]]  # of each image its file and its index in that

    @property
    def is_idx(self) -> bool:
        """Tells whether the source is the IDX files."""
        return {file for file, _ in self.names} <= set(FILES)

    def find(self, file: str, index: int) -> np.ndarray:
        """Finds an image by its name."""
        place = self.names.index((file, index))
        image: np.ndarray = self.images[place : place + 1][0]
        return image


@dataclass(frozen=True)
class Duplicate:
    """A row of duplicates.csv: two images."""

    file: str
    index: int
    other_file: str
    other_index: int
    split: str
    other_split: str
    label: str
    other_label: str
    similarity: float  # correlation of the pixels
    is_exact: bool  # all pixels are equal


@dataclass(frozen=True)
class Suspect:
    """A row of suspects.csv: an image whose label is in doubt."""

    file: str
    index: int
    split: str
    label: str
    suggested: str
    score: float  # probability of the label, a mean over all candidates; the lower, the more suspicious
    suggested_score: float  # that of the suggested label


def read_originals(folder: Path) -> Originals:
    """Reads the images of all splits, and the name of each in the source.

    Args:
        folder: of what prepare wrote.

    Raises:
        UserError: if a file is missing or damaged.
    """
    rows = [row for row in read_csv(folder / "pictures.csv") if not row["reason"]]
    listed = read_arrays(folder / "splits.npz", *(["pictures"] if rows else FILES))
    places = np.concatenate(listed)
    names = [(row["file"], int(row["index"])) for row in rows] or [
        (file, index) for file, of_file in zip(FILES, listed, strict=True) for index in range(len(of_file))
    ]
    is_used = places != ""
    images, labels, order = list[Rows](), np.empty(len(places), np.uint8), np.empty(len(places), np.int64)
    for split in SPLITS:
        first = sum(map(len, images))
        of_split, labels[places == split] = read_split(folder / f"{split}.npz")
        order[places == split] = np.arange(first, first + len(of_split))
        images.append(of_split)
    used_names = [name for name, used in zip(names, is_used, strict=True) if used]
    return Originals(Selected(images, order[is_used]), labels[is_used], places[is_used], used_names)


def standardize(images: np.ndarray) -> np.ndarray:
    """Makes vectors of length 1 whose products are the correlations of the pixels: brightness and contrast are gone.

    An image of one grey has no correlation; it gets the one direction that no other image has part in.

    Args:
        images: (N, size, size) uint8.

    Returns:
        (N, size * size) float64.
    """
    pixels = images.reshape(len(images), -1).astype(np.float64)
    pixels -= pixels.mean(axis=1, keepdims=True)
    pixels[~pixels.any(axis=1)] = 1
    return pixels / np.linalg.norm(pixels, axis=1, keepdims=True)


def shorten(images: Rows) -> np.ndarray:
    """Makes short vectors whose products are never less than the correlations of the images.

    They hold a standardized image along the axes on which a sample differs most, and the length of what is left of it:
    of what is left of two, the product is at most that of the lengths (Cauchy-Schwarz).

    Args:
        images: (N, size, size) uint8.

    Returns:
        (N, at most NUM_AXES + 1) float32.
    """
    sample = images[:: max(1, len(images) // NUM_SAMPLED)]
    axes = np.linalg.svd(standardize(sample), full_matrices=False)[2][:NUM_AXES]
    blocks = (images[start : start + BLOCK] for start in range(0, len(images), BLOCK))
    along = np.concatenate([standardize(block) @ axes.T for block in blocks])
    left = np.sqrt(np.maximum(1 - np.sum(along**2, axis=1, keepdims=True), 0))
    return np.hstack([along, left]).astype(np.float32)


def list_candidates(short: np.ndarray, min_product: float) -> Iterator[np.ndarray]:
    """Lists the pairs of `shorten` whose product is at least `min_product`, as (at most BLOCK, 2) indices at once."""
    for first, second in itertools.combinations_with_replacement(range(0, len(short), BLOCK), 2):
        products = short[first : first + BLOCK] @ short[second : second + BLOCK].T
        one, other = np.divmod(np.flatnonzero(products >= min_product), products.shape[1])  # argwhere takes far longer
        pairs = np.stack([first + one, second + other], axis=1)
        pairs = pairs[pairs[:, 0] < pairs[:, 1]]
        yield from (pairs[start : start + BLOCK] for start in range(0, len(pairs), BLOCK))


def find_duplicates(images: Rows, min_similarity: float) -> tuple[np.ndarray, np.ndarray]:
    """Finds every pair of images whose pixels correlate by at least `min_similarity`.

    Short vectors, of every image with every other one, rule nearly all pairs out; the rest is compared pixel by pixel.
    n equal images are n (n - 1) / 2 pairs.

    Fashion-MNIST has no equal images. The 43 pairs in its training images, 1 in its test images and 10 across both that
    are told of it were in its first version. Its makers put others in their places in August 2017
    (https://github.com/zalandoresearch/fashion-mnist/pull/45), and the files that params.yaml names are the later ones.

    Args:
        images: (N, size, size) uint8.
        min_similarity: in (0, 1].

    Returns:
        (pairs, 2) int64 indices, the lower one first, and (pairs,) correlations to six decimals; the most similar pair
        first.

    Raises:
        UserError: if there are more than `MAX_PAIRS`.
    """
    pairs, similarities = [np.empty((0, 2), np.int64)], [np.empty(0)]
    for candidates in list_candidates(shorten(images), min_similarity - ROUNDING):
        one, other = (standardize(images[indices]) for indices in candidates.T)
        similarity = np.sum(one * other, axis=1).round(6)
        pairs.append(candidates[similarity >= min_similarity])
        similarities.append(similarity[similarity >= min_similarity])
        if sum(map(len, pairs)) > MAX_PAIRS:
            raise UserError(
                f"params.yaml: audit.min_similarity: expected a value at which at most {MAX_PAIRS:,} pairs of images "
                f"are as similar; got {min_similarity}; raise it"
            )
    found, similarity = np.concatenate(pairs), np.concatenate(similarities)
    order = np.lexsort((found[:, 1], found[:, 0], -similarity))
    return found[order], similarity[order]


def list_duplicates(
    originals: Originals, pairs: np.ndarray, similarities: np.ndarray, class_names: Sequence[str]
) -> list[Duplicate]:
    """Lists what is known of pairs of images."""
    rows = []
    for pair, similarity in zip(pairs, similarities, strict=True):
        one, other = pair
        (file, index), (other_file, other_index) = originals.names[one], originals.names[other]
        split, other_split = originals.splits[pair].tolist()
        rows.append(
            Duplicate(
                file=file,
                index=index,
                other_file=other_file,
                other_index=other_index,
                split=split,
                other_split=other_split,
                label=class_names[originals.labels[one]],
                other_label=class_names[originals.labels[other]],
                similarity=float(similarity),
                is_exact=np.array_equal(*originals.images[pair]),
            )
        )
    return rows


def count_duplicates(duplicates: Sequence[Duplicate], is_idx: bool) -> dict[str, dict[str, dict[str, int]]]:
    """Counts pairs within and across the original files, and within and across the splits.

    Where the source is no IDX files, all pairs count as of one file, `pictures`.

    Returns:
        By `files` and `splits`, then by the name of one, as train, or of two, as train_test: how many pairs are
        `exact`, how many others are `near`, and how many of all have two labels.
    """
    of_files = [{row.file, row.other_file} if is_idx else {"pictures"} for row in duplicates]
    places = {
        "files": (FILES if is_idx else ("pictures",), of_files),
        "splits": (SPLITS, [{row.split, row.other_split} for row in duplicates]),
    }
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for kind, (names, found) in places.items():
        counts[kind] = {}
        for one, other in itertools.combinations_with_replacement(names, 2):
            rows = [row for row, place in zip(duplicates, found, strict=True) if place == {one, other}]
            counts[kind][one if one == other else f"{one}_{other}"] = {
                "exact": sum(row.is_exact for row in rows),
                "near": sum(not row.is_exact for row in rows),
                "two_labels": sum(row.label != row.other_label for row in rows),
            }
    return counts


def read_probabilities(candidates: Sequence[Variant], split_seed: int | None) -> dict[str, np.ndarray]:
    """Reads what the candidates say of validation and test images, which none was trained on, and takes the mean.

    Args:
        candidates: all, with each of their seeds.
        split_seed: of those that have the validation images of `prepare`; None: all have them.

    Returns:
        By split, val and test: (N, classes) float64; no val if no candidate has those images.

    Raises:
        UserError: if a file is missing.
    """
    same_split = [variant for variant in candidates if split_seed in (None, variant.seed)]
    arrays = {
        "val": [read_arrays(variant.folder / "probabilities.npz", "val") for variant in same_split],
        "test": [read_arrays(find_evaluated(variant) / "predictions.npz", "probabilities") for variant in candidates],
    }
    return {
        split: np.stack(of_split).mean(axis=(0, 1), dtype=np.float64) for split, of_split in arrays.items() if of_split
    }


def find_suspects(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Finds the labels that are in doubt, by confident learning, the most suspicious first: the least probable ones.

    Source: Northcutt, Jiang, Chuang 2021, Confident Learning: Estimating Uncertainty in Dataset Labels, arXiv
    1911.00068; here by cleanlab, which prunes by noise rate.

    Args:
        labels: (N,) uint8, as given; each class has one at least.
        probabilities: (N, classes) float64, of models that were not trained on these images.

    Returns:
        int64 indices.
    """
    suspects = np.flatnonzero(find_label_issues(labels, probabilities, n_jobs=1))
    return suspects[np.argsort(probabilities[suspects, labels[suspects]], kind="stable")]


def list_suspects(
    originals: Originals, probabilities: Mapping[str, np.ndarray], class_names: Sequence[str]
) -> list[Suspect]:
    """Lists the images whose label is in doubt, the most suspicious first.

    Each split is searched alone, so that what is found in validation images does not hang on test images.
    """
    rows = []
    for split, of_split in probabilities.items():
        places = np.flatnonzero(originals.splits == split)
        labels = originals.labels[places]
        for found in find_suspects(labels, of_split):
            (file, index), shares = originals.names[places[found]], of_split[found]
            suggested = shares.argmax()
            rows.append(
                Suspect(
                    file=file,
                    index=index,
                    split=split,
                    label=class_names[labels[found]],
                    suggested=class_names[suggested],
                    score=round(float(shares[labels[found]]), 6),
                    suggested_score=round(float(shares[suggested]), 6),
                )
            )
    return sorted(rows, key=lambda row: row.score)


def find_seen(splits: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Tells of each test image whether it has a duplicate among the training images: (test images,) bool.

    Args:
        splits: (N,) str, of all images, those of the training file first.
        pairs: (pairs, 2) int64, places of duplicates, the lower one first.
    """
    is_across = (splits[pairs] == ("train", "test")).all(axis=1)
    return np.isin(np.flatnonzero(splits == "test"), pairs[is_across, 1])


def measure_parts(is_right: np.ndarray, is_seen: np.ndarray) -> dict[str, dict[str, float]]:
    """Measures the accuracy on all test images, on those without a duplicate in training, and on those with one.

    Args:
        is_right: (N,) bool, where the model is right.
        is_seen: (N,) bool, from `find_seen`.

    Returns:
        Of each part that has images: how many, the accuracy, and the ends of its 95 % interval (Wilson).
    """
    parts = {"all": is_seen | True, "without_duplicates": ~is_seen, "with_duplicates": is_seen}
    measured = {}
    for name, part in parts.items():
        if part.any():
            accuracy, count = float(is_right[part].mean()), int(part.sum())
            low, high = compute_interval(accuracy, count)
            measured[name] = {"images": count, "accuracy": round(accuracy, 6)}
            measured[name] |= {"accuracy_low": low, "accuracy_high": high}
    return measured


def plot_duplicates(originals: Originals, rows: Sequence[Duplicate]) -> Figure:
    """Plots the two images of each row side by side."""
    pictures = [
        np.hstack([originals.find(row.file, row.index), originals.find(row.other_file, row.other_index)])
        for row in rows
    ]
    texts = [f"{row.split}, {row.other_split}\n{row.similarity:.4f}" for row in rows]
    return plot_gallery(pictures, texts, f"The {len(rows)} least similar of the duplicates, and their splits")


def plot_suspects(originals: Originals, rows: Sequence[Suspect]) -> Figure:
    """Plots the image of each row below its label and the suggested one, with their probabilities."""
    pictures = [originals.find(row.file, row.index) for row in rows]
    texts = [
        f"{row.label} ({100 * row.score:.1f} %),\nor {row.suggested} ({100 * row.suggested_score:.1f} %)?"
        for row in rows
    ]
    return plot_gallery(pictures, texts, f"The {len(rows)} most suspicious labels, and what the models suggest")


def main() -> None:
    """Runs the stage."""
    params = load_params(reads=READS)
    class_names, num_shown = params.dataset.class_names, params.audit.gallery_images
    originals = read_originals(DATA / "prepare")
    pairs, similarities = find_duplicates(originals.images, params.audit.min_similarity)
    duplicates = list_duplicates(originals, pairs, similarities, class_names)
    study = params.study
    names = itertools.product(study.models, study.augmentations, study.seeds)
    candidates = [Variant("train", *name) for name in names]
    probabilities = read_probabilities(candidates, params.seed if study.split_by_seed else None)
    suspects = list_suspects(originals, probabilities, class_names)
    evaluated = find_evaluated(name_finished(study.seeds[0]))
    y_true, y_pred = read_arrays(evaluated / "predictions.npz", "labels", "as_they_are")
    metrics = {
        "min_similarity": params.audit.min_similarity,
        "duplicates": count_duplicates(duplicates, originals.is_idx),
        "suspects": {
            split: {"images": len(of_split), "suspects": sum(row.split == split for row in suspects)}
            for split, of_split in probabilities.items()
        },
        "test_accuracy": measure_parts(y_true == y_pred, find_seen(originals.splits, pairs)),
    }
    write_rows(OUTPUT / "duplicates.csv", Duplicate, duplicates)
    write_rows(OUTPUT / "suspects.csv", Suspect, suspects)
    write_figure(OUTPUT / "duplicates.png", plot_duplicates(originals, duplicates[-num_shown:]))
    write_figure(OUTPUT / "suspects.png", plot_suspects(originals, suspects[:num_shown]))
    write_json(OUTPUT / "metrics.json", metrics)
    print(f"{OUTPUT}: {len(duplicates)} pairs of duplicates, {len(suspects)} suspicious labels")


if __name__ == "__main__":
    run_stage(main)
