"""What the stages measured, as typed rows: of candidates, and of model files. The one place that reads it.

Accuracies, sparsities and other shares are fractions in [0, 1], losses in nats, counts for one image and one forward
pass.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter

from stages.lib.params.sections import StudyParams
from stages.lib.results import published
from stages.lib.results.chance import add_intervals
from stages.lib.storage.files import compute_gzip_size_bytes, read_arrays, read_csv, read_json, write_bytes, write_csv
from stages.lib.storage.variant import DATA, Variant

Row = TypeVar("Row")
AnyCandidate = TypeVar("AnyCandidate", bound="Candidate")

PRECISIONS = ("float32", "int8")
KIND_OF = {
    "train": "dense",
    "finish": "dense",
    "prune": "pruned",
    "shrink": "shrunk",
}  # by the stage that made the model
CLASS_SCORES = ("val_balanced_accuracy", "val_macro_f1", "test_balanced_accuracy", "test_macro_f1")
UNDER = "test_accuracy_under_"  # begins the columns of accuracies on distorted test images
TESTED = ("test_accuracy", "test_balanced_accuracy", "test_macro_f1", "test_loss", "calibration_error")
MEASURED = ("val_accuracy", "test_accuracy", "size_bytes", "gzip_size_bytes")  # of every file
DEVICE_COSTS = {
    "executed_macs": "macs",
    "flash_bytes": "flash_bytes",
    "ram_bytes": "ram_bytes",
    "instructions": "instructions_cortex_m4",
    "arena_bytes": "tflite_micro_arena_bytes",
}  # the names by which tables know what deploy measured


@dataclass(frozen=True)
class Candidate:
    """One model under one augmentation, before anybody looked at test images; means over its seeds."""

    model: str
    augmentation: str
    seeds: str  # as "42 43 44"
    val_accuracy: float
    val_accuracy_sd: float | None  # standard deviation over the seeds; None of one seed
    val_loss: float
    val_balanced_accuracy: float  # mean recall of all classes
    val_macro_f1: float  # mean F1 of all classes
    macs: int
    parameters: int
    receptive_field_px: int

    @property
    def variants(self) -> list[Variant]:
        """Lists the trained models, one a seed, and where their files lie."""
        return [Variant("train", self.model, self.augmentation, int(seed)) for seed in self.seeds.split()]

    @property
    def variant(self) -> Variant:
        """Names the model of the first seed."""
        return self.variants[0]

    @property
    def key(self) -> str:
        """Names the candidate."""
        return self.variant.name


@dataclass(frozen=True)
class Evaluation:
    """What a model is worth on test images; `under` holds the accuracy by the augmentation that distorts them.

    Of several seeds, these are means.
    """

    test_accuracy: float
    test_accuracy_sd: float | None  # standard deviation over the seeds; None of one seed
    test_balanced_accuracy: float  # mean recall of all classes
    test_macro_f1: float  # mean F1 of all classes
    test_loss: float
    calibration_error: float
    under: Mapping[str, float]


@dataclass(frozen=True)
class ModelFile:
    """A file of a model of ours: what it is worth and what it costs."""

    name: str  # of the model, as tables show it
    kind: str  # dense, pruned or shrunk
    way: str  # as of a `Variant`
    target: str  # as of a `Variant`
    seed: int  # as of a `Variant`
    format: str  # keras or tflite
    precision: str  # float32 or int8
    val_accuracy: float  # on validation images
    test_accuracy: float  # on test images
    size_bytes: int  # of the file
    gzip_size_bytes: int  # of the file, gzipped
    macs: int  # zeros included
    nonzero_macs: int  # without those whose weight is zero
    parameters: int  # numbers stored, zeros included
    sparsity: float  # share of the weights that is zero

    @property
    def variant(self) -> Variant:
        """Names the model, and where its files lie."""
        if self.kind == "dense":
            return Variant("train" if self.target else "finish", self.way, self.target, self.seed)
        source = next(source for source, kind in KIND_OF.items() if kind == self.kind)
        return Variant(source, self.way, float(self.target), self.seed)

    @property
    def path(self) -> Path:
        """Returns where the file lies."""
        if self.format == "keras":
            return self.variant.folder / "model.h5"
        return self.variant.exported / f"{self.precision}.tflite"

    @property
    def label(self) -> str:
        """Names the file; int8 is named, because most files are float32, and Keras, because most are LiteRT."""
        return f"{self.name}{' (Keras)' if self.format == 'keras' else ' int8' if self.precision == 'int8' else ''}"


@dataclass(frozen=True)
class RankedFile(ModelFile):
    """A file of ours, beside all others: whether no other is as accurate on validation images at its cost.

    The first four count all classes alike: the mean of their recall, and that of their F1. Of a Keras file that was
    pruned or shrunk they are None, because its stage measures accuracy alone. Files in int8 have C, and the costs of
    it, on a Cortex-M4; of others they are None.
    """

    val_balanced_accuracy: float | None
    val_macro_f1: float | None
    test_balanced_accuracy: float | None
    test_macro_f1: float | None
    executed_macs: int | None  # for one image; `macs` without those of zeros, where the C skips them
    flash_bytes: int | None  # code and weights
    ram_bytes: int | None  # image, logits, working memory, variables and stack
    instructions: int | None  # executed for one image
    arena_bytes: int | None  # what TensorFlow Lite Micro takes of RAM for the same file, measured on this machine
    is_on_size_front: bool
    is_on_macs_front: bool
    is_on_flash_front: bool
    is_on_ram_front: bool
    is_on_instructions_front: bool


@dataclass(frozen=True)
class PublishedModel:
    """A model of others: what they say of it. Its size is 4 bytes a parameter, as float32."""

    name: str
    test_accuracy: float
    size_bytes: int
    macs: int | None  # None: nobody says
    parameters: int
    published_by: str


@dataclass(frozen=True)
class KernelZeros:
    """A row of sparsity.csv: the zeros of one kernel of a pruned model."""

    ranking: str
    target: float
    layer: str
    weights: int
    zeros: int
    sparsity: float


@dataclass(frozen=True)
class LayerMacs:
    """MACs of a layer of a shrunk model, for one image; `share` says what stays: all filters, or at most a share."""

    layer: str
    share: str
    macs: int


def average(values: Sequence[float]) -> float:
    """Averages what several seeds gave; with six decimals, but one value stays as it is."""
    return values[0] if len(values) == 1 else round(mean(values), 6)


def deviate(values: Sequence[float]) -> float | None:
    """Computes the standard deviation of what several seeds gave, with six decimals; None of one value."""
    return round(stdev(values), 6) if len(values) > 1 else None


def read_candidate(model: str, augmentation: str, seeds: Sequence[int]) -> Candidate:
    """Reads what training and complexity wrote of one model under one augmentation."""
    trained = [read_json(Variant("train", model, augmentation, seed).folder / "metrics.json") for seed in seeds]
    accuracies = [one["val_accuracy"] for one in trained]
    counted = read_cost(model)
    return Candidate(
        model=model,
        augmentation=augmentation,
        seeds=" ".join(map(str, seeds)),
        val_accuracy=average(accuracies),
        val_accuracy_sd=deviate(accuracies),
        val_loss=average([one["val_loss"] for one in trained]),
        val_balanced_accuracy=average([one["val_balanced_accuracy"] for one in trained]),
        val_macro_f1=average([one["val_macro_f1"] for one in trained]),
        **{name: counted[name] for name in ("macs", "parameters", "receptive_field_px")},
    )


def read_candidates(study: StudyParams) -> list[Candidate]:
    """Reads all candidates of a study, model by model."""
    return [
        read_candidate(model, augmentation, study.seeds)
        for model in study.models
        for augmentation in study.augmentations
    ]


def find_chosen(candidates: Sequence[AnyCandidate], choice: Mapping[str, Any]) -> AnyCandidate:
    """Finds the candidate that data/select_model/choice.json names."""
    names = (choice["model"], choice["augmentation"])
    return next(one for one in candidates if (one.model, one.augmentation) == names)


def read_cost(model: str) -> dict[str, Any]:
    """Reads what complexity counted of a model."""
    return read_json(DATA / "complexity" / model / "metrics.json")


def count_val_images() -> int:
    """Counts the validation images."""
    (labels,) = read_arrays(DATA / "prepare/val.npz", "labels")
    return len(labels)


def find_evaluated(variant: Variant) -> Path:
    """Finds where evaluate writes what a trained model is worth."""
    return DATA / f"evaluate/{variant.name}/{variant.seed}"


def count_images(evaluated: Variant) -> dict[str, int]:
    """Counts the images by split, val and test, those that `evaluate` used for a model."""
    (labels,) = read_arrays(find_evaluated(evaluated) / "predictions.npz", "labels")
    return {"val": count_val_images(), "test": len(labels)}


def read_evaluation(variants: Sequence[Variant]) -> Evaluation:
    """Reads what a model is worth on test images; `variants` are its trainings, one a seed."""
    measured = [read_json(find_evaluated(variant) / "metrics.json") for variant in variants]
    means = {name: average([one[name] for one in measured]) for name in measured[0]}
    return Evaluation(
        test_accuracy_sd=deviate([one["test_accuracy"] for one in measured]),
        under={name.removeprefix(UNDER): value for name, value in means.items() if name.startswith(UNDER)},
        **{name: means[name] for name in TESTED},
    )


def read_dense(variant: Variant, cost: Candidate) -> ModelFile:
    """Reads the Keras file of a training, of a candidate or the finished one; `cost` has the same architecture."""
    content = (variant.folder / "model.h5").read_bytes()
    return ModelFile(
        name=variant.name,
        kind="dense",
        way=variant.way,
        target=str(variant.target),
        seed=variant.seed,
        format="keras",
        precision="float32",
        val_accuracy=read_json(variant.folder / "metrics.json")["val_accuracy"],
        test_accuracy=read_evaluation([variant]).test_accuracy,
        size_bytes=len(content),
        gzip_size_bytes=compute_gzip_size_bytes(content),
        macs=cost.macs,
        nonzero_macs=cost.macs,
        parameters=cost.parameters,
        sparsity=0.0,
    )


def read_version(variant: Variant, dense: ModelFile) -> ModelFile:
    """Reads the Keras file of a pruned or shrunk version of the model `dense`."""
    measured = read_json(variant.folder / "metrics.json")
    return replace(
        dense,
        name=variant.name,
        kind=KIND_OF[variant.source],
        way=variant.way,
        target=str(variant.target),
        seed=variant.seed,
        **{column: measured[column] for column in (*MEASURED, "macs", "parameters")},
        nonzero_macs=measured.get("nonzero_macs", measured["macs"]),
        sparsity=measured.get("sparsity", 0.0),
    )


def read_exported(model: ModelFile) -> Iterator[ModelFile]:
    """Reads the LiteRT files of the model of a Keras file, one a precision, but for those that export left out."""
    measured = read_json(model.variant.exported / "metrics.json")
    for precision in PRECISIONS:
        if f"{precision}_size_bytes" in measured:
            values = {column: measured[f"{precision}_{column}"] for column in MEASURED}
            yield replace(model, format="tflite", precision=precision, **values)


def read_deployed(variant: Variant) -> dict[str, Any]:
    """Reads what deploy measured of the C of a model's int8 file."""
    return read_json(variant.deployed / "metrics.json")


