"""The sections of params.yaml: their keys, types and ranges, and the rules between keys.

Units and reasons stand in params.yaml. Lists are read as tuples.
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from stages.lib.network.architecture import list_layers
from stages.lib.params.checking import Counts, Section, Words, check_counts, check_names, refusal

LAYER_KINDS_WITH_BATCH_NORM = ("conv", "flatten", "dense")
RANKINGS = ("uniform", "lamp")
WAYS_OF_SHRINKING = ("magnitude", "random", "scratch")

Fraction = Annotated[float, Field(ge=0, le=1)]
FractionBelowOne = Annotated[float, Field(ge=0, lt=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
Pixels = Annotated[int, Field(ge=0, le=1024)]
Epochs = Annotated[int, Field(ge=1, le=100_000)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
LearningRate = Annotated[float, Field(gt=0, le=100)]


def _check_checksum(value: Any) -> Any:
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
        raise refusal("the SHA-256 of the decompressed file, 64 hexadecimal digits", value)
    return value


def _check_title(value: Any) -> Any:
    if not isinstance(value, str) or not value.strip():
        raise refusal("a name", value)
    return value


def _check_clean_epochs(value: Any, info: ValidationInfo) -> Any:
    """Checks that an epoch is left: else no augmentation would ever be seen."""
    epochs = info.data.get("epochs", ())  # missing where they were refused
    fewest = min(epochs, default=100_000) if isinstance(epochs, tuple) else epochs
    if type(value) is not int or not 0 <= value < fewest:
        raise refusal(f"an integer from 0 to {fewest - 1}", value)
    return value


def _check_number(value: Any, low: float, high: float, interval: str) -> float:
    """Checks that a number lies strictly within (low, high], or (low, high) where `interval` says so."""
    if type(value) not in (int, float) or not low < value <= high or (value == high and interval.endswith(")")):
        raise refusal(f"a number in {interval}", value)
    return float(value)


def _check_steps(values: Any, is_rising: bool) -> tuple[float, ...]:
    """Checks the steps of a ladder, each of which starts where the one before it ended."""
    if not isinstance(values, list | tuple) or not values:
        raise refusal("a list of numbers in (0, 1)", values)
    steps = tuple(_check_number(value, 0, 1, "(0, 1)") for value in values)
    if list(steps) != sorted(set(steps), reverse=not is_rising):
        raise refusal(f"{'rising' if is_rising else 'falling'} numbers, each once", values)
    return steps


def _check_length(values: Any, info: ValidationInfo) -> None:
    """Checks that a list has a value for each sparsity."""
    num_steps = len(info.data.get("sparsities", values))
    if len(values) != num_steps:
        raise refusal(f"one number, or {num_steps} of them, as there are sparsities", values)


def _check_named(values: Any) -> Any:
    """Checks a mapping from names of the user's own choice; a name becomes part of stage names and paths."""
    if not isinstance(values, dict) or not values:
        raise refusal("at least one named entry", values)
    for name in values:
        if not isinstance(name, str) or not re.fullmatch("[a-z][a-z0-9_]*", name):
            raise refusal("names of lower-case letters, digits and _", name)
    return values


Checksum = Annotated[str, BeforeValidator(_check_checksum)]
CleanEpochs = Annotated[int, BeforeValidator(_check_clean_epochs)]


class FilesParams(Section):
    """SHA-256 of each decompressed IDX file."""

    train_images: Checksum = Field(alias="train-images-idx3-ubyte")
    train_labels: Checksum = Field(alias="train-labels-idx1-ubyte")
    test_images: Checksum = Field(alias="t10k-images-idx3-ubyte")
    test_labels: Checksum = Field(alias="t10k-labels-idx1-ubyte")


