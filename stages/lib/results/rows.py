"""What the stages measured, as typed rows: of candidates, and of model files. The one place that reads it.

Accuracies, sparsities and other shares are fractions in [0, 1], losses in nats, counts for one image and one forward
pass.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from stages.lib.storage.files import compute_gzip_size_bytes, read_csv, read_json, write_bytes, write_csv
from stages.lib.storage.variant import DATA, Variant

Row = TypeVar("Row")

PRECISIONS = ("float32", "int8")
KIND_OF = {"train": "dense", "prune": "pruned", "shrink": "shrunk"}  # by the stage that made the model
SOURCE_OF = {kind: source for source, kind in KIND_OF.items()}
UNDER = "test_accuracy_under_"  # begins the columns of accuracies on distorted test images


@dataclass(frozen=True)
class Candidate:
    """One trained model, before anybody looked at test images."""

    model: str
    augmentation: str
    val_accuracy: float
    val_loss: float
    macs: int
    parameters: int
    receptive_field_px: int

    @property
    def variant(self) -> Variant:
        """Names it, and where its files lie."""
        return Variant("train", self.model, self.augmentation)

    @property
    def key(self) -> str:
        """Names the candidate as its folder is named."""
        return self.variant.name


@dataclass(frozen=True)
class Evaluation:
    """What a candidate is worth on test images; `under` holds the accuracy by the augmentation that distorts them."""

    test_accuracy: float
    test_loss: float
    calibration_error: float
    under: Mapping[str, float]


@dataclass(frozen=True)
class ModelFile:
    """A file of a model of ours: what it is worth and what it costs.

    Attributes:
        name: of the model, as tables show it.
        kind: dense, pruned or shrunk.
        way: as of a `Variant`.
        target: as of a `Variant`.
        format: keras or tflite.
        precision: float32 or int8.
        val_accuracy: on validation images.
        test_accuracy: on test images.
        size_bytes: of the file.
        gzip_size_bytes: of the file, gzipped.
        macs: zeros included.
        nonzero_macs: without those whose weight is zero.
        parameters: numbers stored, zeros included.
        sparsity: share of the weights that is zero.
    """

    name: str
    kind: str
    way: str
    target: str
    format: str
    precision: str
    val_accuracy: float
    test_accuracy: float
    size_bytes: int
    gzip_size_bytes: int
    macs: int
    nonzero_macs: int
    parameters: int
    sparsity: float

    @property
    def variant(self) -> Variant:
        """Names the model, and where its files lie."""
        source = SOURCE_OF[self.kind]
        return Variant(source, self.way, self.target if source == "train" else float(self.target))

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
    """A file of ours, beside all others: whether no other is as accurate on validation images at its cost."""

    is_on_size_front: bool
    is_on_macs_front: bool


@dataclass(frozen=True)
class PublishedModel:
    """A model of others: what they say of it. Its size is 4 bytes a parameter, as float32."""

    name: str
    test_accuracy: float
    size_bytes: int
    macs: int | None
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


def read_candidate(model: str, augmentation: str) -> Candidate:
    """Reads what training and complexity wrote of one model."""
    cost = read_cost(model)
    trained = read_json(Variant("train", model, augmentation).folder / "metrics.json")
    return Candidate(
        model=model,
        augmentation=augmentation,
        val_accuracy=trained["val_accuracy"],
        val_loss=trained["val_loss"],
        macs=cost["macs"],
        parameters=cost["parameters"],
        receptive_field_px=cost["receptive_field_px"],
    )


def read_candidates(models: Sequence[str], augmentations: Sequence[str]) -> list[Candidate]:
    """Reads all candidates of a study, model by model."""
    return [read_candidate(model, augmentation) for model in models for augmentation in augmentations]


def read_cost(model: str) -> dict[str, Any]:
    """Reads what complexity counted of a model."""
    return read_json(DATA / "complexity" / model / "metrics.json")


def read_evaluation(candidate: Candidate) -> Evaluation:
    """Reads what a candidate is worth on test images."""
    measured = read_json(DATA / "evaluate" / candidate.key / "metrics.json")
    return Evaluation(
        test_accuracy=measured["test_accuracy"],
        test_loss=measured["test_loss"],
        calibration_error=measured["calibration_error"],
        under={name.removeprefix(UNDER): value for name, value in measured.items() if name.startswith(UNDER)},
    )


def read_dense(candidate: Candidate) -> ModelFile:
    """Reads the Keras file of a candidate."""
    content = (candidate.variant.folder / "model.h5").read_bytes()
    return ModelFile(
        name=candidate.key,
        kind="dense",
        way=candidate.model,
        target=candidate.augmentation,
        format="keras",
        precision="float32",
        val_accuracy=candidate.val_accuracy,
        test_accuracy=read_evaluation(candidate).test_accuracy,
        size_bytes=len(content),
        gzip_size_bytes=compute_gzip_size_bytes(content),
        macs=candidate.macs,
        nonzero_macs=candidate.macs,
        parameters=candidate.parameters,
        sparsity=0.0,
    )


def read_version(variant: Variant, dense: ModelFile) -> ModelFile:
    """Reads the Keras file of a pruned or shrunk version of the model `dense`."""
    measured = read_json(variant.folder / "metrics.json")
    macs = measured.get("macs", dense.macs)  # pruning removes none
    return replace(
        dense,
        name=variant.name,
        kind=KIND_OF[variant.source],
        way=variant.way,
        target=str(variant.target),
        val_accuracy=measured["val_accuracy"],
        test_accuracy=measured["test_accuracy"],
        size_bytes=measured["size_bytes"],
        gzip_size_bytes=measured["gzip_size_bytes"],
        macs=macs,
        nonzero_macs=measured.get("nonzero_macs", macs),
        parameters=measured.get("parameters", dense.parameters),
        sparsity=measured.get("sparsity", 0.0),
    )


def read_exported(model: ModelFile) -> Iterator[ModelFile]:
    """Reads the LiteRT files of the model of a Keras file, one a precision."""
    measured = read_json(model.variant.exported / "metrics.json")
    columns = ("val_accuracy", "test_accuracy", "size_bytes", "gzip_size_bytes")
    for precision in PRECISIONS:
        values = {column: measured[f"{precision}_{column}"] for column in columns}
        yield replace(model, format="tflite", precision=precision, **values)


def list_variants(source: str, ways: Sequence[str], targets: Sequence[float]) -> list[Variant]:
    """Lists the pruned or shrunk versions of a run, way by way."""
    return [Variant(source, way, target) for way in ways for target in targets]


def read_shrunk_layers(way: str, targets: Sequence[float]) -> list[LayerMacs]:
    """Reads the MACs of each layer that has some, before shrinking, then for each target: all ways give the same."""
    rows: list[LayerMacs] = []
    for variant in list_variants("shrink", [way], targets):
        layers = [row for row in read_csv(variant.folder / "layers.csv") if int(row["dense_macs"])]
        if not rows:
            rows = [LayerMacs(row["layer"], "all filters", int(row["dense_macs"])) for row in layers]
        share = f"at most {100 * float(variant.target):g} %"
        rows += [LayerMacs(row["layer"], share, int(row["macs"])) for row in layers]
    return rows


def read_kernel_zeros(rankings: Sequence[str], sparsities: Sequence[float]) -> list[KernelZeros]:
    """Reads the zeros of each kernel of each pruned model."""
    return [
        KernelZeros(
            ranking=variant.way,
            target=float(variant.target),
            layer=row["layer"],
            weights=int(row["weights"]),
            zeros=int(row["zeros"]),
            sparsity=float(row["sparsity"]),
        )
        for variant in list_variants("prune", rankings, sparsities)
        for row in read_csv(variant.folder / "layers.csv")
    ]


def write_rows(path: Path, row_type: type[Row], rows: Sequence[Row]) -> None:
    """Writes rows of one type as CSV; without any, the names of the columns alone."""
    names = _list_columns(row_type)
    if rows:
        write_csv(path, [{name: getattr(row, name) for name in names} for row in rows])
    else:
        write_bytes(path, f"{','.join(names)}\n".encode())


def read_rows(path: Path, row_type: type[Row]) -> list[Row]:
    """Reads what `write_rows` wrote; an empty cell is None where the column may be unknown.

    Raises:
        UserError: if there is no such file.
    """
    return [_build(row_type, row) for row in read_csv(path)]


def write_frontier(path: Path, files: Sequence[RankedFile], published: Sequence[PublishedModel]) -> None:
    """Writes our files, at least one, and what others published, as one table."""
    rows = [{**asdict(file), "published_by": ""} for file in files]
    unknown = {
        **dict.fromkeys(rows[0], None),
        "kind": "published",
        "is_on_size_front": False,
        "is_on_macs_front": False,
    }
    write_csv(path, [*rows, *[{**unknown, **asdict(model), "precision": "float32"} for model in published]])


def read_frontier(path: Path) -> tuple[list[RankedFile], list[PublishedModel]]:
    """Reads what `write_frontier` wrote.

    Raises:
        UserError: if there is no such file.
    """
    rows = read_csv(path)
    ours = [_build(RankedFile, row) for row in rows if row["kind"] != "published"]
    return ours, [_build(PublishedModel, row) for row in rows if row["kind"] == "published"]


def _build(row_type: type[Row], row: Mapping[str, str]) -> Row:
    types = get_type_hints(row_type)
    return row_type(**{name: _parse(row[name], types[name]) for name in _list_columns(row_type)})


def _list_columns(row_type: type[Any]) -> list[str]:
    return [field.name for field in fields(row_type)]


def _parse(text: str, wanted: Any) -> Any:
    if wanted is bool:
        return text == "True"
    kinds = getattr(wanted, "__args__", (wanted,))
    if text == "" and type(None) in kinds:
        return None
    return kinds[0](text)
