import sys
from pathlib import Path

import pytest

from stages.lib.errors import UserError
from stages.lib.running.arguments import parse_names
from stages.tools import record_times

ROOT = Path(__file__).parents[1]


def parse(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[str]:
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    return parse_names("Trains 100 % of a model.", model=["first", "second"], augmentation={"none": 1, "strong": 2})


def test_names_are_read_in_the_order_of_the_keywords(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse(monkeypatch, "second", "none") == ["second", "none"]


def test_a_dotted_key_stands_for_the_names_that_params_yaml_has_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["stage.py", "fifth", "lamp", "42"])

    assert parse_names(None, model="models", ranking="prune.rankings", seed="study.seeds") == ["fifth", "lamp", "42"]


def test_a_seed_that_the_study_does_not_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["stage.py", "7"])

    with pytest.raises(UserError, match=r"^seed: unknown name '7'; known: 42$"):
        parse_names(None, seed="study.seeds")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["frist", "none"], "model: unknown name 'frist'; did you mean 'first'? known: first, second"),
        (["first", ""], "augmentation: unknown name ''; known: none, strong"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_and_the_nearest(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        parse(monkeypatch, *arguments)

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("arguments", "status", "shown"),
    [
        (["first"], 2, ["usage: train.py [-h] model augmentation", "arguments are required: augmentation"]),
        (["first", "none", "mild"], 2, ["usage: train.py", "unrecognized arguments: mild"]),
        (["--help"], 0, ["Trains 100 % of a model.", "one of first, second"]),
    ],
)
def test_a_wrong_number_of_names_or_a_call_for_help_shows_the_usage(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    shown: list[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(monkeypatch, *arguments)

    assert caught.value.code == status
    text = "".join(capsys.readouterr())
    assert [part for part in shown if part not in text] == []


@pytest.mark.parametrize("argument", ["", "third", "--storage="])
def test_record_times_refuses_arguments_before_it_records(monkeypatch: pytest.MonkeyPatch, argument: str) -> None:
    monkeypatch.setattr(sys, "argv", ["record_times", argument])
    monkeypatch.setattr(record_times, "load_params", lambda **_: pytest.fail("went on"))
    with pytest.raises(SystemExit):
        record_times.main()
