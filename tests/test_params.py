import copy
import json
import math
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from stages.lib.errors import UserError
from stages.lib.params.checking import find_name
from stages.lib.params.load import load_params

ROOT = Path(__file__).parents[1]
COMMITTED = ROOT / "params.yaml"
REMOVED = "(removed)"

INTEGERS = {  # key: lowest and highest value, with the other values as committed
    "seed": (0, 2**31 - 1),
    "dataset.image_size_px": (4, 1024),  # 1 without pools
    "preview.versions": (1, 20),
    "augmentations.sharp.shift_px": (0, 1024),
    "augmentations.sharp.erase_px": (0, 1024),
    "train.epochs": (1, 100_000),
    "train.clean_epochs": (0, 7),  # of 8 epochs
    "train.batch_size": (1, 1_000_000),
    "evaluate.calibration_bins": (2, 100),
    "evaluate.gallery_images": (1, 100),
    "prune.clean_epochs": (0, 2),  # of 3 epochs
    "prune.frequency": (1, 1_000_000),
    "prune.batch_size": (1, 1_000_000),
    "shrink.multiple": (1, 1024),
    "shrink.epochs": (1, 100_000),
    "shrink.clean_epochs": (0, 2),  # of 3 epochs
    "export.calibration_images": (1, 1_000_000),
    "export.weight_bits": (2, 8),
}
NUMBERS = {
    "download.timeout_seconds": "(0, 3600]",
    "prepare.val_fraction": "(0, 1)",
    "prepare.keep_fraction": "(0, 1]",
    "models.first.dropout": "[0, 1)",
    "augmentations.strong.rotation_degrees": "[0, 180]",
    "augmentations.strong.shift_fraction": "[0, 1]",
    "augmentations.strong.zoom_fraction": "[0, 1)",
    "train.learning_rate": "(0, 100]",
    "train.warmup_fraction": "[0, 1)",
    "train.weight_decay": "[0, 100]",
    "train.label_smoothing": "[0, 1)",
    "select_model.tolerance": "[0, 1)",
    "prune.ramp_fraction": "(0, 1]",
    "shrink.learning_rate": "(0, 100]",
    "export.max_loss_float32": "[0, 1]",
    "export.max_loss_int8": "[0, 1]",
    "ship.max_loss": "[0, 1]",
}
UNTUNED = {  # values that limit others, so that no choice in the committed file decides a test
    "train": {"epochs": 8, "clean_epochs": 0, "optimizer": "adam", "weight_decay": 0.0},
    "prune": {"epochs": 3, "clean_epochs": 0, "learning_rate": 0.01},
    "shrink": {"epochs": 3, "clean_epochs": 0},
}
FILTERS_OR_UNITS = "a list of integers from 1 to 1000000"


@cache
def committed() -> Any:
    """Reads the committed parameters but `search`: tests/test_search_space.py."""
    content = YAML(typ="safe").load(COMMITTED)
    del content["search"]
    return content


def list_keys(section: dict[str, Any], prefix: str = "") -> list[str]:
    """Lists the dotted keys of a mapping, those of sections included."""
    keys = []
    for name, value in section.items():
        keys.append(f"{prefix}{name}")
        if isinstance(value, dict):
            keys += list_keys(value, f"{prefix}{name}.")
    return keys


def write_edited(folder: Path, edits: dict[str, str]) -> Path:
    """Writes the committed parameters, untuned, with some dotted keys set to YAML text, or removed."""
    content = copy.deepcopy(committed()) | {"search": {}}
    for name, values in UNTUNED.items():
        content[name] |= values
    for key, value in edits.items():
        *sections, last = key.split(".")
        section = content
        for name in sections:
            section = section[name]
        if value == REMOVED:
            del section[last]
        else:
            section[last] = f"@{key}@"
    text = json.dumps(content)  # JSON is YAML
    for key, value in edits.items():
        text = text.replace(f'"@{key}@"', value)
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def load_edited(folder: Path, edits: dict[str, str]) -> Any:
    return load_params(write_edited(folder, edits))


