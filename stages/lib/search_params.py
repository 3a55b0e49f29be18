"""Reads the section of params.yaml that says which hyperparameters are searched, as strictly as `stages.lib.params`."""

import copy
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages.lib.errors import UserError
from stages.lib.params import (
    AugmentationParams,
    ModelParams,
    Params,
    Section,
    TrainParams,
    find_name,
    load_params,
    reading,
)


@dataclass(frozen=True)
class FloatRange:
    """Numbers from `low` to `high`; `log`: as many below as above their geometric mean."""

    low: float
    high: float
    log: bool


@dataclass(frozen=True)
class IntegerRange:
    """The integers `low`, `low` + `step`, ..., `high`."""

    low: int
    high: int
    step: int


Range = FloatRange | IntegerRange | tuple[Any, ...]
"""Values that a parameter is given; a tuple holds them all."""


@dataclass(frozen=True)
class SearchParams:
    """What is searched, and how long; units and reasons are in params.yaml."""

    candidate: str
    trials: int
    seed: int
    startup_trials: int
    warmup_fraction: float
    space: dict[str, Range]

    @property
    def model(self) -> str:
        """Returns the name of the candidate's model."""
        return self.candidate.split("-")[0]

    @property
    def augmentation(self) -> str:
        """Returns the name of the candidate's augmentation."""
        return self.candidate.split("-")[1]


def load_search_params(path: Path = Path("params.yaml")) -> SearchParams:
    """Reads and checks the section `search` of `path`.

    Every end of a range and every choice is tried in the place of the value that the file has.

    Raises:
        UserError: as `stages.lib.params.load_params` does, which it calls, or if a value of the space is refused.
    """
    params = load_params(path)
    with reading(path) as root:
        section = Section("", root, ["search"], is_closed=False).section("search", SearchParams)
        candidate = _read_candidate(section, params)
        search = SearchParams(
            candidate=candidate,
            trials=section.integer("trials", 1, 100_000),
            seed=section.integer("seed", 0, 2**31 - 1),
            startup_trials=section.integer("startup_trials", 0, 100_000),
            warmup_fraction=section.number("warmup_fraction", "[0, 1)"),
            space=_read_space(section, params, candidate),
        )
        for key, values in search.space.items():
            for value in values if isinstance(values, tuple) else (values.low, values.high):
                try:
                    check_values(root, {key: value})
                except UserError as error:
                    raise UserError(f"search.space.{key}: refused in its place: {error}") from error
    return search


def check_values(root: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Checks that the stages would accept the parameters `root` with other `values`, given by their dotted keys.

    Raises:
        UserError: if not; the message names the key and what was expected.
    """
    content = copy.deepcopy(dict(root))
    for key, value in values.items():
        *sections, last = key.split(".")
        section = content
        for name in sections:
            section = section[name]
        section[last] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        path.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
        try:
            load_params(path)
        except UserError as error:
            raise UserError(str(error).removeprefix(f"{path}: ")) from error


def _read_candidate(section: Section, params: Params) -> str:
    candidate = section.values["candidate"]
    if not isinstance(candidate, str) or candidate.count("-") != 1:
        raise section.error("candidate", "model-augmentation, such as third-flip", candidate)
    model, augmentation = candidate.split("-")
    find_name(model, params.models, section.key("candidate"))
    find_name(augmentation, params.augmentations, section.key("candidate"))
    return candidate


def _read_space(section: Section, params: Params, candidate: str) -> dict[str, Range]:
    """Reads the space, whose keys are those parameters that the training of this candidate alone depends on."""
    model, augmentation = candidate.split("-")
    known: dict[str, TrainParams | ModelParams | AugmentationParams] = {
        "train": params.train,
        f"models.{model}": params.models[model],
        f"augmentations.{augmentation}": params.augmentations[augmentation],
    }
    keys = [f"{name}.{key}" for name, values in known.items() for key in asdict(values)]
    space = section.values["space"]
    if not isinstance(space, dict) or not space:
        raise section.error("space", f"ranges of at least one parameter of {', '.join(known)}", space)
    where = Section(section.key("space"), space, [], is_closed=False)
    return {find_name(key, keys, where.where): _read_range(where, key) for key in space}


def _read_range(space: Section, key: str) -> Range:
    values = space.values[key]
    if isinstance(values, list):
        texts = [json.dumps(value) for value in values]
        if len(texts) < 2 or len(set(texts)) != len(texts):
            raise space.error(key, "at least two choices, each once", values)
        return tuple(values)
    if not isinstance(values, dict):
        raise space.error(key, "a list of choices, low, high and log, or low, high and step", values)
    if "step" in values:
        return _read_integers(Section(space.key(key), values, ["low", "high", "step"]))
    return _read_floats(Section(space.key(key), values, ["low", "high", "log"]))


def _read_integers(section: Section) -> IntegerRange:
    low = section.integer("low", 0, 1_000_000)
    high = section.integer("high", low + 1, 1_000_000)
    step = section.integer("step", 1, high - low)
    if (high - low) % step:
        raise section.error("step", f"a step that leads from {low} to {high}", step)
    return IntegerRange(low, high, step)


def _read_floats(section: Section) -> FloatRange:
    log = section.boolean("log")
    low = section.number("low", f"{'(' if log else '['}0, 1000000]")
    high = section.number("high", f"({low!r}, 1000000]")
    return FloatRange(low, high, log)