class DatasetParams(Section):
    """The data: their name, side of the square images, class names by label, SHA-256 of each file."""

    name: Annotated[str, BeforeValidator(_check_title)]
    image_size_px: Annotated[int, Field(ge=1, le=1024)]
    class_names: Words
    files: FilesParams

    @field_validator("class_names")
    @classmethod
    def _check_class_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not 2 <= len(names) <= 256:
            raise refusal("2 to 256 names, label 0 first", f"{len(names)} names")
        return names


class DownloadParams(Section):
    """Where the files come from, and how long a source may be silent."""

    sources: Words
    timeout_seconds: Annotated[float, Field(gt=0, le=3600)]

    @field_validator("sources")
    @classmethod
    def _check_sources(cls, sources: tuple[str, ...]) -> tuple[str, ...]:
        for source in sources:
            if not re.fullmatch(r"https?://[^/\s]+\S*|apt:[a-z0-9][a-z0-9+.-]+|folder:.+", source):
                raise refusal("https://host/path, apt:package or folder:path", source)
        if not sources:
            raise refusal("at least one source", "an empty list")
        return sources


class PrepareParams(Section):
    """The split: share held out for validation, and share of each split that is kept."""

    val_fraction: Annotated[float, Field(gt=0, lt=1)]
    keep_fraction: PositiveFraction


class PreviewParams(Section):
    """The augmentation preview: number of augmented versions beside each original."""

    versions: Annotated[int, Field(ge=1, le=20)]


class StudyParams(Section):
    """The grid that runs: names of models and of augmentations."""

    models: Words
    augmentations: Words


