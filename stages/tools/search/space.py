"""Reads the section `search` of params.yaml, as strictly as `stages.lib.params.load` reads the others."""

import copy
import json
from collections.abc import Mapping
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from stages.lib.errors import UserError
from stages.lib.params.checking import Section, check, find_name, refusal
from stages.lib.params.load import check_content
from stages.lib.params.sections import FractionBelowOne, Params
from stages.lib.params.yaml_1_2 import read_yaml


class FloatRange(Section):
    """Numbers from `low` to `high`; `log`: as many below as above their geometric mean."""

    log: bool
    low: Annotated[float, Field(ge=0, le=1_000_000)]
    high: Annotated[float, Field(ge=0, le=1_000_000)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.low < self.high or (self.log and self.low == 0):
            raise refusal("low < high, and 0 < low with log", self.model_dump())
        return self


class IntegerRange(Section):
    """The integers `low`, `low` + `step`, ..., `high`."""

    low: Annotated[int, Field(ge=0, le=1_000_000)]
    high: Annotated[int, Field(ge=0, le=1_000_000)]
    step: Annotated[int, Field(ge=1, le=1_000_000)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.low < self.high or (self.high - self.low) % self.step:
            raise refusal("low < high, and steps that lead from one to the other", self.model_dump())
        return self


Range = FloatRange | IntegerRange | tuple[Any, ...]
"""Values that a parameter is given; a tuple holds them all."""


class SearchParams(Section):
    """What is searched, and how long; units and reasons are in params.yaml."""

    candidate: str
    trials: Annotated[int, Field(ge=1, le=100_000)]
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)]
    startup_trials: Annotated[int, Field(ge=0, le=100_000)]
    warmup_fraction: FractionBelowOne
    space: dict[str, Any]  # a Range each, which `read_space` checks

    @field_validator("candidate", mode="before")
    @classmethod
    def _check_candidate(cls, candidate: Any) -> Any:
        if not isinstance(candidate, str) or candidate.count("-") != 1:
            raise refusal("model-augmentation, such as third-flip", candidate)
        return candidate

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
        UserError: as `stages.lib.params.load.load_params` does, or if a value of the space is refused.
    """
    content = read_yaml(path)
    try:
        params = check_content(content)
        search: SearchParams = check(SearchParams, params.search, "search")
        find_name(search.model, params.models, "search.candidate")
        find_name(search.augmentation, params.augmentations, "search.candidate")
        search = search.model_copy(update={"space": read_space(search, params)})
        for key, values in search.space.items():
            for value in values if isinstance(values, tuple) else (values.low, values.high):
                try:
                    check_values(content, {key: value})
                except UserError as error:
                    raise UserError(f"search.space.{key}: refused in its place: {error}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return search


def read_space(search: SearchParams, params: Params) -> dict[str, Range]:
    """Reads the space, whose keys are those parameters that the training of this candidate alone depends on.

    Raises:
        UserError: if a key is none of them, or a range is none.
    """
    known: dict[str, Section] = {
        "train": params.train,
        f"models.{search.model}": params.models[search.model],
        f"augmentations.{search.augmentation}": params.augmentations[search.augmentation],
    }
    if not search.space:
        raise UserError(f"search.space: expected ranges of at least one parameter of {', '.join(known)}; got {{}}")
    keys = [f"{name}.{key}" for name, section in known.items() for key in section.model_dump()]
    return {key: read_range(find_name(key, keys, "search.space"), values) for key, values in search.space.items()}


def read_range(key: str, values: Any) -> Range:
    """Reads the values that the parameter `key` is given.

    Raises:
        UserError: if they are neither choices nor a range.
    """
    where = f"search.space.{key}"
    if isinstance(values, list):
        if len(values) < 2 or len({json.dumps(value) for value in values}) != len(values):
            raise UserError(f"{where}: expected at least two choices, each once; got {values!r}")
        return tuple(values)
    if not isinstance(values, dict):
        raise UserError(
            f"{where}: expected a list of choices, low, high and log, or low, high and step; got {values!r}"
        )
    return check(IntegerRange if "step" in values else FloatRange, values, where)


def check_values(content: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Checks that the stages would accept the content of params.yaml with other `values`, by their dotted keys.

    Raises:
        UserError: if not; the message names the key and what was expected.
    """
    changed = copy.deepcopy(dict(content))
    for key, value in values.items():
        section, name = find_section(changed, key)
        section[name] = value
    check_content(changed)


def find_section(content: Mapping[str, Any], key: str) -> tuple[Any, str]:
    """Finds the section of params.yaml that holds the parameter with a dotted key, and the parameter's name there.

    >>> find_section({"models": {"first": {"dropout": 0.5}}}, "models.first.dropout")
    ({'dropout': 0.5}, 'dropout')
    """
    *sections, name = key.split(".")
    return reduce(getitem, sections, content), name
