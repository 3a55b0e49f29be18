import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.lib.errors import UserError
from stages.tools.search.space import FloatRange, IntegerRange, load_search_params

COMMITTED = Path(__file__).parents[1] / "params.yaml"
RATE = {"low": 0.001, "high": 0.01, "log": True}


def write_params(folder: Path, **search: Any) -> Path:
    """Writes the committed params.yaml with other values in its section search."""
    params = yaml.safe_load(COMMITTED.read_text())
    params["search"] |= search
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(params))
    return path


def refuse(folder: Path, **search: Any) -> str:
    """Returns the message with which a section search is refused, after the name of the file and of the section."""
    path = write_params(folder, **search)
    with pytest.raises(UserError) as caught:
        load_search_params(path)
    return str(caught.value).removeprefix(f"{path}: search.")


def test_every_committed_value_lands_under_its_own_name() -> None:
    read = load_search_params(COMMITTED)
    assert json.loads(read.model_dump_json()) == yaml.safe_load(COMMITTED.read_text())["search"]
    assert f"{read.model}-{read.augmentation}" == read.candidate


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("candidate", "thirt-flip", "unknown name 'thirt'; did you mean 'third'?"),
        ("candidate", "third-flop", "unknown name 'flop'; did you mean 'flip'?"),
        ("candidate", "third", "expected model-augmentation, such as third-flip; got 'third'"),
        ("candidate", ["third-flip"], "expected model-augmentation, such as third-flip; got ['third-flip']"),
        ("trials", 0, "expected an integer from 1 to 100000; got 0"),
        ("startup_trials", 2.5, "expected an integer from 0 to 100000; got 2.5"),
        ("warmup_fraction", 1, "expected a number in [0, 1); got 1"),
        ("trails", 3, "unknown key; did you mean 'trials'?"),
        ("space", {}, "expected ranges of at least one parameter of train, models.third, augmentations.flip; got {}"),
        ("space", {"train.learning_rat": RATE}, "unknown name 'train.learning_rat'; did you mean 'train.learning_"),
        ("space", {"models.first.dense": RATE}, "unknown name 'models.first.dense'; did you mean 'models.third.dense'"),
        ("space", {"prepare.val_fraction": RATE}, "unknown name 'prepare.val_fraction'; "),
    ],
)
def test_a_wrong_value_is_refused(tmp_path: Path, key: str, value: object, message: str) -> None:
    assert refuse(tmp_path, **{key: value}).startswith(f"{key}: {message}")


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("train.learning_rate", RATE, FloatRange(low=0.001, high=0.01, log=True)),
        ("models.third.dropout", {"low": 0, "high": 0.5, "log": False}, FloatRange(low=0.0, high=0.5, log=False)),
        ("train.epochs", {"low": 4, "high": 10, "step": 2}, IntegerRange(low=4, high=10, step=2)),
        ("train.schedule", ["one_cycle", "constant"], ("one_cycle", "constant")),
        ("models.third.blocks", [[[32, 64], [64]], [[8]]], ([[32, 64], [64]], [[8]])),
        ("augmentations.flip.horizontal_flip", [True, False], (True, False)),
    ],
)
def test_a_range_is_numbers_integers_or_choices(tmp_path: Path, key: str, value: object, read: object) -> None:
    assert load_search_params(write_params(tmp_path, space={key: value})).space == {key: read}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.003, ": expected a list of choices, low, high and log, or low, high and step; got 0.003"),
        ([0.003], ": expected at least two choices, each once; got [0.003]"),
        ([0.003, 0.003], ": expected at least two choices, each once; got [0.003, 0.003]"),
        ({"low": 0.001, "high": 0.01}, ".log: missing; "),
        ({**RATE, "step": 1}, ".log: unknown key; "),
        ({**RATE, "high": 0.001}, ": expected low < high, and 0 < low with log; got {"),
        ({**RATE, "low": 0}, ": expected low < high, and 0 < low with log; got {"),
        ({"low": 1, "high": 6, "step": 2}, ": expected low < high, and steps that lead from one to the other; got {"),
        ({"low": 1, "high": 1, "step": 1}, ": expected low < high, and steps that lead from one to the other; got {"),
    ],
)
def test_a_range_that_is_none_is_refused(tmp_path: Path, value: object, message: str) -> None:
    assert refuse(tmp_path, space={"train.learning_rate": value}).startswith(f"space.train.learning_rate{message}")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.learning_rate", {**RATE, "high": 200}, "train.learning_rate: expected a number in (0, 100]; got 200.0"),
        ("train.optimizer", ["muon", "sdg"], "train.optimizer: unknown value 'sdg'; did you mean 'sgd'?"),
        ("train.optimizer", ["muon", "sgd"], "train.weight_decay: expected 0 with optimizer sgd"),
        ("models.third.blocks", [[[8]], [[8]] * 6], "models.third.blocks: "),
    ],
)
def test_a_value_that_the_stages_would_refuse_is_refused_before_any_trial(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    assert refuse(tmp_path, space={key: value}).startswith(f"space.{key}: refused in its place: {message}")