def refusal(folder: Path, edits: dict[str, str]) -> str:
    """Returns the message with which the edited parameters are refused, after the name of the file."""
    path = write_edited(folder, edits)
    with pytest.raises(UserError) as caught:
        load_params(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def look_up(params: Any, key: str) -> Any:
    value: Any = params
    for name in key.split("."):
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    return value


# The committed file


def test_the_committed_params_load() -> None:
    params = load_params(COMMITTED)

    assert params.seed == committed()["seed"]
    assert params.dataset.class_names[9] == "Ankle boot"
    assert params.models["third"].blocks == ((32, 64), (64, 128))
    assert params.models["fourth"].batch_norm == ()
    assert params.augmentations["strong"].rotation_degrees == 8.0
    assert params.prune.sparsities == tuple(committed()["prune"]["sparsities"])


def test_every_committed_value_lands_under_its_own_name() -> None:
    read = json.loads(load_params(COMMITTED).model_dump_json(by_alias=True))

    assert read == committed()


def test_params_are_read_from_the_working_directory_by_default(tmp_dir: Path) -> None:
    write_edited(tmp_dir, {"seed": "7"})

    assert load_params().seed == 7


def test_params_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_params(COMMITTED).seed = 1


# Keys


@pytest.mark.parametrize("key", list_keys(committed()))
def test_no_key_may_be_missing_but_those_of_the_users_own_choice(tmp_path: Path, key: str) -> None:
    section, _, name = key.partition(".")
    if section in ("models", "augmentations") and name and "." not in name:
        if name in committed()["study"][section]:
            assert f"unknown name '{name}'" in refusal(tmp_path, {key: REMOVED})
        else:
            assert name not in look_up(load_edited(tmp_path, {key: REMOVED}), section)
    else:
        message = refusal(tmp_path, {key: REMOVED})
        assert message == f"{key}: missing; add it (the committed params.yaml shows each key's meaning)"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("sede", "sede: unknown key; did you mean 'seed'? known: seed, dataset, download, prepare"),
        ("train.epoch", "train.epoch: unknown key; did you mean 'epochs'? known: epochs, clean_epochs, batch_size"),
        (
            "models.first.drop_out",
            "models.first.drop_out: unknown key; did you mean 'dropout'? known: blocks, residual",
        ),
        ("augmentations.mild.zoom_fractoin", "zoom_fractoin: unknown key; did you mean 'zoom_fraction'?"),
        ("dataset.files.train-images", "did you mean 'train-images-idx3-ubyte'? known: train-images-idx3-ubyte, "),
        ("select_model.xyz", "select_model.xyz: unknown key; known: tolerance"),
    ],
)
def test_an_unknown_key_is_refused_with_the_known_ones_and_the_nearest(tmp_path: Path, key: str, message: str) -> None:
    assert message in refusal(tmp_path, {key: "1"})


def test_a_key_that_is_no_word_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, {"prepare": "{3: 4}"}) == ("prepare.3: unknown key; known: val_fraction, keep_fraction")


@pytest.mark.parametrize("value", ["3", "null", "[epochs, 8]", "words"])
@pytest.mark.parametrize("key", ["train", "dataset.files", "models.first", "augmentations.none"])
def test_a_section_must_be_a_mapping(tmp_path: Path, key: str, value: str) -> None:
    message = refusal(tmp_path, {key: value})

    assert message.startswith(f"{key}: expected a section with ")
    assert message.endswith(f"; got {YAML(typ='safe').load(value)!r}")


@pytest.mark.parametrize(("text", "shown"), [("", "None"), ("[seed]", "['seed']"), ("seed", "'seed'")])
def test_the_file_must_be_a_mapping(tmp_path: Path, text: str, shown: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)

    with pytest.raises(
        UserError, match=f"params.yaml: the file: expected a section with seed, dataset.*; got {re.escape(shown)}"
    ):
        load_params(path)


