"""What came out, on one page? Answers the study's questions from the pipeline's files, with charts, for a browser.

Reads:
    params.yaml: seed, which models and augmentations belong to the run, how long each sparsity was fine-tuned, and what
    a shipped file may lose.
    data/select_model/choice.json, comparison.csv; data/ship/model.json; data/frontier/frontier.csv; of data/compare/
    pruning.csv, sparsity.csv, shrinking.csv, curves.csv and confusion.csv; layers.csv, metrics.json and a picture of
    complexity; metrics.json of evaluate, and classes.csv and two pictures of the chosen model; layers.csv of shrink;
    data/preview/*.png.
    Times, versions and hardware, which are no DVC outputs and so no dependencies: data/frontier/latency.csv,
    data/compare/candidates.csv, timing.csv and environment.json. Where nothing was measured on this machine those hold
    no values, and the page says so.

Writes, in data/report/, a DVC output (the same bytes in every run), in Git:
    answers.json: the answers of the page without times, so that `git diff` shows which conclusion a change turned over.
and, outside that promise because it shows times, but kept in Git:
    index.html: the page; one file that needs no network, nor JavaScript but for sorting and quick tooltips.

It runs where an answer may change, not where a time did: a clone that makes the committed run anew, byte for byte,
keeps the committed page with the times of the committed run, as it does those of `frontier`. For times of its own:
`dvc repro --force --single-item frontier compare report`.

Nothing here feeds a choice.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.lib.params.load import load_params
from stages.lib.params.sections import AugmentationParams
from stages.lib.report.answers import (
    Row,
    answer_arithmetic,
    answer_augmentation,
    answer_choice,
    answer_classes,
    answer_confidence,
    answer_confusion,
    answer_curves,
    answer_frontier,
    answer_pruning,
    answer_receptive_field,
    answer_shipped,
    answer_shrinking,
    key_of,
    tell_pruned_times,
    tell_shipped_time,
    tell_shrunk_times,
)
from stages.lib.report.page import (
    Section,
    Times,
    format_arithmetic,
    format_augmentation,
    format_choice,
    format_classes,
    format_curves,
    format_frontier,
    format_lead,
    format_making,
    format_mistakes,
    format_page,
    format_pruning,
    format_receptive_fields,
    format_shrinking,
)
from stages.lib.results.tables import STUDY_TEST_ACCURACY
from stages.lib.running.runner import run_stage
from stages.lib.storage.files import read_csv, read_json, write_bytes, write_json

READS = (
    "seed",
    "augmentations",
    "study",
    "prune.sparsities",
    "prune.epochs",
    "ship.max_loss",
)
DATA = Path("data")
OUTPUT = Path("data/report")

STUDY_CHOICE = ("third", "strong")
WORDS = {  # columns of text; all others hold numbers
    "actual", "augmentation", "class", "cpu", "filters", "format", "kind", "layer", "model", "name", "output_shape",
    "precision", "predicted", "published_by", "ranking", "runtime", "sha256", "split", "stage",
}  # fmt: skip
NOT_VERSIONS = ("date", "cpu", "num_cpus", "policy", "seconds", "images_per_second")


def read_rows(path: Path, words: set[str] = WORDS) -> list[dict[str, Any]]:
    """Reads a CSV file; numbers become floats, True and False booleans, and nothing becomes None."""
    booleans = {"True": True, "False": False, "": None}
    return [
        {
            name: value if name in words else booleans[value] if value in booleans else float(value)
            for name, value in row.items()
        }
        for row in read_csv(path)
    ]


def read_candidates(models: Sequence[str], augmentations: Sequence[str]) -> list[dict[str, Any]]:
    """Reads every candidate of the run, with its cost, accuracies and training time."""
    chosen_from = {key_of(row): row for row in read_rows(DATA / "select_model/comparison.csv")}
    seconds = {key_of(row): row["training_seconds"] for row in read_rows(DATA / "compare/candidates.csv")}
    return [
        {
            **chosen_from[key],
            **read_json(DATA / "evaluate" / key / "metrics.json"),
            "training_seconds": seconds[key],
        }
        for key in [f"{model}-{augmentation}" for model in models for augmentation in augmentations]
    ]


def read_curves() -> dict[str, list[dict[str, float]]]:
    """Reads the learning curves: by candidate a row an epoch with the accuracy on `train` and `val` images."""
    curves: dict[str, dict[float, dict[str, float]]] = {}
    for row in read_rows(DATA / "compare/curves.csv"):
        epoch = curves.setdefault(key_of(row), {}).setdefault(row["epoch"], {"epoch": row["epoch"]})
        epoch[row["split"]] = row["accuracy"]
    return {key: list(epochs.values()) for key, epochs in curves.items()}


def read_times() -> Times:
    """Reads what each exported file took where it was timed on this machine."""
    rows = read_rows(DATA / "frontier/latency.csv")
    return {(row["kind"], row["name"], row["precision"]): row for row in rows if row["name"]}


def read_macs_of_layers(way: str, targets: Sequence[float]) -> dict[str, dict[str, float]]:
    """Reads the MACs of each layer that has some, before shrinking and for each share: all ways give the same."""
    macs: dict[str, dict[str, float]] = {}
    for target in targets:
        rows = [row for row in read_rows(DATA / "shrink" / way / str(target) / "layers.csv") if row["dense_macs"]]
        macs["all filters"] = {row["layer"]: row["dense_macs"] for row in rows}
        macs[f"at most {100 * target:g} %"] = {row["layer"]: row["macs"] for row in rows}
    return macs


def find_baseline(augmentations: Mapping[str, AugmentationParams], names: Sequence[str]) -> str | None:
    """Finds the augmentation of the run that changes no image; None if each does."""
    return next((name for name in names if augmentations[name].is_identity), None)


def find_file(rows: Sequence[Row], kind: str, name: str, precision: str) -> Row:
    """Finds the row of an exported file in frontier.csv."""
    wanted = {"kind": kind, "name": name, "precision": precision, "format": "tflite"}
    return next(row for row in rows if all(row[column] == value for column, value in wanted.items()))


@dataclass(frozen=True)
class Results:
    """What the pipeline found, as rows; `choice`, `shipped` and `environment` as in their files."""

    choice: dict[str, Any]
    shipped: dict[str, Any]
    candidates: list[dict[str, Any]]
    costs: dict[str, dict[str, Any]]
    layers: dict[str, list[dict[str, Any]]]
    classes: list[dict[str, Any]]
    confusion: Counter[tuple[str, str]]
    curves: dict[str, list[dict[str, float]]]
    pruned: list[dict[str, Any]]
    zeros: list[dict[str, Any]]
    shrunk: list[dict[str, Any]]
    macs: dict[str, dict[str, float]]
    files: list[dict[str, Any]]
    times: Times
    timing: list[dict[str, Any]]
    environment: dict[str, Any]

    @property
    def key(self) -> str:
        """Names the chosen model."""
        return key_of(self.choice)

    @property
    def chosen(self) -> dict[str, Any]:
        """Is the row of the chosen model."""
        return next(row for row in self.candidates if key_of(row) == self.key)

    @property
    def num_images(self) -> int:
        """Counts the test images."""
        return sum(row["images"] for row in self.shipped["classes"])


def read_results(models: Sequence[str], augmentations: Sequence[str]) -> Results:
    """Reads everything that the page shows."""
    choice, shrunk = read_json(DATA / "select_model/choice.json"), read_rows(DATA / "compare/shrinking.csv")
    of_first_way = [row for row in shrunk[1:] if row["filters"] == shrunk[1]["filters"]]
    counted = read_rows(DATA / "compare/confusion.csv")
    return Results(
        choice=choice,
        shipped=read_json(DATA / "ship/model.json"),
        candidates=read_candidates(models, augmentations),
        costs={model: read_json(DATA / "complexity" / model / "metrics.json") for model in models},
        layers={model: read_rows(DATA / "complexity" / model / "layers.csv") for model in models},
        classes=read_rows(DATA / "evaluate" / key_of(choice) / "classes.csv", {"class"}),
        confusion=Counter((row["actual"], row["predicted"]) for row in counted),
        curves=read_curves(),
        pruned=read_rows(DATA / "compare/pruning.csv"),
        zeros=read_rows(DATA / "compare/sparsity.csv"),
        shrunk=shrunk,
        macs=read_macs_of_layers(shrunk[1]["filters"], [row["target"] for row in of_first_way]),
        files=read_rows(DATA / "frontier/frontier.csv"),
        times=read_times(),
        timing=[row for row in read_rows(DATA / "compare/timing.csv") if row["stage"]],
        environment=read_json(DATA / "compare/environment.json"),
    )


def describe_start(results: Results) -> tuple[str, str]:
    """Writes the answer that comes first, and all of the page above the questions."""
    shipped = results.shipped
    kind = {"train": "dense", "prune": "pruned", "shrink": "shrunk"}[shipped["source"]]
    dense = find_file(results.files, "dense", results.key, "float32")
    shipped_ms, dense_ms = (
        results.times.get(file, {}).get("median_ms")
        for file in ((kind, shipped["name"], shipped["precision"]), ("dense", results.key, "float32"))
    )
    published = STUDY_TEST_ACCURACY[STUDY_CHOICE] if STUDY_CHOICE[0] in results.costs else None
    unknown = dict.fromkeys(("size_bytes", "gzip_size_bytes", "median_ms", "parameters", "macs"))
    study = unknown | {
        "name": f"{'-'.join(STUDY_CHOICE)}, the study's choice as published",
        "test_accuracy": published,
    }
    replaced = [
        *([] if published is None else [study]),
        {**dense, "name": f"{results.key}, chosen, dense float32", "median_ms": dense_ms},
        {**shipped, "name": f"{shipped['name']}, {shipped['precision']}, ships", "median_ms": shipped_ms},
    ]
    answer = answer_shipped(shipped, dense, published, results.num_images)
    return answer, format_lead(shipped, shipped_ms, answer, tell_shipped_time(shipped_ms, dense_ms), replaced)


def list_sections(
    results: Results, baseline: str | None, epochs: Mapping[float, int], max_loss: float, seed: int
) -> list[Section]:
    """Lists the questions with their answers.

    Args:
        results: as read.
        baseline: the augmentation that changes nothing, if the run has one.
        epochs: of fine-tuning, by sparsity.
        max_loss: what a shipped file may lose of validation accuracy.
        seed: of the run.
    """
    candidates, key, model = results.candidates, results.key, results.chosen["model"]
    shipped, num_images = results.shipped, results.num_images
    names = list(dict.fromkeys(row["augmentation"] for row in candidates))
    evaluated = DATA / "evaluate" / key
    return [
        Section(
            "classes",
            "How good is it at each class?",
            answer_classes(shipped),
            format_classes(shipped, results.classes, key),
            ("data/ship/model.json", f"{evaluated}/classes.csv"),
        ),
        Section(
            "choice",
            "Which model was chosen, and why?",
            answer_choice(results.chosen, candidates, results.choice["reason"]),
            format_choice(candidates, key, STUDY_TEST_ACCURACY),
            ("data/select_model/choice.json", "data/select_model/comparison.csv", "data/compare/candidates.csv"),
        ),
        Section(
            "augmentation",
            "Did augmentation help?",
            answer_augmentation(candidates, baseline, num_images),
            format_augmentation(candidates, [(name, DATA / "preview" / f"{name}.png") for name in names]),
            ("data/evaluate/*/metrics.json", "data/preview/*.png"),
        ),
        Section(
            "curves",
            "How did training go?",
            answer_curves(key, results.curves),
            format_curves(results.curves, candidates),
            ("data/compare/curves.csv",),
        ),
        Section(
            "receptive-field",
            "How much of the image does a unit see?",
            answer_receptive_field(results.chosen, results.costs, candidates, shipped["image_size_px"]),
            format_receptive_fields(results.layers, model, DATA / "complexity" / model / "receptive_field.png"),
            ("data/complexity/*/layers.csv", f"data/complexity/{model}/receptive_field.png"),
        ),
        Section(
            "arithmetic",
            "Where is the arithmetic?",
            answer_arithmetic(model, results.layers[model]),
            format_arithmetic(results.layers, results.costs, model),
            ("data/complexity/*/layers.csv", "data/complexity/*/metrics.json"),
        ),
        Section(
            "pruning",
            "What did pruning give?",
            answer_pruning(results.pruned, max_loss, num_images),
            format_pruning(results.pruned, results.zeros, epochs),
            ("data/compare/pruning.csv", "data/compare/sparsity.csv", "data/frontier/latency.csv", "params.yaml"),
            tell_pruned_times(results.times, key),
        ),
        Section(
            "shrinking",
            "What did shrinking give?",
            answer_shrinking(results.shrunk, num_images),
            format_shrinking(results.shrunk, results.macs, results.times, key),
            ("data/compare/shrinking.csv", "data/shrink/*/*/layers.csv", "data/frontier/latency.csv"),
            tell_shrunk_times(results.shrunk[1:], results.times, key),
        ),
        Section(
            "frontier",
            "Which file gives the most accuracy for its cost?",
            answer_frontier(results.files),
            format_frontier(results.files, results.times, (shipped["name"], shipped["precision"]), key),
            ("data/frontier/frontier.csv", "data/frontier/latency.csv"),
        ),
        Section(
            "mistakes",
            "What does the chosen model get wrong, and how sure is it?",
            f"{answer_confusion(results.confusion, shipped['class_names'], key)} "
            f"{answer_confidence(shipped, key, results.chosen['calibration_error'])}",
            format_mistakes(
                results.confusion,
                shipped["class_names"],
                key,
                {name: evaluated / f"{name}.png" for name in ("reliability", "gallery")},
            ),
            ("data/compare/confusion.csv", f"{evaluated}/reliability.png", f"{evaluated}/gallery.png"),
        ),
        Section(
            "making",
            "How was this made?",
            "By dvc repro: every number above comes from a file of the pipeline, named under its section, and every "
            "choice was made on validation images. It is one run with one seed: differences of a few tenths of a point "
            "may be chance.",
            format_making(list_facts(results, seed), results.timing),
            ("data/compare/environment.json", "data/compare/timing.csv", "data/frontier/latency.csv", "params.yaml"),
        ),
    ]


def list_facts(results: Results, seed: int) -> list[tuple[str, str]]:
    """Lists seed, data, versions and hardware; what belongs to another machine says that it was not measured here."""
    made = results.environment
    facts = [
        ("seed", str(seed)),
        ("test images", f"{results.num_images:,}"),
        ("SHA-256 of the shipped file", results.shipped["sha256"]),
    ]
    if not made:
        facts.append(("date, hardware and versions of the training", "not measured here"))
    else:
        facts += [
            ("date of the training", made["date"]),
            ("hardware of the training", f"{made['num_cpus']} cores, {made['cpu']}, {made['policy']}"),
            *[(name, value) for name, value in made.items() if name not in NOT_VERSIONS],
        ]
    timed = next(iter(results.times.values()), None)
    where = f"{timed['cpu']}, {timed['num_threads']:.0f} thread" if timed else "not measured here"
    facts.append(("times of the files", where))
    if results.timing:
        minutes = sum(row["seconds"] for row in results.timing) / 60
        facts.append(("all stages together", f"{minutes:.1f} minutes"))
    return facts


def main() -> None:
    """Runs the stage."""
    params = load_params(reads=READS)
    results = read_results(params.study.models, params.study.augmentations)
    baseline = find_baseline(params.augmentations, params.study.augmentations)
    answer, lead = describe_start(results)
    epochs = dict(zip(params.prune.sparsities, params.prune.epochs, strict=True))
    sections = list_sections(results, baseline, epochs, params.ship.max_loss, params.seed)
    page = format_page(f"{results.shipped['name']}, {results.shipped['precision']}: the report", lead, sections)
    write_json(OUTPUT / "answers.json", {"ships": answer} | {one.question: one.answer for one in sections[:-1]})
    write_bytes(OUTPUT / "index.html", page.encode())
    print(f"{OUTPUT}: {len(sections)} questions answered in {len(page) / 1e6:.1f} MB; open {OUTPUT}/index.html")


if __name__ == "__main__":
    run_stage(main)
