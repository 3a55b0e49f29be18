"""Reads the sections of params.yaml that say how the chosen model is compressed, as strictly as `stages.lib.params`."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from stages.lib.params import Section, reading

RANKINGS = ("uniform", "lamp")
WAYS_OF_SHRINKING = ("magnitude", "random", "scratch")


@dataclass(frozen=True)
class PruneParams:
    """How weights of the chosen model are set to zero; units and reasons are in params.yaml."""

    rankings: tuple[str, ...]
    sparsities: tuple[float, ...]
    epochs: tuple[int, ...]
    clean_epochs: int
    ramp_fraction: float
    frequency: int
    batch_size: int
    learning_rate: tuple[float, ...]


@dataclass(frozen=True)
class ShrinkParams:
    """How whole filters are removed from the chosen model."""

    filters: tuple[str, ...]
    macs_shares: tuple[float, ...]
    multiple: int
    epochs: int
    clean_epochs: int
    learning_rate: float


@dataclass(frozen=True)
class ExportParams:
    """How models become LiteRT files, and how much accuracy that may cost."""

    calibration_images: int
    weight_bits: int
    max_loss_float32: float
    max_loss_int8: float


@dataclass(frozen=True)
class ShipParams:
    """The rule by which a file is chosen to be shipped."""

    max_loss: float


@dataclass(frozen=True)
class CompressionParams:
    """The sections of params.yaml on compression, checked."""

    prune: PruneParams
    shrink: ShrinkParams
    export: ExportParams
    ship: ShipParams


def load_compression_params(path: Path = Path("params.yaml")) -> CompressionParams:
    """Reads and checks the sections of `path` that `CompressionParams` holds.

    Raises:
        UserError: as `stages.lib.params.load_params` does.
    """
    with reading(path) as root:
        sections = Section("", root, [field.name for field in fields(CompressionParams)], is_closed=False)
        return CompressionParams(
            prune=_read_prune(sections.section("prune", PruneParams)),
            shrink=_read_shrink(sections.section("shrink", ShrinkParams)),
            export=_read_export(sections.section("export", ExportParams)),
            ship=ShipParams(sections.section("ship", ShipParams).number("max_loss", "[0, 1]")),
        )


def _read_prune(section: Section) -> PruneParams:
    sparsities = _read_rungs(section, "sparsities", is_rising=True)
    epochs = _read_epochs(section, len(sparsities))
    return PruneParams(
        rankings=section.names("rankings", RANKINGS),
        sparsities=sparsities,
        epochs=epochs,
        clean_epochs=section.integer("clean_epochs", 0, min(epochs) - 1),
        ramp_fraction=section.number("ramp_fraction", "(0, 1]"),
        frequency=section.integer("frequency", 1, 1_000_000),
        batch_size=section.integer("batch_size", 1, 1_000_000),
        learning_rate=_read_learning_rates(section, len(sparsities)),
    )


def _read_shrink(section: Section) -> ShrinkParams:
    epochs = section.integer("epochs", 1, 100_000)
    return ShrinkParams(
        filters=section.names("filters", WAYS_OF_SHRINKING),
        macs_shares=_read_rungs(section, "macs_shares", is_rising=False),
        multiple=section.integer("multiple", 1, 1024),
        epochs=epochs,
        clean_epochs=section.integer("clean_epochs", 0, epochs - 1),
        learning_rate=section.number("learning_rate", "(0, 100]"),
    )


def _read_export(section: Section) -> ExportParams:
    return ExportParams(
        calibration_images=section.integer("calibration_images", 1, 1_000_000),
        weight_bits=section.integer("weight_bits", 2, 8),
        max_loss_float32=section.number("max_loss_float32", "[0, 1]"),
        max_loss_int8=section.number("max_loss_int8", "[0, 1]"),
    )


def _read_epochs(section: Section, num_rungs: int) -> tuple[int, ...]:
    """Reads the epochs of each rung of a ladder: as many numbers, or one for all."""
    if not isinstance(section.values["epochs"], list):
        return (section.integer("epochs", 1, 100_000),) * num_rungs
    epochs = section.counts("epochs", section.values["epochs"])
    _check_length(section, "epochs", epochs, num_rungs)
    return tuple(epochs)


def _read_learning_rates(section: Section, num_rungs: int) -> tuple[float, ...]:
    """Reads the peak learning rate of each rung of a ladder: as many numbers, or one for all."""
    rates = section.values["learning_rate"]
    if not isinstance(rates, list):
        return (section.number("learning_rate", "(0, 100]"),) * num_rungs
    _check_length(section, "learning_rate", rates, num_rungs)
    return tuple(section.check_number("learning_rate", rate, "(0, 100]") for rate in rates)


def _check_length(section: Section, name: str, values: list[Any], num_rungs: int) -> None:
    """Checks that there is a value for each rung of a ladder."""
    if len(values) != num_rungs:
        raise section.error(name, f"one number, or {num_rungs} of them, as there are sparsities", values)


def _read_rungs(section: Section, name: str, is_rising: bool) -> tuple[float, ...]:
    """Reads the rungs of a ladder, each of which starts where the one before it ended."""
    values: Any = section.values[name]
    if not isinstance(values, list) or not values:
        raise section.error(name, "a list of numbers in (0, 1)", values)
    rungs = tuple(section.check_number(name, value, "(0, 1)") for value in values)
    if list(rungs) != sorted(set(rungs), reverse=not is_rising):
        raise section.error(name, f"{'rising' if is_rising else 'falling'} numbers, each once", values)
    return rungs