@pytest.mark.parametrize(
    ("old", "key"), [("seed:", "seed"), ("  epochs:", "epochs"), ("    dense:", "dense"), ("  third:", "third")]
)
def test_a_key_that_is_given_twice_is_refused(tmp_path: Path, old: str, key: str) -> None:
    path, text = tmp_path / "params.yaml", COMMITTED.read_text(encoding="utf-8")
    assert text.count(f"\n{old}") >= 1
    path.write_text(text.replace(f"\n{old}", f"\n{old} 1\n{old}", 1), encoding="utf-8")

    with pytest.raises(UserError) as caught:
        load_params(path)

    assert str(caught.value).startswith(f"{path}: ")
    assert f"{key}: given twice in one section, near line " in str(caught.value)


def test_one_key_in_two_sections_is_given_once() -> None:
    keys = [key.split(".")[-1] for key in list_keys(committed())]
    assert keys.count("epochs") == 3

    load_params(COMMITTED)


# Numbers


@pytest.mark.parametrize(("key", "limit"), [(key, limit) for key, limits in INTEGERS.items() for limit in limits])
def test_an_integer_at_a_limit_is_accepted(tmp_path: Path, key: str, limit: int) -> None:
    value = look_up(load_edited(tmp_path, {key: str(limit)}), key)

    assert (value, type(value)) == (limit, int)


@pytest.mark.parametrize("key", INTEGERS)
@pytest.mark.parametrize("side", ["below", "above"])
def test_an_integer_outside_its_limits_is_refused(tmp_path: Path, key: str, side: str) -> None:
    low, high = (1, 1024) if key == "dataset.image_size_px" else INTEGERS[key]
    value = low - 1 if side == "below" else high + 1

    assert refusal(tmp_path, {key: str(value)}) == f"{key}: expected an integer from {low} to {high}; got {value}"


@pytest.mark.parametrize("key", INTEGERS)
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("'4'", "'4'"),
        ("true", "True"),
        ("4.0", "4.0"),
        ("null", "None"),
        ("[4]", "[4]"),
        (".nan", "nan"),
        (".inf", "inf"),
    ],
)
def test_nothing_but_an_integer_is_taken_for_one(tmp_path: Path, key: str, text: str, shown: str) -> None:
    message = refusal(tmp_path, {key: text})

    assert message.startswith(f"{key}: expected an integer from ")
    assert message.endswith(f"; got {shown}")


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("end", ["low", "high"])
def test_an_end_of_an_interval_is_accepted_where_the_bracket_is_square(tmp_path: Path, key: str, end: str) -> None:
    interval = NUMBERS[key]
    low, high = interval[1:-1].split(", ")
    value, is_closed = (low, interval[0] == "[") if end == "low" else (high, interval[-1] == "]")
    edits = {key: value, "train.optimizer": "adamw"}

    if is_closed:
        read = look_up(load_edited(tmp_path, edits), key)
        assert (read, type(read)) == (float(value), float)
    else:
        assert refusal(tmp_path, edits) == f"{key}: expected a number in {interval}; got {value}"


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("end", ["low", "high"])
def test_a_number_just_inside_an_interval_is_accepted_and_just_outside_refused(
    tmp_path: Path, key: str, end: str
) -> None:
    low, high = (float(bound) for bound in NUMBERS[key][1:-1].split(","))
    inside, outside = (low + 1e-05, low - 1e-05) if end == "low" else (high - 1e-05, high + 1e-05)
    adamw = {"train.optimizer": "adamw"}

    assert look_up(load_edited(tmp_path, {key: repr(inside)} | adamw), key) == inside
    assert refusal(tmp_path, {key: repr(outside)} | adamw) == (
        f"{key}: expected a number in {NUMBERS[key]}; got {outside!r}"
    )


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("'0.5'", "'0.5'"),
        ("true", "True"),
        ("null", "None"),
        ("[0.5]", "[0.5]"),
        (".nan", "nan"),
        (".inf", "inf"),
        ("-.inf", "-inf"),
        ("1_0", "'1_0'"),
    ],
)
def test_nothing_but_a_finite_number_is_taken_for_one(tmp_path: Path, key: str, text: str, shown: str) -> None:
    assert refusal(tmp_path, {key: text}) == f"{key}: expected a number in {NUMBERS[key]}; got {shown}"


