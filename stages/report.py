"""What came out, on one page? Answers the study's questions from the pipeline's files, with charts, for a browser.

Reads:
    params.yaml: seed, which models and augmentations belong to the run, how long each sparsity was fine-tuned, and by
    which metrics was chosen.
    data/select_model/choice.json, reason.txt, comparison.csv; of data/audit/ metrics.json and two pictures; of
    data/ship/ model.json, coverage.csv, ood.csv and ood.json; of data/verify/ metrics.json; of data/deploy/ what the
    finished model costs; of data/frontier/ c_latency.csv, comparisons.csv, frontier.csv, latency.csv; of data/compare/
    candidates.csv, confusion.csv, curves.csv, environment.json, pruning.csv, shrinking.csv, sparsity.csv, timing.csv;
    layers.csv, metrics.json and a picture of complexity; metrics.json of evaluate, and classes.csv and two pictures of
    the finished model; layers.csv of shrink; data/preview/*.png. Where times are not known these hold no values, and
    the page says so.

Writes, in data/report/, both in Git:
    answers.json: the answers of the page without times, so that `git diff` shows which conclusion a change turned over.
    index.html: the page; one file that needs no network, nor JavaScript but for sorting and tooltips.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.lib.params.load import load_params
from stages.lib.params.sections import Params
from stages.lib.report import answers, tables
from stages.lib.report.answers import CurvePoint, Layer, MeasuredCandidate, Times
from stages.lib.report.embed import embed_chart, embed_picture
from stages.lib.report.render import render
from stages.lib.report.wording import Wording, describe_data
from stages.lib.results.comparisons import Comparison, find_baseline
from stages.lib.results.published import STUDY_CHOICE, STUDY_TEST_ACCURACY
from stages.lib.results.rows import (
    KIND_OF,
    Candidate,
    Evaluation,
    KernelZeros,
    LayerMacs,
    ModelFile,
    PublishedModel,
    RankedFile,
    find_chosen,
    find_evaluated,
    read_cost,
    read_deployed,
    read_evaluation,
    read_frontier,
    read_rows,
    read_shrunk_layers,
)
from stages.lib.results.times import StageTime, TimedC, TimedFile
from stages.lib.running.runner import run_stage
from stages.lib.storage.files import read_csv, read_json, write_bytes, write_json
from stages.lib.storage.variant import DATA, name_finished

READS = (
    "study.models",
    "study.augmentations",
    "study.seeds",
    "study.keep_fraction",
    "augmentations",
    "train.epochs",
    "prune.sparsities",
    "prune.epochs",
    "select_model.metric",
    "ship.metric",
)
OUTPUT = Path("data/report")


@dataclass(frozen=True)
class Findings:
    """What the pipeline found."""

    seeds: Sequence[int]  # of the candidates; the first one is that of all that was made of the chosen one
    epochs: int  # of the training of each candidate
    keep_fraction: float  # of the training images that a candidate sees
    prune_epochs: Mapping[float, int]  # of fine-tuning, by sparsity
    baseline: str | None  # the augmentation that changes no image; None if each of the run does
    metric: str  # that chose a candidate
    ship_metric: str  # that chose the shipped file
    choice: Mapping[str, Any]  # data/select_model/choice.json
    reason: str  # of that choice
    shipped: Mapping[str, Any]  # data/ship/model.json
    candidates: Sequence[MeasuredCandidate]  # model by model
    costs: Mapping[str, Mapping[str, Any]]  # by model, what complexity counted of it
    layers: Mapping[str, Sequence[Layer]]  # by model
    evaluated: Path  # where evaluate wrote what the finished model is worth
    finished: Evaluation  # what that is
    recall: Mapping[str, float]  # of the finished model, by class
    confusion: Mapping[tuple[str, str], int]  # test images by actual class and the one that the finished model says
    curves: Sequence[CurvePoint]  # of all candidates
    pruned: Sequence[ModelFile]  # Keras files, the dense one first
    zeros: Sequence[KernelZeros]  # of each kernel of each pruned model
    shrunk: Sequence[ModelFile]  # Keras files, the whole model first
    shrunk_layers: Sequence[LayerMacs]  # MACs of each layer, by share
    files: Sequence[RankedFile]  # all of ours
    published_models: Sequence[PublishedModel]  # what others published of theirs
    comparisons: Sequence[Comparison]  # of all candidates and files, on the test images
    coverage: Sequence[Mapping[str, str]]  # data/ship/coverage.csv
    ood: Mapping[str, Any]  # data/ship/ood.json
    ood_bins: Sequence[Mapping[str, str]]  # data/ship/ood.csv
    audit: Mapping[str, Any]  # data/audit/metrics.json
    control: Mapping[str, int] | None  # what deploy measured of the finished model and its control, if it has C
    verified: Mapping[str, int]  # data/verify/metrics.json
    times: Times  # of the files
    c_times: Sequence[TimedC]  # of their C
    stages: Sequence[StageTime]  # what each took; empty if that is not known
    environment: Mapping[str, Any]  # versions and hardware of the training; empty if they are not known

    @property
    def chosen(self) -> MeasuredCandidate:
        """Is the chosen candidate, as the grid trained it."""
        return find_chosen(self.candidates, self.choice)

    @property
    def dense(self) -> RankedFile:
        """Is the LiteRT file in float32 of the finished model."""
        wanted = ("dense", "finished", "float32", "tflite")
        return next(file for file in self.files if (file.kind, file.name, file.precision, file.format) == wanted)

    @property
    def dense_ms(self) -> float | None:
        """Is the time of an image in that file."""
        return tables.find_ms(self.times, "dense", "finished", "float32")

    @property
    def shipped_ms(self) -> float | None:
        """Is the time of an image in the shipped file."""
        shipped = self.shipped
        return tables.find_ms(self.times, KIND_OF[shipped["source"]], shipped["name"], shipped["precision"])

    @property
    def shipped_c(self) -> TimedC | None:
        """Is what the C of the shipped file takes."""
        return tables.find_c_time(self.c_times, KIND_OF[self.shipped["source"]], self.shipped["name"])

    @property
    def num_images(self) -> Mapping[str, int]:
        """Returns how many images there are of the splits val and test."""
        counts: Mapping[str, int] = self.shipped["num_images"]
        return counts

    @property
    def published(self) -> float | None:
        """Returns the test accuracy that the study published for its choice, if a run has its data and that model."""
        return STUDY_TEST_ACCURACY[STUDY_CHOICE] if self.words.is_of_study and STUDY_CHOICE[0] in self.costs else None

    @property
    def words(self) -> Wording:
        """Returns how sentences speak of the data."""
        return describe_data(self.shipped)


@dataclass(frozen=True)
class Section:
    """One question of the page; its template shows the charts and tables, and names the files that they come from."""

    key: str  # its address in the page, and the name of its template
    question: str  # as a reader asks it
    answer: Callable[[Findings], str]  # says what was found, without times
    time: Callable[[Findings], str] | None = None  # says what times tell of it, if they do


SECTIONS = (
    Section(
        key="device",
        question="What does it cost on a device?",
        answer=lambda found: answers.answer_device(
            found.shipped, found.control, found.files, found.verified, found.num_images
        ),
        time=lambda found: answers.tell_device_time(found.shipped_c),
    ),
    Section(
        key="classes",
        question="How good is it at each class?",
        answer=lambda found: answers.answer_classes(found.shipped),
    ),
    Section(
        key="choice",
        question="Which model was chosen, and why?",
        answer=lambda found: answers.answer_choice(
            found.chosen, found.reason, found.pruned[0], found.comparisons, found.num_images, found.metric
        ),
    ),
    Section(
        key="augmentation",
        question="Did augmentation help?",
        answer=lambda found: answers.answer_augmentation(
            found.candidates, found.baseline, found.comparisons, found.epochs, found.keep_fraction
        ),
    ),
    Section(
        key="curves",
        question="How did training go?",
        answer=lambda found: answers.answer_curves(found.chosen, found.curves, found.num_images),
    ),
    Section(
        key="receptive-field",
        question="How much of the image does a unit see?",
        answer=lambda found: answers.answer_receptive_field(
            found.chosen, found.candidates, found.shipped["image_size_px"], found.num_images
        ),
    ),
    Section(
        key="arithmetic",
        question="Where is the arithmetic?",
        answer=lambda found: answers.answer_arithmetic(found.chosen.model, found.layers[found.chosen.model]),
    ),
    Section(
        key="pruning",
        question="What did pruning give?",
        answer=lambda found: answers.answer_pruning(found.pruned, found.comparisons, found.num_images),
        time=lambda found: answers.tell_pruned_times(found.times),
    ),
    Section(
        key="shrinking",
        question="What did shrinking give?",
        answer=lambda found: answers.answer_shrinking(found.shrunk, found.comparisons, found.num_images),
        time=lambda found: answers.tell_shrunk_times(found.shrunk[1:], found.times),
    ),
    Section(
        key="frontier",
        question="Which file gives the most accuracy for its cost?",
        answer=lambda found: answers.answer_frontier(found.files, found.published_models, found.num_images),
    ),
    Section(
        key="mistakes",
        question="What does the finished model get wrong, and how sure is it?",
        answer=lambda found: (
            f"{answers.answer_confusion(found.confusion, found.shipped['class_names'])} "
            f"{answers.answer_confidence(found.shipped, found.finished.calibration_error)}"
        ),
    ),
    Section(
        key="ood",
        question="Does it notice pictures of other things?",
        answer=lambda found: answers.answer_ood(found.ood, found.words),
    ),
    Section(
        key="audit",
        question="What do the images themselves hide?",
        answer=lambda found: answers.answer_audit(found.audit),
    ),
    Section(
        key="making",
        question="How was this made?",
        answer=lambda _: (
            "By dvc repro: every number above comes from a file of the pipeline, named under its section, and every "
            "choice was made on validation images. What stands in brackets behind an accuracy or a difference is its "
            "95 % interval (Wilson; Newcombe for paired differences), and models are called better or worse where a "
            "test on the same images says so (McNemar, exact; corrected by Holm). Both tell of the chance that lies in "
            "the images: another seed gives other models."
        ),
    ),
)


def read_measured(published: Mapping[tuple[str, str], float]) -> list[MeasuredCandidate]:
    """Reads every candidate of the run, model by model, with its accuracies on test images and its training time.

    `published` are accuracies that stand beside these, by model and augmentation.
    """
    candidates = {one.key: one for one in read_rows(DATA / "select_model/comparison.csv", Candidate)}
    measured = []
    for row in read_csv(DATA / "compare/candidates.csv"):  # comparison.csv has the best first, this is model by model
        candidate = candidates[f"{row['model']}-{row['augmentation']}"]
        seconds = float(row["training_seconds"]) if row["training_seconds"] else None
        tested = vars(read_evaluation(candidate.variants))
        beside = published.get((candidate.model, candidate.augmentation))
        measured.append(MeasuredCandidate(**vars(candidate), **tested, training_seconds=seconds, published=beside))
    return measured


def read_confusion() -> dict[tuple[str, str], int]:
    """Reads how many test images the finished model takes for which class, without pairs that never occur."""
    counts = [
        ((row["actual"], row["predicted"]), int(row["images"])) for row in read_csv(DATA / "compare/confusion.csv")
    ]
    return {pair: images for pair, images in counts if images}


def read_control(files: Sequence[RankedFile], seed: int) -> Mapping[str, int] | None:
    """Reads what deploy measured of the finished model; None where export left out its int8 file."""
    finished = name_finished(seed)
    return (
        read_deployed(finished) if (finished.name, "int8") in [(file.name, file.precision) for file in files] else None
    )


def read_findings(params: Params) -> Findings:
    """Reads everything that the page shows."""
    models = params.study.models
    choice = read_json(DATA / "select_model/choice.json")
    seed = params.study.seeds[0]
    evaluated = find_evaluated(name_finished(seed))
    shrunk = read_rows(DATA / "compare/shrinking.csv", ModelFile)
    timed = read_rows(DATA / "frontier/latency.csv", TimedFile)
    files, published_models = read_frontier(DATA / "frontier/frontier.csv")
    shipped = read_json(DATA / "ship/model.json")
    return Findings(
        seeds=params.study.seeds,
        epochs=params.train.epochs,
        keep_fraction=params.study.keep_fraction,
        prune_epochs=dict(zip(params.prune.sparsities, params.prune.epochs, strict=True)),
        baseline=find_baseline(params.augmentations, params.study.augmentations),
        metric=params.select_model.metric,
        ship_metric=params.ship.metric,
        choice=choice,
        reason=(DATA / "select_model/reason.txt").read_text().strip(),
        shipped=shipped,
        candidates=read_measured(STUDY_TEST_ACCURACY if describe_data(shipped).is_of_study else {}),
        costs={model: read_cost(model) for model in models},
        layers={model: read_rows(DATA / "complexity" / model / "layers.csv", Layer) for model in models},
        evaluated=evaluated,
        finished=read_evaluation([name_finished(seed)]),
        recall={row["class"]: float(row["recall"]) for row in read_csv(evaluated / "classes.csv")},
        confusion=read_confusion(),
        curves=read_rows(DATA / "compare/curves.csv", CurvePoint),
        pruned=read_rows(DATA / "compare/pruning.csv", ModelFile),
        zeros=read_rows(DATA / "compare/sparsity.csv", KernelZeros),
        shrunk=shrunk,
        shrunk_layers=read_shrunk_layers(
            shrunk[1].way, list(dict.fromkeys(float(file.target) for file in shrunk[1:])), seed
        ),
        files=files,
        published_models=published_models,
        comparisons=read_rows(DATA / "frontier/comparisons.csv", Comparison),
        coverage=read_csv(DATA / "ship/coverage.csv"),
        ood=read_json(DATA / "ship/ood.json"),
        ood_bins=read_csv(DATA / "ship/ood.csv"),
        audit=read_json(DATA / "audit/metrics.json"),
        control=read_control(files, seed),
        verified=read_json(DATA / "verify/metrics.json"),
        times={(file.kind, file.name, file.precision): file for file in timed},
        c_times=read_rows(DATA / "frontier/c_latency.csv", TimedC),
        stages=read_rows(DATA / "compare/timing.csv", StageTime),
        environment=read_json(DATA / "compare/environment.json"),
    )


def answer_all(found: Findings) -> dict[str, str]:
    """Answers what ships, then each question of the page."""
    shipped = found.shipped
    compared = answers.find_comparison_with_dense(found.comparisons, shipped["name"], shipped["source"])
    ships = answers.answer_shipped(shipped, found.published, compared, found.ship_metric)
    return {"ships": ships} | {section.question: section.answer(found) for section in SECTIONS}


def write_page(found: Findings, answered: Mapping[str, str]) -> str:
    """Writes the page."""
    return render(
        "page.html",
        found=found,
        answers=answered,
        words=found.words,
        purpose=answers.tell_purpose(found.shipped["class_names"], found.words),
        sections=SECTIONS,
        time=answers.tell_shipped_time(found.shipped_ms, found.dense_ms),
        tables=tables,
        chart=embed_chart,
        embed=embed_picture,
    )


def main() -> None:
    """Runs the stage."""
    found = read_findings(load_params(reads=READS))
    answered = answer_all(found)
    page = write_page(found, answered)
    *lasting, _ = answered  # the last question is about this run, not about the study
    write_json(OUTPUT / "answers.json", {question: answered[question] for question in lasting})
    write_bytes(OUTPUT / "index.html", page.encode())
    print(f"{OUTPUT}: {len(SECTIONS)} questions answered in {len(page) / 1e6:.1f} MB; open {OUTPUT}/index.html")


if __name__ == "__main__":
    run_stage(main)
