"""The sections of params.yaml: their keys, types and ranges, and the rules between keys.

Units and reasons stand in params.yaml. Lists are read as tuples.
"""

import re
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from stages.lib.errors import UserError
from stages.lib.network.architecture import check_dense_weights, list_layers
from stages.lib.params.checking import Section, find_name, refusal

Entry = TypeVar("Entry")


def _check_different(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) != len(values):
        raise refusal("each entry once", list(values))
    return values


def _check_order(steps: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
    """Checks that sparsities rise, or that shares of the MACs fall: each step compresses further."""
    falls = info.field_name == "macs_shares"
    if list(steps) != sorted(set(steps), reverse=falls):
        raise refusal(f"{'falling' if falls else 'rising'} numbers, each once", list(steps))
    return steps


def _check_clean_epochs(value: Any, info: ValidationInfo) -> Any:
    """Checks that an epoch is left: else no augmentation would ever be seen."""
    epochs = info.data.get("epochs", 100_000)  # missing where they were refused
    fewest = min(epochs) if isinstance(epochs, tuple) else epochs
    if type(value) is not int or not 0 <= value < fewest:
        raise refusal(f"an integer from 0 to {fewest - 1}", value)
    return value


def _spread(value: Any, info: ValidationInfo) -> Any:
    """Makes one value a list of as many as there are sparsities; a list has to be as long."""
    num_steps = len(info.data.get("sparsities", (0,)))  # missing where they were refused
    if not isinstance(value, list | tuple):
        return (value,) * num_steps
    if len(value) != num_steps:
        raise refusal(f"one number, or {num_steps} of them, as there are sparsities", value)
    return value


def _check_named(values: Any) -> Any:
    """Checks a mapping from names of the user's own choice; a name becomes part of stage names and paths."""
    if not isinstance(values, dict) or not values:
        raise refusal("at least one named entry", values)
    for name in values:
        if not isinstance(name, str) or not re.fullmatch("[a-z][a-z0-9_]*", name):
            raise refusal("names of lower-case letters, digits and _", name)
        if name.endswith(("_low", "_high", "_sd")):
            raise refusal("names that do not end in _low, _high or _sd, which tables give to ends and deviations", name)
    return values


Fraction = Annotated[float, Field(ge=0, le=1)]
FractionBelowOne = Annotated[float, Field(ge=0, lt=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
FractionBetween = Annotated[float, Field(gt=0, lt=1)]
Pixels = Annotated[int, Field(ge=0, le=1024)]
Epochs = Annotated[int, Field(ge=1, le=100_000)]
CleanEpochs = Annotated[int, BeforeValidator(_check_clean_epochs)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Limit = Annotated[int | None, Field(ge=1, le=2**31 - 1, description="an integer from 1 to 2147483647, or null")]
LearningRate = Annotated[float, Field(gt=0, le=100)]
Word = Annotated[str, Field(min_length=1, description="a word")]
Checksum = Annotated[
    str, Field(pattern="^[0-9a-f]{64}$", description="the SHA-256 of the decompressed file, 64 hexadecimal digits")
]
Source = Annotated[
    str,
    Field(
        pattern=r"^(https?://[^/\s]+\S*|apt:[a-z0-9][a-z0-9+.-]+|folder:.+)$",
        description="https://host/path, apt:package or folder:path",
    ),
]
Folder = Annotated[
    str,
    Field(
        pattern=r"^([^\s~$\\/]|[^\s~$\\][^$\\\n]*[^$\\\n/\s])$",
        description="the path of a folder, without ~, $ and \\, and no / at its end",
    ),
]
# Lists are read as tuples: not strict, so that a list may stand for a tuple; their entries are strict all the same.
ListOf = Annotated[tuple[Entry, ...], Field(strict=False)]
Different = Annotated[ListOf[Entry], AfterValidator(_check_different)]
Counts = Annotated[ListOf[Count], Field(description="a list of integers from 1 to 1000000")]
Words = Annotated[Different[Word], Field(description="a list of words")]
Filters = Annotated[ListOf[Count], Field(min_length=1, description="lists of filters, such as [[32, 64], [64]]")]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Seeds = Annotated[Different[Seed], Field(min_length=1, description="a list of integers from 0 to 2147483647")]
Ranking = Literal["uniform", "lamp", "cost"]
RANKINGS: tuple[str, ...] = get_args(Ranking)
"""How zeros are placed; see stages/prune.py."""
Metric = Literal["accuracy", "balanced_accuracy", "macro_f1"]
Steps = Annotated[ListOf[FractionBetween], Field(min_length=1, description="a list of numbers in (0, 1)")]


DOWNLOADED = "data/download"
"""The source that the stage download fills; any other one is there already."""


class FilesParams(Section):
    """SHA-256 of each decompressed IDX file."""

    train_images: Checksum = Field(alias="train-images-idx3-ubyte")
    train_labels: Checksum = Field(alias="train-labels-idx1-ubyte")
    test_images: Checksum = Field(alias="t10k-images-idx3-ubyte")
    test_labels: Checksum = Field(alias="t10k-labels-idx1-ubyte")


class DatasetParams(Section):
    """The data: their name and place, how a picture becomes a square image, class names by label, SHA-256 of files."""

    name: Annotated[str, Field(pattern=r"\S", description="a name")]
    source: Folder
    image_size_px: Annotated[int, Field(ge=1, le=1024)]
    channels: Literal[1, 3]
    fit: Literal["pad", "crop", "stretch", "garment"]
    background: Annotated[int, Field(ge=0, le=255)]
    class_names: Annotated[Words, Field(min_length=2, max_length=256, description="2 to 256 names, label 0 first")]
    files: FilesParams | None

    @field_validator("fit")
    @classmethod
    def _check_fit(cls, value: str, info: ValidationInfo) -> str:
        if value == "garment" and info.data.get("channels") == 3:
            raise refusal("pad, crop or stretch with dataset.channels 3 (garment makes grey images)", value)
        return value

    @field_validator("files")
    @classmethod
    def _check_files(cls, value: FilesParams | None, info: ValidationInfo) -> FilesParams | None:
        if value is None and info.data.get("source") == DOWNLOADED:
            raise refusal(f"the SHA-256 of four files, as dataset.source is {DOWNLOADED}", value)
        return value


class DownloadParams(Section):
    """Where the files come from, and how long a source may be silent."""

    sources: Annotated[Different[Source], Field(min_length=1, description="a list of at least one source")]
    timeout_seconds: Annotated[float, Field(gt=0, le=3600)]


class PrepareParams(Section):
    """The split: shares held out where none is given, share that is kept, and what becomes of images nobody wants."""

    val_fraction: FractionBetween
    test_fraction: FractionBetween
    keep_fraction: PositiveFraction
    bad_pictures: Literal["stop", "leave_out"]
    leave_out: Annotated[str, Field(pattern=r"^\w+([ ./-]\w+)*\.csv$", description="the path of a .csv file in here")]


class PreviewParams(Section):
    """The augmentation preview: number of augmented versions beside each original."""

    versions: Annotated[int, Field(ge=1, le=20)]


class StudyParams(Section):
    """The grid that runs: names of models and of augmentations, the seeds, and what a training sees."""

    models: Annotated[Words, Field(min_length=1, description="a list of at least one name")]
    augmentations: Annotated[Words, Field(min_length=1, description="a list of at least one name")]
    seeds: Seeds
    split_by_seed: bool
    keep_fraction: PositiveFraction


class ModelParams(Section):
    """One architecture; see `stages.lib.network.architecture.list_layers`."""

    blocks: Annotated[ListOf[Filters], Field(description="lists of filters, such as [[32, 64], [64]]")]
    separable: bool
    residual: bool
    global_pool: bool
    dense: Counts
    batch_norm: Annotated[
        Different[Literal["conv", "flatten", "dense"]], Field(description="a list of conv, flatten and dense")
    ]
    dropout: FractionBelowOne


class AugmentationParams(Section):
    """The limits of one augmentation; see `stages.lib.training.augmentation.augment`."""

    rotation_degrees: Annotated[float, Field(ge=0, le=180)]
    shift_fraction: Fraction
    zoom_fraction: FractionBelowOne
    shift_px: Pixels
    erase_px: Pixels
    brightness_fraction: FractionBelowOne
    contrast_fraction: FractionBelowOne
    saturation_fraction: FractionBelowOne
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
    class_weights: Literal["none", "balanced"]
    precision: Literal["auto", "bfloat16", "float32"]

    @field_validator("weight_decay")
    @classmethod
    def _check_weight_decay(cls, value: float, info: ValidationInfo) -> float:
        if value and (optimizer := info.data.get("optimizer")) in ("adam", "sgd"):
            raise refusal(f"0 with optimizer {optimizer} (adamw and muon use it)", value)
        return value


class FinishParams(Section):
    """How long the chosen candidate is trained; the rest of the recipe is that of train."""

    epochs: Epochs
    clean_epochs: CleanEpochs


class EvaluateParams(Section):
    """What is measured on the test images."""

    calibration_bins: Annotated[int, Field(ge=2, le=100)]
    gallery_images: Annotated[int, Field(ge=1, le=100)]


class AuditParams(Section):
    """Which images count as duplicates, and how many are shown."""

    min_similarity: PositiveFraction
    gallery_images: Annotated[int, Field(ge=1, le=100)]


class SelectModelParams(Section):
    """The rule of the choice: what is compared on validation images, and which values count as equal."""

    metric: Metric
    tolerance: FractionBelowOne


class PruneParams(Section):
    """How weights are set to zero, of the finished model and of shrunk ones: epochs and learning rate for each step."""

    rankings: Annotated[Different[Ranking], Field(min_length=1, description=f"a list of {', '.join(RANKINGS)}")]
    shrunk_shares: Annotated[Different[FractionBetween], Field(description="a list of numbers in (0, 1)")]
    shrunk_rankings: Annotated[Different[Ranking], Field(min_length=1, description=f"a list of {', '.join(RANKINGS)}")]
    seeds: Seeds
    sparsities: Annotated[Steps, AfterValidator(_check_order)]
    epochs: Annotated[ListOf[Epochs], BeforeValidator(_spread)]
    clean_epochs: CleanEpochs
    macs_weight: Fraction
    easy_share: Fraction
    ramp_fraction: PositiveFraction
    frequency: Count
    batch_size: Count
    learning_rate: Annotated[ListOf[LearningRate], BeforeValidator(_spread)]

    @property
    def ladders(self) -> list[str]:
        """Names the ladders by start and ranking: those of the finished model, then those of each shrunk one."""
        of_finished = [f"finished-{ranking}" for ranking in self.rankings]
        of_shrunk = [f"magnitude-{share}-{ranking}" for share in self.shrunk_shares for ranking in self.shrunk_rankings]
        return of_finished + of_shrunk

    @property
    def ways(self) -> list[str]:
        """Names the ladders as tables do, in which those of the finished model have the names of their rankings."""
        return [ladder.removeprefix("finished-") for ladder in self.ladders]


class ShrinkParams(Section):
    """How whole filters are removed from the finished model."""

    filters: Annotated[
        Different[Literal["magnitude", "random", "scratch"]],
        Field(min_length=1, description="a list of magnitude, random and scratch"),
    ]
    seeds: Seeds
    macs_shares: Annotated[Steps, AfterValidator(_check_order)]
    multiple: Annotated[int, Field(ge=1, le=1024)]
    epochs: Epochs
    clean_epochs: CleanEpochs
    easy_share: Fraction
    learning_rate: LearningRate


class ExportParams(Section):
    """How models become LiteRT files, and how much validation accuracy that may cost."""

    calibration_images: Count
    weight_bits: Annotated[int, Field(ge=2, le=8)]
    max_loss_float32: Fraction
    max_loss_int8: Fraction


class DeployParams(Section):
    """How an int8 file becomes C, and how many images check it."""

    prefer: Literal["size", "speed"]
    images: Count


class ShipParams(Section):
    """What the file that ships may take, None without a limit, what chooses it, how sure it must be to answer."""

    max_flash_bytes: Limit
    max_ram_bytes: Limit
    max_instructions: Limit
    max_size_bytes: Limit
    metric: Metric
    answered_accuracy: Fraction


class Params(Section):
    """The whole of params.yaml."""

    seed: Seed
    dataset: DatasetParams
    download: DownloadParams
    prepare: PrepareParams
    preview: PreviewParams
    study: StudyParams
    models: Annotated[dict[str, ModelParams], BeforeValidator(_check_named)]
    augmentations: Annotated[dict[str, AugmentationParams], BeforeValidator(_check_named)]
    train: TrainParams
    evaluate: EvaluateParams
    audit: AuditParams
    select_model: SelectModelParams
    finish: FinishParams
    prune: PruneParams
    shrink: ShrinkParams
    export: ExportParams
    deploy: DeployParams
    ship: ShipParams
    search: Any  # its tool checks it: a slip there does not stop the pipeline

    @model_validator(mode="after")
    def _check_architectures(self) -> Self:
        data, num_classes = self.dataset, len(self.dataset.class_names)
        for name, model in self.models.items():
            try:
                layers = list_layers(data.image_size_px, num_classes, **model.model_dump(), channels=data.channels)
                if name in self.study.models:  # others may be made for images of another size
                    check_dense_weights(layers)
            except ValueError as error:
                raise UserError(f"models.{name}.{error}") from error
        return self

    @model_validator(mode="after")
    def _check_study(self) -> Self:
        for model in self.study.models:
            find_name(model, self.models, "study.models")
        for augmentation in self.study.augmentations:
            find_name(augmentation, self.augmentations, "study.augmentations")
        return self

    @model_validator(mode="after")
    def _check_seeds(self) -> Self:
        if self.study.split_by_seed and self.study.seeds[0] != self.seed:
            # Else the first seed's models would be measured, and one of them shipped, on images that trained them.
            raise UserError(
                f"study.split_by_seed: with true, expected `seed` ({self.seed}) first in study.seeds, for it has the "
                f"validation images by which a file is shipped; got {list(self.study.seeds)}"
            )
        for section in ("prune", "shrink"):
            seeds = getattr(self, section).seeds
            if seeds[0] != self.study.seeds[0] or not set(seeds) <= set(self.study.seeds):
                raise UserError(
                    f"{section}.seeds: expected some of study.seeds {list(self.study.seeds)}, the first of them "
                    f"({self.study.seeds[0]}) first; got {list(seeds)}"
                )
        return self

    @model_validator(mode="after")
    def _check_shrunk(self) -> Self:
        """Checks that each shrunk network that is to be pruned will be there."""
        prune, shrink = self.prune, self.shrink
        if not prune.shrunk_shares:
            return self
        for key, asked, has, of in (
            ("shrunk_shares", prune.shrunk_shares, shrink.macs_shares, "macs_shares"),
            ("seeds", prune.seeds, shrink.seeds, "seeds"),
        ):
            if not set(asked) <= set(has):
                raise UserError(
                    f"prune.{key}: expected some of shrink.{of} {list(has)}, whose networks are pruned, or [] as "
                    f"prune.shrunk_shares; got {list(asked)}"
                )
        if "magnitude" not in shrink.filters:
            raise UserError(
                f"shrink.filters: expected magnitude among them, whose networks are pruned, or [] as "
                f"prune.shrunk_shares; got {list(shrink.filters)}"
            )
        return self