def read_class_scores(file: ModelFile) -> dict[str, float | None]:
    """Reads what a file is worth where all classes count alike, by the columns of `RankedFile`."""
    if file.format == "tflite":
        exported = read_json(file.variant.exported / "metrics.json")
        return {name: exported[f"{file.precision}_{name}"] for name in CLASS_SCORES}
    if file.kind != "dense":
        return dict.fromkeys(CLASS_SCORES)
    trained = read_json(file.variant.folder / "metrics.json")
    measured = trained | read_json(find_evaluated(file.variant) / "metrics.json")
    return {name: measured[name] for name in CLASS_SCORES}


def read_device_costs(file: ModelFile) -> dict[str, int | None]:
    """Reads what the C of a file costs on a device, by the columns of `RankedFile`; None of each where it has no C."""
    if (file.format, file.precision) != ("tflite", "int8"):
        return dict.fromkeys(DEVICE_COSTS)
    deployed = read_deployed(file.variant)
    return {column: deployed[name] for column, name in DEVICE_COSTS.items()}


def list_variants(source: str, ways: Sequence[str], targets: Sequence[float], seed: int) -> list[Variant]:
    """Lists the pruned or shrunk versions of the finished model of a seed, way by way."""
    return [Variant(source, way, target, seed) for way in ways for target in targets]


