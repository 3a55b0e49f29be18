"""Reads the section `search` of params.yaml, as strictly as `stages.lib.params.load` reads the others."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

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

    @field_validator("low", mode="before")
    @classmethod
    def _check_low(cls, low: Any, info: ValidationInfo) -> Any:
        if info.data.get("log") and low == 0:
            raise refusal("a number in (0, 1000000]", low)
        return low

    @field_validator("high", mode="before")
    @classmethod
    def _check_high(cls, high: Any, info: ValidationInfo) -> Any:
        low = info.data.get("low", 0)
        if type(high) not in (int, float) or not low < high <= 1_000_000:
            raise refusal(f"a number in ({low!r}, 1000000]", high)
        return high


class IntegerRange(Section):
    """The integers `low`, `low` + `step`, ..., `high`."""

    low: Annotated[int, Field(ge=0, le=1_000_000)]
    high: Annotated[int, Field(ge=0, le=1_000_000)]
    step: Annotated[int, Field(ge=1, le=1_000_000)]

    @field_validator("high", mode="before")
    @classmethod
    def _check_high(cls, high: Any, info: ValidationInfo) -> Any:
        lowest = info.data.get("low", 0) + 1
        if type(high) is not int or not lowest <= high <= 1_000_000:
            raise refusal(f"an integer from {lowest} to 1000000", high)
        return high

    @field_validator("step")
    @classmethod
    def _check_step(cls, step: int, info: ValidationInfo) -> int:
        low, high = info.data.get("low", 0), info.data.get("high", 0)
        if (high - low) % step:
            raise refusal(f"a step that leads from {low} to {high}", step)
        return step


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


class _Search(Section):
    """The file, as far as the search reads it by itself."""

    search: SearchParams


def load_search_params(path: Path = Path("params.yaml")) -> SearchParams:
    """Reads and checks the section `search` of `path`.

    Every end of a range and every choice is tried in the place of the value that the file has.

    Raises:
        UserError: as `stages.lib.params.load.load_params` does, or if a value of the space is refused.
    """
    content = read_yaml(path)
    try:
        params = check_content(content)
        known = {name: section for name, section in content.items() if name == "search"}
        search: SearchParams = check(_Search, known).search
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


def check_values(content: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Checks that the stages would accept the content of params.yaml with other `values`, by their dotted keys.

    Raises:
        UserError: if not; the message names the key and what was expected.
    """
    changed = copy.deepcopy(dict(content))
    for key, value in values.items():
        *sections, last = key.split(".")
        section = changed
        for name in sections:
            section = section[name]
        section[last] = value
    check_content(changed)


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
        texts = [json.dumps(value) for value in values]
        if len(texts) < 2 or len(set(texts)) != len(texts):
            raise UserError(f"{where}: expected at least two choices, each once; got {values!r}")
        return tuple(values)
    if not isinstance(values, dict):
        raise UserError(
            f"{where}: expected a list of choices, low, high and log, or low, high and step; got {values!r}"
        )
    kind = IntegerRange if "step" in values else FloatRange
    return check(kind, values, where)
