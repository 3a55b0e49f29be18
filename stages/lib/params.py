"""Reads params.yaml strictly: every value is checked before any stage does work. The only reader of YAML.

`load_params` refuses unknown and missing keys, wrong types (nothing is coerced, but an integer may stand for a float),
values out of range, unknown names and architectures that cannot be built. It reads the sections that training depends
on; those of the stages after it have a module of their own, so that a new key there retrains nothing.
"""

import difflib
import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from stages.lib.architecture import list_layers
from stages.lib.errors import UserError

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
LAYER_KINDS_WITH_BATCH_NORM = ("conv", "flatten", "dense")


@dataclass(frozen=True)
class DatasetParams:
    """The data: side of the square images, class names by label, SHA-256 of each decompressed IDX file."""

    image_size_px: int
    class_names: tuple[str, ...]
    files: dict[str, str]


@dataclass(frozen=True)
class DownloadParams:
    """Where the files come from, and how long a source may be silent."""

    sources: tuple[str, ...]
    timeout_seconds: float


@dataclass(frozen=True)
class PrepareParams:
    """The split: share held out for validation, and share of each split that is kept."""

    val_fraction: float
    keep_fraction: float


@dataclass(frozen=True)
class PreviewParams:
    """The augmentation preview: number of augmented versions beside each original."""

    versions: int


@dataclass(frozen=True)
class StudyParams:
    """The grid that runs: names of models and of augmentations."""

    models: tuple[str, ...]
    augmentations: tuple[str, ...]


@dataclass(frozen=True)
class ModelParams:
    """One architecture; see `stages.lib.architecture.list_layers`."""

    blocks: tuple[tuple[int, ...], ...]
    residual: bool
    global_pool: bool
    dense: tuple[int, ...]
    batch_norm: tuple[str, ...]
    dropout: float


@dataclass(frozen=True)
class AugmentationParams:
    """One augmentation regime; see `stages.lib.augmentation.augment`."""

    rotation_degrees: float
    shift_fraction: float
    zoom_fraction: float
    shift_px: int
    erase_px: int
    horizontal_flip: bool


@dataclass(frozen=True)
class TrainParams:
    """How every model is trained; units and reasons are in params.yaml."""

    epochs: int
    clean_epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    schedule: str
    warmup_fraction: float
    weight_decay: float
    label_smoothing: float
    precision: str


@dataclass(frozen=True)
class EvaluateParams:
    """What is measured on the test images."""

    calibration_bins: int
    gallery_images: int


@dataclass(frozen=True)
class SelectModelParams:
    """The rule of the choice: validation accuracies this close count as equal."""

    tolerance: float


@dataclass(frozen=True)
class Params:
    """The sections of params.yaml that decide what is trained and how it is measured, checked."""

    seed: int
    dataset: DatasetParams
    download: DownloadParams
    prepare: PrepareParams
    preview: PreviewParams
    study: StudyParams
    models: dict[str, ModelParams]
    augmentations: dict[str, AugmentationParams]
    train: TrainParams
    evaluate: EvaluateParams
    select_model: SelectModelParams


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Reads and checks the sections of `path` that `Params` holds.

    Raises:
        UserError: if anything in them is wrong; the message names the key, what was expected, what was found, and the
            nearest known name where one is close.
    """
    with reading(path) as root:
        return _read_params(root)


def check_section_names(known: Sequence[str], path: Path = Path("params.yaml")) -> None:
    """Checks that `path` has the sections `known` and no other.

    Raises:
        UserError: if not; the message names the first one that is missing or unknown.
    """
    with reading(path) as root:
        Section("", root, known)


@contextmanager
def reading(path: Path) -> Iterator[Any]:
    """Yields the content of a YAML 1.2 file, and names the file in the errors of the block.

    Raises:
        UserError: as the block does, or if the file is missing or no YAML.
    """
    try:
        yield yaml.load(path.read_text(encoding="utf-8"), Loader=_Yaml12Loader)  # noqa: S506  (derives from SafeLoader)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run this from the top of the repository") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or `!!float word`
        raise UserError(f"{path}: no valid YAML: {error}") from error


class _Yaml12Loader(yaml.SafeLoader):
    """YAML 1.2's core schema, as DVC reads and writes it.

    PyYAML's own YAML 1.1 reads `1e-05`, which DVC writes for 0.00001, as a string, and a regime named `no` as False.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  (PyYAML's interface)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise UserError(f"{key}: given twice in one section, near line {node.start_mark.line + 1}; keep one")
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
):
    _Yaml12Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