def read_shrunk_layers(way: str, targets: Sequence[float], seed: int) -> list[LayerMacs]:
    """Reads the MACs of each layer that has some, before shrinking, then for each target: all ways give the same."""
    rows: list[LayerMacs] = []
    for variant in list_variants("shrink", [way], targets, seed):
        layers = [row for row in read_csv(variant.folder / "layers.csv") if int(row["dense_macs"])]
        if not rows:
            rows = [LayerMacs(row["layer"], "all filters", int(row["dense_macs"])) for row in layers]
        share = f"at most {100 * float(variant.target):g} %"
        rows += [LayerMacs(row["layer"], share, int(row["macs"])) for row in layers]
    return rows


def read_kernel_zeros(rankings: Sequence[str], sparsities: Sequence[float], seed: int) -> list[KernelZeros]:
    """Reads the zeros of each kernel of each pruned model."""
    rows = [
        {**row, "ranking": variant.way, "target": variant.target}
        for variant in list_variants("prune", rankings, sparsities, seed)
        for row in read_csv(variant.folder / "layers.csv")
    ]
    return _parse(KernelZeros, rows)


def write_rows(
    path: Path, row_type: type[Row], rows: Sequence[Row], num_images: Mapping[str, int] | None = None
) -> None:
    """Writes rows of one type as CSV, accuracies with their intervals; without any, the names of the columns alone.

    `num_images` are those of val and test, for rows that hold accuracies.
    """
    names, counts = list(get_type_hints(row_type)), num_images or {}
    if rows:
        write_csv(path, [add_intervals({name: getattr(row, name) for name in names}, counts) for row in rows])
    else:
        write_bytes(path, f"{','.join(add_intervals(dict.fromkeys(names), counts))}\n".encode())