def test_an_image_may_have_one_pixel_where_no_model_pools(tmp_path: Path) -> None:
    model = "{blocks: [], residual: false, global_pool: false, dense: [], batch_norm: [], dropout: 0}"

    params = load_edited(tmp_path, {"dataset.image_size_px": "1", "models": f"{{m: {model}}}", "study.models": "[m]"})

    assert params.dataset.image_size_px == 1


@pytest.mark.parametrize(
    "key", ["augmentations.flip.horizontal_flip", "models.first.residual", "models.first.global_pool"]
)
@pytest.mark.parametrize("value", ["1", "'true'", "yes", "null"])
def test_nothing_but_true_and_false_is_taken_for_a_boolean(tmp_path: Path, value: str, key: str) -> None:
    assert refusal(tmp_path, {key: value}) == (f"{key}: expected true or false; got {YAML(typ='safe').load(value)!r}")


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False)])
def test_a_boolean_is_read(tmp_path: Path, text: str, value: bool) -> None:
    params = load_edited(tmp_path, {"augmentations.flip.horizontal_flip": text})

    assert params.augmentations["flip"].horizontal_flip is value


@pytest.mark.parametrize("section", ["train", "prune", "shrink"])
def test_at_least_one_epoch_sees_augmented_images(tmp_path: Path, section: str) -> None:
    epochs = {f"{section}.epochs": "3"}

    assert look_up(load_edited(tmp_path, epochs | {f"{section}.clean_epochs": "2"}), f"{section}.clean_epochs") == 2
    assert refusal(tmp_path, epochs | {f"{section}.clean_epochs": "3"}) == (
        f"{section}.clean_epochs: expected an integer from 0 to 2; got 3"
    )


def test_the_shortest_step_of_the_pruning_sees_augmented_images(tmp_path: Path) -> None:
    edits = {"prune.epochs": "[9, 9, 9, 2, 9, 9]", "prune.clean_epochs": "2"}

    assert refusal(tmp_path, edits) == "prune.clean_epochs: expected an integer from 0 to 1; got 2"


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_weight_decay_is_refused_where_the_optimizer_would_ignore_it(tmp_path: Path, optimizer: str) -> None:
    assert refusal(tmp_path, {"train.weight_decay": "0.1", "train.optimizer": optimizer}) == (
        f"train.weight_decay: expected 0 with optimizer {optimizer} (adamw and muon use it); got 0.1"
    )