def _read_integer(_: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    try:
        return int(node.value, 0 if node.value[:2] in ("0o", "0x") else 10)
    except ValueError as error:
        raise UserError(f"line {node.start_mark.line + 1}: expected an integer; got {node.value!r}") from error


_Yaml12Loader.add_constructor("tag:yaml.org,2002:int", _read_integer)


def _read_params(root: Any) -> Params:
    sections = Section("", root, [field.name for field in fields(Params)], is_closed=False)
    dataset = _read_dataset(sections.section("dataset", DatasetParams))
    models = {
        name: _read_model(Section(f"models.{name}", value, [field.name for field in fields(ModelParams)]), dataset)
        for name, value in sections.named("models").items()
    }
    augmentations = {
        name: _read_augmentation(
            Section(f"augmentations.{name}", value, [field.name for field in fields(AugmentationParams)])
        )
        for name, value in sections.named("augmentations").items()
    }
    download = sections.section("download", DownloadParams)
    prepare = sections.section("prepare", PrepareParams)
    study = sections.section("study", StudyParams)
    evaluate = sections.section("evaluate", EvaluateParams)
    return Params(
        seed=sections.integer("seed", 0, 2**31 - 1),
        dataset=dataset,
        download=DownloadParams(_read_sources(download), download.number("timeout_seconds", "(0, 3600]")),
        prepare=PrepareParams(prepare.number("val_fraction", "(0, 1)"), prepare.number("keep_fraction", "(0, 1]")),
        preview=PreviewParams(sections.section("preview", PreviewParams).integer("versions", 1, 20)),
        study=StudyParams(study.names("models", models), study.names("augmentations", augmentations)),
        models=models,
        augmentations=augmentations,
        train=_read_train(sections.section("train", TrainParams)),
        evaluate=EvaluateParams(
            evaluate.integer("calibration_bins", 2, 100), evaluate.integer("gallery_images", 1, 100)
        ),
        select_model=SelectModelParams(
            sections.section("select_model", SelectModelParams).number("tolerance", "[0, 1)")
        ),
    )


def _read_dataset(section: "Section") -> DatasetParams:
    class_names = tuple(section.words("class_names"))
    if not 2 <= len(class_names) <= 256:
        raise section.error("class_names", "2 to 256 names, label 0 first", f"{len(class_names)} names")
    files = Section("dataset.files", section.values["files"], list(IDX_FILES))
    for name in IDX_FILES:
        if not isinstance(files.values[name], str) or not re.fullmatch("[0-9a-f]{64}", files.values[name]):
            raise files.error(name, "the SHA-256 of the decompressed file, 64 hexadecimal digits", files.values[name])
    return DatasetParams(section.integer("image_size_px", 1, 1024), class_names, dict(files.values))


def _read_sources(section: "Section") -> tuple[str, ...]:
    sources = section.words("sources")
    for source in sources:
        if not re.fullmatch(r"https?://[^/\s]+\S*|apt:[a-z0-9][a-z0-9+.-]+|folder:.+", source):
            raise section.error("sources", "https://host/path, apt:package or folder:path", source)
    if not sources:
        raise section.error("sources", "at least one source", "an empty list")
    return tuple(sources)


def _read_model(section: "Section", dataset: DatasetParams) -> ModelParams:
    blocks = section.values["blocks"]
    if not isinstance(blocks, list) or not all(isinstance(block, list) and block for block in blocks):
        raise section.error("blocks", "a list of lists of filters, such as [[32, 64], [64]]", blocks)
    model = ModelParams(
        blocks=tuple(tuple(section.counts("blocks", block)) for block in blocks),
        residual=section.boolean("residual"),
        global_pool=section.boolean("global_pool"),
        dense=tuple(section.counts("dense", section.values["dense"])),
        batch_norm=section.names("batch_norm", LAYER_KINDS_WITH_BATCH_NORM, at_least=0),
        dropout=section.number("dropout", "[0, 1)"),
    )
    try:
        list_layers(
            dataset.image_size_px,
            len(dataset.class_names),
            model.blocks,
            model.residual,
            model.global_pool,
            model.dense,
            model.batch_norm,
            model.dropout,
        )
    except ValueError as error:
        raise UserError(f"{section.where}.{error}") from error
    return model


def _read_augmentation(section: "Section") -> AugmentationParams:
    return AugmentationParams(
        rotation_degrees=section.number("rotation_degrees", "[0, 180]"),
        shift_fraction=section.number("shift_fraction", "[0, 1]"),
        zoom_fraction=section.number("zoom_fraction", "[0, 1)"),
        shift_px=section.integer("shift_px", 0, 1024),
        erase_px=section.integer("erase_px", 0, 1024),
        horizontal_flip=section.boolean("horizontal_flip"),
    )


def _read_train(section: "Section") -> TrainParams:
    epochs = section.integer("epochs", 1, 100_000)
    train = TrainParams(
        epochs=epochs,
        clean_epochs=section.integer("clean_epochs", 0, epochs - 1),  # else no augmentation would ever be seen
        batch_size=section.integer("batch_size", 1, 1_000_000),
        optimizer=section.choice("optimizer", ("adam", "adamw", "muon", "sgd")),
        learning_rate=section.number("learning_rate", "(0, 100]"),
        schedule=section.choice("schedule", ("one_cycle", "constant")),
        warmup_fraction=section.number("warmup_fraction", "[0, 1)"),
        weight_decay=section.number("weight_decay", "[0, 100]"),
        label_smoothing=section.number("label_smoothing", "[0, 1)"),
        precision=section.choice("precision", ("auto", "bfloat16", "float32")),
    )
    if train.weight_decay and train.optimizer not in ("adamw", "muon"):
        raise section.error(
            "weight_decay", f"0 with optimizer {train.optimizer} (adamw and muon use it)", train.weight_decay
        )
    return train


class Section:
    """One mapping of params.yaml; its methods read one value each, and check it.

    Args:
        where: the key of the mapping, with dots; "" for the whole file.
        values: the mapping.
        known: keys that it must have.
        is_closed: whether it may have no others.
    """

    def __init__(self, where: str, values: Any, known: Sequence[str], is_closed: bool = True) -> None:
        self.where = where
        if not isinstance(values, dict):
            raise UserError(f"{where or 'the file'}: expected a section with {', '.join(known)}; got {values!r}")
        for key in values:
            if is_closed and key not in known:
                raise UserError(f"{self.key(key)}: unknown key; {_nearest(key, known)}")
        for key in known:
            if key not in values:
                raise UserError(
                    f"{self.key(key)}: missing; add it (the committed params.yaml shows each key's meaning)"
                )
        self.values: dict[str, Any] = values

    def key(self, name: object) -> str:
        """Returns the key `name` of this section as the file's reader would look for it, with dots."""
        return f"{self.where}.{name}" if self.where else str(name)

    def error(self, name: str, expected: str, got: object) -> UserError:
        """Builds the error for a value that is not what was expected."""
        return UserError(f"{self.key(name)}: expected {expected}; got {got!r}")

    def section(self, name: str, fields_of: Any) -> "Section":
        """Returns the section `name`, which holds the fields of a dataclass."""
        return Section(self.key(name), self.values[name], [field.name for field in fields(fields_of)])

    def named(self, name: str) -> dict[str, Any]:
        """Reads a mapping from names of the user's own choice; a name becomes part of stage names and paths."""
        values = self.values[name]
        if not isinstance(values, dict) or not values:
            raise self.error(name, "at least one named entry", values)
        for key in values:
            if not isinstance(key, str) or not re.fullmatch("[a-z][a-z0-9_]*", key):
                raise UserError(f"{self.key(name)}: expected names of lower-case letters, digits and _; got {key!r}")
        return values

    def integer(self, name: str, low: int, high: int) -> int:
        """Reads an integer from `low` to `high`."""
        value = self.values[name]
        if type(value) is not int or not low <= value <= high:
            raise self.error(name, f"an integer from {low} to {high}", value)
        return value

    def counts(self, name: str, values: Any) -> list[int]:
        """Checks that `values`, a part of the value of `name`, are a list of counts, each at least 1."""
        if not isinstance(values, list) or not all(type(value) is int and 1 <= value <= 1_000_000 for value in values):
            raise self.error(name, "a list of integers from 1 to 1000000", values)
        return values

    def number(self, name: str, interval: str) -> float:
        """Reads a number within `interval`, written as in mathematics: `(0, 1]`."""
        return self.check_number(name, self.values[name], interval)

    def check_number(self, name: str, value: Any, interval: str) -> float:
        """Checks that `value`, a part of the value of `name`, is a number within `interval`."""
        low, high = (float(bound) for bound in interval[1:-1].split(","))
        if type(value) not in (int, float) or not (
            (value > low or (value == low and interval[0] == "["))
            and (value < high or (value == high and interval[-1] == "]"))
        ):
            raise self.error(name, f"a number in {interval}", value)
        return float(value)

    def boolean(self, name: str) -> bool:
        """Reads true or false."""
        if type(self.values[name]) is not bool:
            raise self.error(name, "true or false", self.values[name])
        return bool(self.values[name])

    def words(self, name: str) -> list[str]:
        """Reads a list of different words."""
        values = self.values[name]
        if not isinstance(values, list) or not all(isinstance(value, str) and value for value in values):
            raise self.error(name, "a list of words", values)
        if len(set(values)) != len(values):
            raise self.error(name, "each entry once", values)
        return values

    def choice(self, name: str, known: Iterable[str]) -> str:
        """Reads one of the `known` words."""
        value = self.values[name]
        if value not in known:
            raise UserError(f"{self.key(name)}: unknown value {value!r}; {_nearest(value, known)}")
        return str(value)

    def names(self, name: str, known: Iterable[str], at_least: int = 1) -> tuple[str, ...]:
        """Reads a list of different words, each one of `known`."""
        values = self.words(name)
        for value in values:
            if value not in known:
                raise UserError(f"{self.key(name)}: unknown name {value!r}; {_nearest(value, known)}")
        if len(values) < at_least:
            raise self.error(name, f"at least {at_least} of {', '.join(known)}", values)
        return tuple(values)


def find_name(name: str, known: Iterable[str], where: str) -> str:
    """Returns `name` if it is one of `known`.

    Raises:
        UserError: if not; the message names `where`, the known names and the nearest of them.
    """
    if name not in known:
        raise UserError(f"{where}: unknown name {name!r}; {_nearest(name, known)}")
    return name


def _nearest(name: object, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return (f"did you mean {close[0]!r}? " if close else "") + f"known: {', '.join(known)}"