def read_rows(path: Path, row_type: type[Row]) -> list[Row]:
    """Reads what `write_rows` wrote; raises UserError if there is no such file."""
    return _parse(row_type, read_csv(path))


def write_frontier(
    path: Path, files: Sequence[RankedFile], others: Sequence[PublishedModel], num_images: Mapping[str, int]
) -> None:
    """Writes our files, at least one, and what others published, as one table, accuracies with their intervals.

    `num_images` are those of val and test, on which ours were measured.
    """
    rows = [{**asdict(file), "published_by": ""} for file in files]
    blank = {name: False if name.startswith("is_on_") else None for name in rows[0]}
    theirs = [{**blank, "kind": "published", **asdict(model), "precision": "float32"} for model in others]
    measured = [add_intervals(row, num_images) for row in rows]
    write_csv(path, measured + [add_intervals(row, published.NUM_IMAGES) for row in theirs])


def read_frontier(path: Path) -> tuple[list[RankedFile], list[PublishedModel]]:
    """Reads what `write_frontier` wrote; raises UserError if there is no such file."""
    rows = read_csv(path)
    ours = _parse(RankedFile, (row for row in rows if row["kind"] != "published"))
    return ours, _parse(PublishedModel, (row for row in rows if row["kind"] == "published"))


def mark_shipped(rows: Sequence[Mapping[str, Any]], shipped: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tells of each file, for a chart, whether it is the one that data/ship/model.json describes."""
    wanted = (shipped["name"], shipped["precision"], "tflite")
    return [{**row, "is_shipped": (row["name"], row["precision"], row.get("format")) == wanted} for row in rows]


def _parse(row_type: type[Row], rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Makes typed rows of a CSV file; an empty cell is None where that may be, and columns of no field are left out."""
    adapter = TypeAdapter(row_type)
    optional = {name for name, kind in get_type_hints(row_type).items() if type(None) in get_args(kind)}
    return [
        adapter.validate_python({k: None if k in optional and v == "" else v for k, v in row.items()}) for row in rows
    ]