# Lists, names and words


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("models.first.blocks", "[]", ()),
        ("models.first.blocks", "[[1], [1000000]]", ((1,), (1_000_000,))),
        ("models.first.dense", "[]", ()),
        ("models.first.dense", "[1, 1000000]", (1, 1_000_000)),
        ("models.first.batch_norm", "[]", ()),
        ("models.first.batch_norm", "[dense, flatten, conv]", ("dense", "flatten", "conv")),
        ("prune.sparsities", "[1e-05, 0.99999]", (1e-05, 0.99999)),
        ("prune.epochs", "1", (1, 1, 1, 1, 1, 1)),
        ("prune.epochs", "100000", (100_000,) * 6),
        ("prune.epochs", "[1, 1000000, 1, 1, 1, 2]", (1, 1_000_000, 1, 1, 1, 2)),
        ("prune.learning_rate", "100", (100.0,) * 6),
        ("prune.learning_rate", "[100, 1e-09, 1, 1, 1, 0.5]", (100.0, 1e-09, 1.0, 1.0, 1.0, 0.5)),
        ("dataset.class_names", "[a, b]", ("a", "b")),
        ("study.models", "[fourth, first]", ("fourth", "first")),
        ("study.augmentations", "[none]", ("none",)),
        ("download.sources", "['http://host']", ("http://host",)),
        ("download.sources", "['https://host:80/a?b']", ("https://host:80/a?b",)),
        ("download.sources", "['apt:g++']", ("apt:g++",)),
        ("download.sources", "['folder:~/my data']", ("folder:~/my data",)),
        ("train.optimizer", "sgd", "sgd"),
        ("train.schedule", "constant", "constant"),
        ("train.precision", "bfloat16", "bfloat16"),
    ],
)
def test_a_sound_value_is_read_as_it_stands(tmp_path: Path, key: str, text: str, value: object) -> None:
    assert look_up(load_edited(tmp_path, {key: text}), key) == value


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("models.first.blocks", "[[]]", "expected a list of lists of filters, such as [[32, 64], [64]]; got [[]]"),
        ("models.first.blocks", "[32, 64]", "a list of lists of filters, such as [[32, 64], [64]]; got [32, 64]"),
        ("models.first.blocks", "32", "expected a list of lists of filters, such as [[32, 64], [64]]; got 32"),
        ("models.first.blocks", "[[0]]", f"expected {FILTERS_OR_UNITS}; got [0]"),
        ("models.first.blocks", "[[8], [1000001]]", f"expected {FILTERS_OR_UNITS}; got [1000001]"),
        ("models.first.blocks", "[[true]]", f"expected {FILTERS_OR_UNITS}; got [True]"),
        ("models.first.blocks", "[['8']]", f"expected {FILTERS_OR_UNITS}; got ['8']"),
        ("models.first.blocks", "[[8.0]]", f"expected {FILTERS_OR_UNITS}; got [8.0]"),
        ("models.first.dense", "128", f"expected {FILTERS_OR_UNITS}; got 128"),
        ("models.first.dense", "[0]", f"expected {FILTERS_OR_UNITS}; got [0]"),
        ("models.first.dense", "[1, -3]", f"expected {FILTERS_OR_UNITS}; got [1, -3]"),
        ("models.first.batch_norm", "conv", "expected a list of words; got 'conv'"),
        ("models.first.batch_norm", "[convv]", "'convv'; did you mean 'conv'? known: conv, flatten, dense"),
        ("models.first.batch_norm", "[conv, conv]", "expected each entry once; got ['conv', 'conv']"),
        ("models", "{}", "expected at least one named entry; got {}"),
        ("models", "[first]", "expected at least one named entry; got ['first']"),
        ("models", "{First: 1}", "expected names of lower-case letters, digits and _; got 'First'"),
        ("models", "{a-b: 1}", "expected names of lower-case letters, digits and _; got 'a-b'"),
        ("models", "{1: 1}", "expected names of lower-case letters, digits and _; got 1"),
        ("augmentations", "{}", "expected at least one named entry; got {}"),
        ("augmentations", "{../x: 1}", "expected names of lower-case letters, digits and _; got '../x'"),
        ("prune.epochs", "0", "expected an integer from 1 to 100000; got 0"),
        ("prune.epochs", "100001", "expected an integer from 1 to 100000; got 100001"),
        ("prune.epochs", "1.0", "expected an integer from 1 to 100000; got 1.0"),
        ("prune.epochs", "[1, 1, 1, 1, 1, 0]", "expected a list of integers from 1 to 1000000; got [1, 1, 1, 1, 1, 0]"),
        ("prune.epochs", "[1, 2]", "expected one number, or 6 of them, as there are sparsities; got [1, 2]"),
        ("prune.epochs", "[]", "expected one number, or 6 of them, as there are sparsities; got []"),
        ("prune.learning_rate", "[1, 2]", "expected one number, or 6 of them, as there are sparsities; got [1, 2]"),
        ("prune.learning_rate", "0", "expected a number in (0, 100]; got 0"),
        ("prune.learning_rate", "100.1", "expected a number in (0, 100]; got 100.1"),
        ("prune.learning_rate", "[1, 1, 1, 1, 1, 0]", "expected a number in (0, 100]; got 0"),
        ("prune.learning_rate", "[1, 1, 1, 1, 1, '2']", "expected a number in (0, 100]; got '2'"),
        ("prune.sparsities", "[]", "expected a list of numbers in (0, 1); got []"),
        ("prune.sparsities", "0.5", "expected a list of numbers in (0, 1); got 0.5"),
        ("prune.sparsities", "[0]", "expected a number in (0, 1); got 0"),
        ("prune.sparsities", "[0.5, 1]", "expected a number in (0, 1); got 1"),
        ("prune.sparsities", "[0.5, '0.8']", "expected a number in (0, 1); got '0.8'"),
        ("prune.sparsities", "[.nan]", "expected a number in (0, 1); got nan"),
        ("prune.sparsities", "[0.5, 0.8, 0.80]", "expected rising numbers, each once; got [0.5, 0.8, 0.8]"),
        ("prune.sparsities", "[0.8, 0.5]", "expected rising numbers, each once; got [0.8, 0.5]"),
        ("shrink.macs_shares", "[0.25, 0.5]", "expected falling numbers, each once; got [0.25, 0.5]"),
        ("shrink.macs_shares", "[1.0]", "expected a number in (0, 1); got 1.0"),
        ("dataset.class_names", "[]", "expected 2 to 256 names, label 0 first; got '0 names'"),
        ("dataset.class_names", "[only]", "expected 2 to 256 names, label 0 first; got '1 names'"),
        ("dataset.class_names", "[a, 1]", "expected a list of words; got ['a', 1]"),
        ("dataset.class_names", "[a, '']", "expected a list of words; got ['a', '']"),
        ("dataset.class_names", "[Coat, Bag, Coat]", "expected each entry once; got ['Coat', 'Bag', 'Coat']"),
        ("study.models", "[]", "expected at least 1 of first, second, third, fourth, fifth; got []"),
        ("study.models", "first", "expected a list of words; got 'first'"),
        ("study.models", "[frist]", "'frist'; did you mean 'first'? known: first, second, third, fourth"),
        ("study.models", "[zzz]", "unknown name 'zzz'; known: first, second, third, fourth"),
        ("study.models", "[first, first]", "expected each entry once; got ['first', 'first']"),
        ("study.augmentations", "[]", "expected at least 1 of none, strong, mild, flip, sharp; got []"),
        ("study.augmentations", "[null]", "expected a list of words; got [None]"),
        ("study.augmentations", "[wild]", "'wild'; did you mean 'mild'? known: none, strong, mild, flip, sharp"),
        ("train.optimizer", "Adam", "unknown value 'Adam'; did you mean 'adam'? known: adam, adamw, muon, sgd"),
        ("train.optimizer", "null", "unknown value None; known: adam, adamw, muon, sgd"),
        ("train.optimizer", "[adam]", "unknown value ['adam']; did you mean 'adam'?"),
        ("train.schedule", "one-cycle", "'one-cycle'; did you mean 'one_cycle'? known: one_cycle, constant"),
        ("train.precision", "float16", "'float16'; did you mean 'bfloat16'? known: auto, bfloat16, float32"),
        ("download.sources", "[]", "expected at least one source; got 'an empty list'"),
        ("download.sources", "https://host", "expected a list of words; got 'https://host'"),
        ("download.sources", "['folder:a', 'ftp://b']", "https://host/path, apt:package or folder:path; got 'ftp://b'"),
        ("download.sources", "['https:///a']", "https://host/path, apt:package or folder:path; got 'https:///a'"),
        ("download.sources", "['https://a b']", "https://host/path, apt:package or folder:path; got 'https://a b'"),
        ("download.sources", "['apt:-y']", "https://host/path, apt:package or folder:path; got 'apt:-y'"),
        ("download.sources", "['apt:a b']", "https://host/path, apt:package or folder:path; got 'apt:a b'"),
        ("download.sources", "['folder:']", "https://host/path, apt:package or folder:path; got 'folder:'"),
        ("download.sources", "['folder:a', 'folder:a']", "expected each entry once; got ['folder:a', 'folder:a']"),
    ],
)
def test_an_unsound_value_is_refused_and_shown(tmp_path: Path, key: str, text: str, message: str) -> None:
    refused = refusal(tmp_path, {key: text})

    assert refused.startswith(f"{key}: ")
    assert message in refused