class ModelParams(Section):
    """One architecture; see `stages.lib.network.architecture.list_layers`."""

    blocks: tuple[Counts, ...]
    residual: bool
    global_pool: bool
    dense: Counts
    batch_norm: Words
    dropout: FractionBelowOne

    @field_validator("blocks", mode="before")
    @classmethod
    def _check_blocks(cls, blocks: Any) -> Any:
        if not isinstance(blocks, list | tuple) or not all(
            isinstance(block, list | tuple) and block for block in blocks
        ):
            raise refusal("a list of lists of filters, such as [[32, 64], [64]]", blocks)
        return tuple(blocks)

    @field_validator("batch_norm")
    @classmethod
    def _check_batch_norm(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        return check_names(kinds, LAYER_KINDS_WITH_BATCH_NORM, at_least=0)


class AugmentationParams(Section):
    """The limits of one augmentation; see `stages.lib.training.augmentation.augment`."""

    rotation_degrees: Annotated[float, Field(ge=0, le=180)]
    shift_fraction: Fraction
    zoom_fraction: FractionBelowOne
    shift_px: Pixels
    erase_px: Pixels
    horizontal_flip: bool

    @property
    def is_identity(self) -> bool:
        """Tells whether it leaves images as they are."""
        return not any(self.model_dump().values())


class TrainParams(Section):
    """How every model is trained."""

    epochs: Epochs
    clean_epochs: CleanEpochs
    batch_size: Count
    optimizer: Literal["adam", "adamw", "muon", "sgd"]
    learning_rate: LearningRate
    schedule: Literal["one_cycle", "constant"]
    warmup_fraction: FractionBelowOne
    weight_decay: Annotated[float, Field(ge=0, le=100)]
    label_smoothing: FractionBelowOne
    precision: Literal["auto", "bfloat16", "float32"]

    @field_validator("weight_decay")
    @classmethod
    def _check_weight_decay(cls, value: float, info: ValidationInfo) -> float:
        if value and (optimizer := info.data.get("optimizer")) in ("adam", "sgd"):
            raise refusal(f"0 with optimizer {optimizer} (adamw and muon use it)", value)
        return value


class EvaluateParams(Section):
    """What is measured on the test images."""

    calibration_bins: Annotated[int, Field(ge=2, le=100)]
    gallery_images: Annotated[int, Field(ge=1, le=100)]


class SelectModelParams(Section):
    """The rule of the choice: validation accuracies this close count as equal."""

    tolerance: FractionBelowOne


class PruneParams(Section):
    """How weights of the chosen model are set to zero: epochs and peak learning rate for each sparsity."""

    rankings: Words
    sparsities: tuple[float, ...]
    epochs: tuple[int, ...]
    clean_epochs: CleanEpochs
    ramp_fraction: PositiveFraction
    frequency: Count
    batch_size: Count
    learning_rate: tuple[float, ...]

    @field_validator("rankings")
    @classmethod
    def _check_rankings(cls, rankings: tuple[str, ...]) -> tuple[str, ...]:
        return check_names(rankings, RANKINGS)

    @field_validator("sparsities", mode="before")
    @classmethod
    def _check_sparsities(cls, values: Any) -> Any:
        return _check_steps(values, is_rising=True)

    @field_validator("epochs", mode="before")
    @classmethod
    def _check_epochs(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, list | tuple):
            _check_length(value, info)
            return check_counts(value)
        if type(value) is not int or not 1 <= value <= 100_000:
            raise refusal("an integer from 1 to 100000", value)
        return (value,) * len(info.data.get("sparsities", (0,)))

    @field_validator("learning_rate", mode="before")
    @classmethod
    def _check_learning_rate(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, list | tuple):
            _check_length(value, info)
            return tuple(_check_number(rate, 0, 100, "(0, 100]") for rate in value)
        return (_check_number(value, 0, 100, "(0, 100]"),) * len(info.data.get("sparsities", (0,)))


class ShrinkParams(Section):
    """How whole filters are removed from the chosen model."""

    filters: Words
    macs_shares: tuple[float, ...]
    multiple: Annotated[int, Field(ge=1, le=1024)]
    epochs: Epochs
    clean_epochs: CleanEpochs
    learning_rate: LearningRate

    @field_validator("filters")
    @classmethod
    def _check_filters(cls, filters: tuple[str, ...]) -> tuple[str, ...]:
        return check_names(filters, WAYS_OF_SHRINKING)

    @field_validator("macs_shares", mode="before")
    @classmethod
    def _check_macs_shares(cls, values: Any) -> Any:
        return _check_steps(values, is_rising=False)


class ExportParams(Section):
    """How models become LiteRT files, and how much validation accuracy that may cost."""

    calibration_images: Count
    weight_bits: Annotated[int, Field(ge=2, le=8)]
    max_loss_float32: Fraction
    max_loss_int8: Fraction


class ShipParams(Section):
    """The rule by which a file is chosen to be shipped."""

    max_loss: Fraction


class Params(Section):
    """The whole of params.yaml that stages read."""

    seed: Annotated[int, Field(ge=0, le=2**31 - 1)]
    dataset: DatasetParams
    download: DownloadParams
    prepare: PrepareParams
    preview: PreviewParams
    study: StudyParams
    models: Annotated[dict[str, ModelParams], BeforeValidator(_check_named)]
    augmentations: Annotated[dict[str, AugmentationParams], BeforeValidator(_check_named)]
    train: TrainParams
    evaluate: EvaluateParams
    select_model: SelectModelParams
    prune: PruneParams
    shrink: ShrinkParams
    export: ExportParams
    ship: ShipParams

    @model_validator(mode="after")
    def _check_architectures(self) -> Self:
        size_px, num_classes = self.dataset.image_size_px, len(self.dataset.class_names)
        for name, model in self.models.items():
            try:
                list_layers(size_px, num_classes, **model.model_dump())
            except ValueError as error:
                raise _at(f"models.{name}.{error}") from error
        return self

    @model_validator(mode="after")
    def _check_study(self) -> Self:
        for key, names, known in (
            ("models", self.study.models, self.models),
            ("augmentations", self.study.augmentations, self.augmentations),
        ):
            try:
                check_names(names, known)
            except PydanticCustomError as error:
                raise _at(f"study.{key}: {error}") from error
        return self


def _at(message: str) -> PydanticCustomError:
    """Builds the error of a rule between sections; its message begins with the key."""
    return PydanticCustomError("refused", "{message}", {"message": message})
