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


def refusal(folder: Path, **search: Any) -> str:
    """Returns the message with which a section search is refused, after the name of the file and of the section."""
    path = write_params(folder, **search)
    with pytest.raises(UserError) as caught:
        load_search_params(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: search.")
    return message.removeprefix(f"{path}: search.")


def test_every_committed_value_lands_under_its_own_name() -> None:
    read = json.loads(load_search_params(COMMITTED).model_dump_json())
    assert read == yaml.safe_load(COMMITTED.read_text())["search"]


def test_the_candidate_is_a_model_and_an_augmentation(tmp_path: Path) -> None:
    search = load_search_params(write_params(tmp_path, candidate="third-mild", space={"train.learning_rate": RATE}))
    assert (search.model, search.augmentation) == ("third", "mild")


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        ("thirt-flip", "candidate: unknown name 'thirt'; did you mean 'third'?"),
        ("third-flop", "candidate: unknown name 'flop'; did you mean 'flip'?"),
        ("third", "candidate: expected model-augmentation, such as third-flip; got 'third'"),
        (["third-flip"], "candidate: expected model-augmentation, such as third-flip; got ['third-flip']"),
    ],
)
def test_an_unknown_candidate_is_refused(tmp_path: Path, candidate: object, message: str) -> None:
    assert refusal(tmp_path, candidate=candidate).startswith(message)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("trials", 0, "expected an integer from 1 to 100000; got 0"),
        ("seed", -1, "expected an integer from 0 to 2147483647; got -1"),
        ("startup_trials", 2.5, "expected an integer from 0 to 100000; got 2.5"),
        ("warmup_fraction", 1, "expected a number in [0, 1); got 1"),
        ("space", {}, "expected ranges of at least one parameter of train, models.third, augmentations.flip; got {}"),
    ],
)
def test_a_wrong_value_is_refused(tmp_path: Path, key: str, value: object, message: str) -> None:
    assert refusal(tmp_path, **{key: value}) == f"{key}: {message}"


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, trails=3).startswith("trails: unknown key; did you mean 'trials'?")


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("train.learning_rate", RATE, FloatRange(low=0.001, high=0.01, log=True)),
        ("models.third.dropout", {"low": 0, "high": 0.5, "log": False}, FloatRange(low=0.0, high=0.5, log=False)),
        ("train.epochs", {"low": 4, "high": 10, "step": 2}, IntegerRange(low=4, high=10, step=2)),
        ("train.schedule", ["one_cycle", "constant"], ("one_cycle", "constant")),
        ("models.third.blocks", [[[32, 64], [64]], [[8]]], ([[32, 64], [64]], [[8]])),
        ("models.third.dense", [[], [64, 32]], ([], [64, 32])),
        ("augmentations.flip.horizontal_flip", [True, False], (True, False)),
    ],
)
def test_a_range_is_numbers_integers_or_choices(tmp_path: Path, key: str, value: object, read: object) -> None:
    assert load_search_params(write_params(tmp_path, space={key: value})).space == {key: read}


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("train.learning_rat", "unknown name 'train.learning_rat'; did you mean 'train.learning_rate'?"),
        ("models.first.dense", "unknown name 'models.first.dense'; did you mean 'models.third.dense'?"),
        ("prepare.val_fraction", "unknown name 'prepare.val_fraction'; "),
    ],
)
def test_a_key_that_the_training_of_the_candidate_does_not_depend_on_is_refused(
    tmp_path: Path, key: str, message: str
) -> None:
    assert refusal(tmp_path, space={key: RATE}).startswith(f"space: {message}")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.003, ": expected a list of choices, low, high and log, or low, high and step; got 0.003"),
        ([0.003], ": expected at least two choices, each once; got [0.003]"),
        ([0.003, 0.003], ": expected at least two choices, each once; got [0.003, 0.003]"),
        ({"low": 0.001, "high": 0.01}, ".log: missing; "),
        ({**RATE, "high": 0.001}, ".high: expected a number in (0.001, 1000000]; got 0.001"),
        ({**RATE, "low": 0}, ".low: expected a number in (0, 1000000]; got 0"),
        ({**RATE, "step": 1}, ".log: unknown key; "),
        ({"low": 1, "high": 6, "step": 2}, ".step: expected a step that leads from 1 to 6; got 2"),
        ({"low": 1, "high": 1, "step": 1}, ".high: expected an integer from 2 to 1000000; got 1"),
    ],
)
def test_a_range_that_is_none_is_refused(tmp_path: Path, value: object, message: str) -> None:
    assert refusal(tmp_path, space={"train.learning_rate": value}).startswith(f"space.train.learning_rate{message}")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "train.learning_rate",
            {**RATE, "high": 200},
            "train.learning_rate: expected a number in (0, 100]; got 200.0",
        ),
        ("train.optimizer", ["muon", "sdg"], "train.optimizer: unknown value 'sdg'; did you mean 'sgd'?"),
        ("train.optimizer", ["muon", "sgd"], "train.weight_decay: expected 0 with optimizer sgd"),
        ("models.third.blocks", [[[8]], [[8]] * 6], "models.third.blocks: "),
    ],
)
def test_a_value_that_the_stages_would_refuse_is_refused_before_any_trial(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    assert refusal(tmp_path, space={key: value}).startswith(f"space.{key}: refused in its place: {message}")