def test_a_byte_can_number_256_classes_and_no_more(tmp_path: Path) -> None:
    names = [f"class {label}" for label in range(257)]

    params = load_edited(tmp_path, {"dataset.class_names": json.dumps(names[:256])})

    assert params.dataset.class_names == tuple(names[:256])
    assert refusal(tmp_path, {"dataset.class_names": json.dumps(names)}) == (
        "dataset.class_names: expected 2 to 256 names, label 0 first; got '257 names'"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a" * 63, repr("a" * 63)),
        ("a" * 65, repr("a" * 65)),
        ("A" * 64, repr("A" * 64)),
        ("g" * 64, repr("g" * 64)),
        ("1" * 64, "1" * 64),  # a number, where it is not quoted
        ("null", "None"),
    ],
)
@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_checksum_is_64_hexadecimal_digits(tmp_path: Path, file: str, text: str, shown: str) -> None:
    assert refusal(tmp_path, {f"dataset.files.{file}": text}) == (
        f"dataset.files.{file}: expected the SHA-256 of the decompressed file, 64 hexadecimal digits; got {shown}"
    )


def test_as_many_pools_are_accepted_as_leave_a_pixel(tmp_path: Path) -> None:
    params = load_edited(tmp_path, {"models.first.blocks": "[[1], [1], [1], [1]]"})

    assert len(params.models["first"].blocks) == 4


