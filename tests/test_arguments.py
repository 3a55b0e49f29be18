import sys

import pytest

from stages.lib.errors import UserError
from stages.lib.running.arguments import parse_names

MODELS = {"first": 1, "second": 2}
AUGMENTATIONS = ["none", "strong"]


def parse(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[str]:
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    return parse_names("Trains 100 % of a model.", model=MODELS, augmentation=AUGMENTATIONS)


def test_names_are_read_in_the_order_of_the_keywords(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse(monkeypatch, "second", "none") == ["second", "none"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["frist", "none"], "model: unknown name 'frist'; did you mean 'first'? known: first, second"),
        (["first", "nona"], "augmentation: unknown name 'nona'; did you mean 'none'? known: none, strong"),
        (["none", "first"], "model: unknown name 'none'; known: first, second"),
        (["", "none"], "model: unknown name ''; known: first, second"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_and_the_nearest(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        parse(monkeypatch, *arguments)

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: model, augmentation"),
        (["first"], "the following arguments are required: augmentation"),
        (["first", "none", "mild"], "unrecognized arguments: mild"),
    ],
)
def test_a_wrong_number_of_names_is_refused_with_the_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(monkeypatch, *arguments)

    assert caught.value.code == 2
    assert "usage: train.py [-h] model augmentation" in (shown := capsys.readouterr().err)
    assert message in shown


def test_help_shows_the_description_as_it_stands_and_the_known_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--help"])

    with pytest.raises(SystemExit) as caught:
        parse_names("Trains.\n\nReads:\n    a 100 % line", model=MODELS)

    shown = capsys.readouterr().out
    assert caught.value.code == 0
    assert "Reads:\n    a 100 % line\n" in shown
    assert "one of first, second" in shown


def test_a_module_without_a_docstring_has_no_description(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "first"])

    assert parse_names(None, model=MODELS) == ["first"]