def test_a_pool_below_one_pixel_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, {"models.first.blocks": "[[1], [1], [1], [1], [1]]"}) == (
        "models.first.blocks: block 5 of 5 pools an image of 1 x 1 pixels to below 1 pixel; "
        "use at most 4 blocks for an image of 28 pixels"
    )


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (
            {"residual": "true", "blocks": "[[8], [8, 8]]"},
            "blocks: block 2 of 2: expected an odd number of convolutions with residual: one, then pairs; got [8, 8]",
        ),
        (
            {"residual": "true", "blocks": "[[8, 8, 4]]"},
            "blocks: block 1 of 1: expected 8 filters in convolution 3 with residual, as many as enter its pair; "
            "got [8, 8, 4]",
        ),
        (
            {"global_pool": "true", "blocks": "[]", "batch_norm": "[]"},
            "blocks: expected at least one block with global_pool, which ends the last one; got []",
        ),
        (
            {"global_pool": "true", "batch_norm": "[conv, flatten]"},
            "batch_norm: expected no flatten with global_pool, which leaves nothing to flatten; "
            "got ['conv', 'flatten']",
        ),
    ],
    ids=["pairs", "filters", "no block", "flatten"],
)
def test_an_architecture_that_contradicts_itself_is_refused_at_the_key_that_is_wrong(
    tmp_path: Path, edits: dict[str, str], message: str
) -> None:
    refused = refusal(tmp_path, {f"models.first.{key}": value for key, value in edits.items()})

    assert refused == f"models.first.{message}"


def test_every_model_is_checked_even_if_the_study_does_not_name_it(tmp_path: Path) -> None:
    edits = {"study.models": "[first]", "models.fourth.dropout": "1"}

    assert refusal(tmp_path, edits) == "models.fourth.dropout: expected a number in [0, 1); got 1"


def test_a_known_name_is_found() -> None:
    assert find_name("b", ["a", "b"], "letter") == "b"


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"^model: unknown name 'frist'; did you mean 'first'\? known: first, second$"):
        find_name("frist", ["first", "second"], "model")


# The file and its YAML


def test_a_missing_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/absent\.yaml: not found; run this from the top of the repository$"):
        load_params(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"seed: [1", "expected ',' or ']'"),
        (b"seed: 1\n\tdataset: 2", "found character '\\t'"),
        (b"seed: \xff", "invalid start byte"),
        (b"seed: !!float word", "'word'"),
        (b"seed: !!python/object:os.system {}", "could not determine a constructor"),
    ],
)
def test_a_file_that_is_no_yaml_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)

    with pytest.raises(UserError) as caught:
        load_params(path)

    assert str(caught.value).startswith(f"{path}: no valid YAML: ")
    assert message in str(caught.value)


def test_a_word_that_is_marked_as_an_integer_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("a: 1\nseed: !!int word")

    with pytest.raises(UserError, match=r"params\.yaml: line 2: expected an integer; got 'word'$"):
        load_params(path)


def test_class_names_may_hold_any_letters(tmp_path: Path) -> None:
    assert load_edited(tmp_path, {"dataset.class_names": "[Schürze, 帽子]"}).dataset.class_names == ("Schürze", "帽子")


def read_scalar(folder: Path, text: str) -> str:
    """Returns how a scalar is read, as `repr`, from the message that refuses it as a schedule."""
    found = re.match(r"train\.schedule: unknown value (.*); (known|did)", refusal(folder, {"train.schedule": text}))
    assert found
    return found[1]


@pytest.mark.parametrize(
    "text",
    [
        "1e-05",
        "1E3",
        "1e5",
        "1.5e3",
        "1.e3",
        "1.",
        ".5",
        "-.5",
        "+.5",
        ".5e+3",
        "0",
        "-0",
        "+1",
        "-1",
        "012",
        "08",
        "0o17",
        "0o8",
        "0x1F",
        "0x1f",
        "0xG",
        "1e",
        "1e+",
        ".",
        "1.2.3",
        "yes",
        "no",
        "on",
        "off",
        "y",
        "n",
        "Yes",
        "No",
        "true",
        "True",
        "TRUE",
        "tRUE",
        "false",
        "False",
        "FALSE",
        "null",
        "Null",
        "NULL",
        "nULL",
        "~",
        "nan",
        "inf",
        ".inf",
        "-.inf",
        "+.inf",
        ".Inf",
        ".INF",
        ".nan",
        ".NaN",
        ".NAN",
        "12:30:45",
        "1:30",
        "_1",
        "'1'",
        '"1e5"',
        "''",
        "'null'",
    ],
)
def test_a_scalar_is_read_as_dvc_reads_it(tmp_path: Path, text: str) -> None:
    assert read_scalar(tmp_path, text) == repr(YAML(typ="safe").load(text))  # the parser of DVC


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1_000", "1_000"),  # DVC: 1000
        ("0b101", "0b101"),  # DVC: 5
        ("-0x1F", "-0x1F"),  # DVC: -31
        ("2026-01-01", "2026-01-01"),  # DVC: a date
        (".5e3", 500.0),  # DVC: a word
    ],
)
def test_a_scalar_outside_what_dvc_and_the_core_schema_share_follows_the_core_schema(
    tmp_path: Path, text: str, value: object
) -> None:
    assert read_scalar(tmp_path, text) == repr(value)
    assert YAML(typ="safe").load(text) != value


def test_a_number_that_dvc_writes_is_read_back(tmp_path: Path) -> None:
    assert math.isclose(load_edited(tmp_path, {"train.learning_rate": "1e-05"}).train.learning_rate, 0.00001)


def test_a_regime_may_be_called_no(tmp_path: Path) -> None:
    regime = (
        "{rotation_degrees: 0, shift_fraction: 0, zoom_fraction: 0, shift_px: 0, erase_px: 0, horizontal_flip: false}"
    )

    params = load_edited(tmp_path, {"augmentations": f"{{no: {regime}}}", "study.augmentations": "[no]"})

    assert params.study.augmentations == ("no",)


def test_modules_that_need_no_tensorflow_do_not_load_it() -> None:
    modules = (
        *("errors", "network.architecture", "network.metrics", "params.load", "storage.files", "storage.idx"),
        *("running.arguments", "running.runner", "cost.macs", "cost.sparsity", "cost.receptive_field"),
        *("pictures.style", "training.cluster"),
    )
    code = (
        "import importlib, sys\n"
        f"for name in {modules}:\n"
        "    importlib.import_module(f'stages.lib.{name}')\n"
        "    loaded = {'tensorflow', 'tf_keras', 'keras', 'tensorflow_model_optimization'} & set(sys.modules)\n"
        "    if loaded:\n"
        "        sys.exit(f'{name} loads {loaded}')\n"
    )

    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (result.returncode, result.stderr) == (0, "")


def test_the_check_of_the_whole_file_refuses_a_section_that_nobody_reads(tmp_path: Path) -> None:
    assert "prunes: unknown key; did you mean 'prune'?" in refusal(tmp_path, {"prunes": "{}"})
