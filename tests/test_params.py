import copy
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from stages.lib.errors import UserError
from stages.lib.params.checking import find_name
from stages.lib.params.load import check_content, load_params
from stages.lib.params.yaml_1_2 import read_yaml

ROOT = Path(__file__).parents[1]
COMMITTED = ROOT / "params.yaml"

INTEGERS = {  # key: lowest and highest value, with the other values as committed
    "seed": (0, 2**31 - 1),
    "dataset.image_size_px": (8, 1024),  # 1 without pools
    "dataset.background": (0, 255),
    "preview.versions": (1, 20),
    "augmentations.sharp.shift_px": (0, 1024),
    "augmentations.sharp.erase_px": (0, 1024),
    "train.epochs": (1, 100_000),
    "train.clean_epochs": (0, 7),  # of 8 epochs
    "train.batch_size": (1, 1_000_000),
    "evaluate.calibration_bins": (2, 100),
    "evaluate.gallery_images": (1, 100),
    "finish.epochs": (1, 100_000),
    "finish.clean_epochs": (0, 7),  # of 8 epochs
    "audit.gallery_images": (1, 100),
    "prune.clean_epochs": (0, 2),  # of 3 epochs
    "prune.frequency": (1, 1_000_000),
    "prune.batch_size": (1, 1_000_000),
    "shrink.multiple": (1, 1024),
    "shrink.epochs": (1, 100_000),
    "shrink.clean_epochs": (0, 2),  # of 3 epochs
    "export.calibration_images": (1, 1_000_000),
    "export.weight_bits": (2, 8),
    "deploy.images": (1, 1_000_000),
}
NUMBERS = {
    "download.timeout_seconds": "(0, 3600]",
    "prepare.val_fraction": "(0, 1)",
    "prepare.test_fraction": "(0, 1)",
    "prepare.keep_fraction": "(0, 1]",
    "study.keep_fraction": "(0, 1]",
    "models.first.dropout": "[0, 1)",
    "augmentations.strong.rotation_degrees": "[0, 180]",
    "augmentations.strong.shift_fraction": "[0, 1]",
    "augmentations.strong.zoom_fraction": "[0, 1)",
    "augmentations.strong.brightness_fraction": "[0, 1)",
    "augmentations.strong.contrast_fraction": "[0, 1)",
    "augmentations.strong.saturation_fraction": "[0, 1)",
    "train.learning_rate": "(0, 100]",
    "train.warmup_fraction": "[0, 1)",
    "train.weight_decay": "[0, 100]",
    "train.label_smoothing": "[0, 1)",
    "audit.min_similarity": "(0, 1]",
    "select_model.tolerance": "[0, 1)",
    "prune.macs_weight": "[0, 1]",
    "prune.ramp_fraction": "(0, 1]",
    "prune.easy_share": "[0, 1]",
    "shrink.easy_share": "[0, 1]",
    "shrink.learning_rate": "(0, 100]",
    "export.max_loss_float32": "[0, 1]",
    "export.max_loss_int8": "[0, 1]",
    "ship.answered_accuracy": "[0, 1]",
}
UNTUNED = {  # values that limit others, so that no choice in the committed file decides a test
    "train": {"epochs": 8, "clean_epochs": 0, "optimizer": "adamw", "weight_decay": 0.0},
    "finish": {"epochs": 8, "clean_epochs": 0},
    "prune": {"epochs": 3, "clean_epochs": 0, "learning_rate": 0.01, "shrunk_shares": []},
    "shrink": {"epochs": 3, "clean_epochs": 0},
}
REMOVED = object()
NAN, INFINITY = float("nan"), float("inf")
FILTERS = "expected lists of filters, such as [[32, 64], [64]]"
COUNT = "expected an integer from 1 to 1000000"
PER_SPARSITY = "expected one number, or 3 of them, as there are sparsities"
CLASSES = "expected 2 to 256 names, label 0 first"
NAMES = "expected names of lower-case letters, digits and _"
ENDS = "expected names that do not end in _low, _high or _sd, which tables give to ends and deviations"
SEEDS = "expected a list of integers from 0 to 2147483647"
CSV = "expected the path of a .csv file in here"
SOURCE = "expected https://host/path, apt:package or folder:path"
FOLDER = "expected the path of a folder, without ~, $ and \\, and no / at its end"


@cache
def committed() -> Any:
    """Reads the committed file with the parser of DVC."""
    return YAML(typ="safe").load(COMMITTED)


def list_keys(section: dict[str, Any], prefix: str = "") -> list[str]:
    """Lists the dotted keys of a mapping, those of sections included."""
    keys = []
    for name, value in section.items():
        keys.append(f"{prefix}{name}")
        if isinstance(value, dict):
            keys += list_keys(value, f"{prefix}{name}.")
    return keys


KEYS = [key for key in list_keys(committed()) if not key.startswith("search.")]


def check_edited(edits: dict[str, Any]) -> Any:
    """Checks the committed params, untuned, with other values for some dotted keys, or without them."""
    content = copy.deepcopy(committed())
    for name, values in UNTUNED.items():
        content[name] |= values
    for key, value in edits.items():
        *sections, last = key.split(".")
        section = content
        for name in sections:
            section = section[name]
        if value is REMOVED:
            del section[last]
        else:
            section[last] = value
    return check_content(content)


def refusal(edits: dict[str, Any]) -> str:
    """Returns the message with which the edited params are refused."""
    with pytest.raises(UserError) as caught:
        check_edited(edits)
    return str(caught.value)


def look_up(params: Any, key: str) -> Any:
    value: Any = params
    for name in key.split("."):
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    return value


# The committed file


def test_every_committed_value_lands_under_its_own_name_as_dvc_reads_it() -> None:
    assert json.loads(load_params(COMMITTED).model_dump_json(by_alias=True)) == committed()


def test_params_are_read_from_the_working_directory_by_default(tmp_dir: Path) -> None:
    (tmp_dir / "params.yaml").write_text(COMMITTED.read_text().replace("seed: 42", "seed: 7"))

    assert load_params().seed == 7


def test_a_reader_gets_the_keys_that_it_names_and_no_others() -> None:
    params = load_params(COMMITTED, reads=("seed", "dataset.class_names", "train"))

    assert (params.seed, params.train, params.dataset.class_names[9]) == (
        42,
        load_params(COMMITTED).train,
        "Ankle boot",
    )
    for section, key in ((params, "prune"), (params.dataset, "image_size_px")):
        with pytest.raises(AttributeError, match=key):
            getattr(section, key)


def test_params_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_params(COMMITTED).seed = 1


# Keys


@pytest.mark.parametrize("key", KEYS)
def test_no_key_may_be_missing_but_those_of_the_users_own_choice(key: str) -> None:
    section, _, name = key.partition(".")
    if section in ("models", "augmentations") and name and "." not in name:
        if name in committed()["study"][section]:
            assert f"unknown name '{name}'" in refusal({key: REMOVED})
        else:
            assert name not in look_up(check_edited({key: REMOVED}), section)
    else:
        assert refusal({key: REMOVED}) == f"{key}: missing; add it (the committed params.yaml shows each key's meaning)"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("sede", "sede: unknown key; did you mean 'seed'? known: seed, dataset, download, prepare"),
        ("prunes", "prunes: unknown key; did you mean 'prune'? known: seed"),
        ("train.epoch", "train.epoch: unknown key; did you mean 'epochs'? known: epochs, clean_epochs, batch_size"),
        ("models.first.drop_out", "drop_out: unknown key; did you mean 'dropout'? known: blocks, separable"),
        ("augmentations.mild.zoom_fractoin", "zoom_fractoin: unknown key; did you mean 'zoom_fraction'?"),
        ("dataset.files.train-images", "did you mean 'train-images-idx3-ubyte'? known: train-images-idx3-ubyte, "),
        ("select_model.xyz", "select_model.xyz: unknown key; known: metric, tolerance"),
    ],
)
def test_an_unknown_key_is_refused_with_the_known_ones_and_the_nearest(key: str, message: str) -> None:
    refused = refusal({key: 1})

    assert refused.startswith(f"{key}: ")
    assert message in refused


def test_a_key_that_is_no_word_is_refused() -> None:
    assert refusal({"prepare": {3: 4}}) == (
        "prepare.3: unknown key; known: val_fraction, test_fraction, keep_fraction, bad_pictures, leave_out"
    )


def test_pictures_of_the_users_own_have_no_checksums() -> None:
    assert check_edited({"dataset.source": "../pictures", "dataset.files": None}).dataset.files is None
    assert check_edited({"dataset.source": "../pictures"}).dataset.files is not None


@pytest.mark.parametrize("value", [3, None, ["epochs", 8], "words"])
@pytest.mark.parametrize("key", ["train", "dataset.files", "models.first", "augmentations.none"])
def test_a_section_must_be_a_mapping(key: str, value: object) -> None:
    if (key, value) == ("dataset.files", None):
        return  # as above
    message = refusal({key: value})

    assert message.startswith(f"{key}: expected a section with ")
    assert message.endswith(f"; got {value!r}")


@pytest.mark.parametrize("content", [None, ["seed"], "seed"])
def test_the_file_must_be_a_mapping(content: object) -> None:
    with pytest.raises(
        UserError, match=f"^the file: expected a section with seed, .*; got {re.escape(repr(content))}$"
    ):
        check_content(content)


# Numbers


@pytest.mark.parametrize("key", INTEGERS)
def test_an_integer_lies_within_its_limits_and_nothing_else_is_taken_for_one(key: str) -> None:
    low, high = INTEGERS[key]
    for limit in (low, high):
        fitting = {"study.models": ["fifth"]} if key == "dataset.image_size_px" else {}  # of any size
        value = look_up(check_edited({key: limit} | fitting), key)
        assert (value, type(value)) == (limit, int)
    low = 1 if key == "dataset.image_size_px" else low
    for other in (low - 1, high + 1, "4", True, 4.0, None, [4], NAN, INFINITY):
        assert refusal({key: other}) == f"{key}: expected an integer from {low} to {high}; got {other!r}"


@pytest.mark.parametrize(
    "key", [f"ship.max_{cost}" for cost in ("flash_bytes", "ram_bytes", "instructions", "size_bytes")]
)
def test_a_limit_of_what_ships_is_an_integer_or_none(key: str) -> None:
    for limit in (1, 2**31 - 1, None):
        assert look_up(check_edited({key: limit}), key) == limit
    for other in (0, 2**31, "4", True, 4.0, [4], NAN, INFINITY):
        assert refusal({key: other}) == f"{key}: expected an integer from 1 to 2147483647, or null; got {other!r}"


@pytest.mark.parametrize("key", NUMBERS)
def test_a_number_lies_within_its_interval_and_nothing_else_is_taken_for_one(key: str) -> None:
    interval = NUMBERS[key]
    low, high = (int(end) for end in interval[1:-1].split(", "))
    ends = {low: interval[0] == "[", high: interval[-1] == "]"}
    for number in (low + 1e-05, high - 1e-05, *(end for end in ends if ends[end])):
        value = look_up(check_edited({key: number}), key)
        assert (value, type(value)) == (number, float)
    outside = (low - 1e-05, high + 1e-05, *(end for end in ends if not ends[end]))
    for other in (*outside, "0.5", True, None, [0.5], NAN, INFINITY, -INFINITY):
        assert refusal({key: other}) == f"{key}: expected a number in {interval}; got {other!r}"


@pytest.mark.parametrize(
    "key",
    [
        "augmentations.flip.horizontal_flip",
        "models.first.separable",
        "models.first.residual",
        "models.second.global_pool",
        "study.split_by_seed",
    ],
)
def test_nothing_but_true_and_false_is_taken_for_a_boolean(key: str) -> None:
    assert look_up(check_edited({key: False}), key) is False
    for value in (1, "true", "yes", None):
        assert refusal({key: value}) == f"{key}: expected true or false; got {value!r}"


@pytest.mark.parametrize("section", ["train", "finish", "prune", "shrink"])
def test_at_least_one_epoch_sees_augmented_images(section: str) -> None:
    epochs, key = {f"{section}.epochs": 3}, f"{section}.clean_epochs"

    assert look_up(check_edited(epochs | {key: 2}), key) == 2
    assert refusal(epochs | {key: 3}) == f"{key}: expected an integer from 0 to 2; got 3"


def test_the_shortest_step_of_the_pruning_sees_augmented_images() -> None:
    edits = {"prune.epochs": [9, 2, 9], "prune.clean_epochs": 2}

    assert refusal(edits) == "prune.clean_epochs: expected an integer from 0 to 1; got 2"


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_weight_decay_is_refused_where_the_optimizer_would_ignore_it(optimizer: str) -> None:
    assert refusal({"train.weight_decay": 0.1, "train.optimizer": optimizer}) == (
        f"train.weight_decay: expected 0 with optimizer {optimizer} (adamw and muon use it); got 0.1"
    )


# Lists, names and words


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("models.first.blocks", []),
        ("models.first.blocks", [[1], [1_000]]),
        ("models.first.dense", []),
        ("models.first.dense", [1, 800_000]),  # 8 million weights
        ("models.first.batch_norm", []),
        ("models.first.batch_norm", ["dense", "flatten", "conv"]),
        ("prune.sparsities", [1e-05, 0.99999]),
        ("prune.epochs", [1, 100_000, 2]),
        ("prune.learning_rate", [100, 1e-09, 0.5]),
        ("prune.rankings", ["lamp"]),
        ("prune.rankings", ["cost", "uniform"]),
        ("prune.shrunk_rankings", ["cost", "lamp"]),
        ("shrink.filters", ["scratch", "random"]),
        ("dataset.class_names", ["Schürze", "帽子"]),
        *(("dataset.source", path) for path in ("../my pictures", "/data/Bilder von früher", "a", "..", "x/.y")),
        ("dataset.fit", "crop"),
        ("prepare.bad_pictures", "leave_out"),
        ("dataset.class_names", [f"class {label}" for label in range(256)]),
        ("study.models", ["fourth", "first"]),
        ("study.augmentations", ["none"]),
        ("study.seeds", [42, 0, 2**31 - 1]),
        ("prepare.leave_out", "lists/of-2 und drei.été.csv"),
        ("download.sources", ["http://host", "https://host:80/a?b", "apt:g++", "folder:~/my data"]),
        ("train.optimizer", "sgd"),
        ("train.schedule", "constant"),
        ("train.class_weights", "balanced"),
        ("select_model.metric", "macro_f1"),
        ("ship.metric", "balanced_accuracy"),
        ("train.precision", "bfloat16"),
    ],
)
def test_a_sound_value_is_read_as_it_stands(key: str, value: object) -> None:
    read = look_up(check_edited({key: value}), key)

    assert json.loads(json.dumps(read)) == value


@pytest.mark.parametrize(("key", "value"), [("prune.epochs", 100_000), ("prune.learning_rate", 100.0)])
def test_one_value_is_that_of_every_sparsity(key: str, value: float) -> None:
    assert look_up(check_edited({key: value}), key) == (value,) * 3


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("models.first.blocks", [[]], f"{FILTERS}; got []"),
        ("models.first.blocks", [32, 64], f"{FILTERS}; got 32"),
        ("models.first.blocks", 32, f"{FILTERS}; got 32"),
        ("models.first.blocks", [[8], [1_000_001]], f"{COUNT}; got 1000001"),
        ("models.first.blocks", [[8.0]], f"{COUNT}; got 8.0"),
        ("models.first.dense", 128, "expected a list of integers from 1 to 1000000; got 128"),
        ("models.first.dense", [1, -3], f"{COUNT}; got -3"),
        ("models.first.batch_norm", "conv", "expected a list of conv, flatten and dense; got 'conv'"),
        ("models.first.batch_norm", ["convv"], "'convv'; did you mean 'conv'? known: conv, flatten, dense"),
        ("models.first.batch_norm", ["conv", "conv"], "expected each entry once; got ['conv', 'conv']"),
        ("models", {}, "expected at least one named entry; got {}"),
        ("models", ["first"], "expected at least one named entry; got ['first']"),
        ("models", {"First": 1}, f"{NAMES}; got 'First'"),
        ("models", {1: 1}, f"{NAMES}; got 1"),
        ("augmentations", {"../x": 1}, f"{NAMES}; got '../x'"),
        *(("augmentations", {name: 1}, f"{ENDS}; got '{name}'") for name in ("turn_low", "turn_high", "turn_sd")),
        ("study.seeds", [], f"{SEEDS}; got []"),
        ("study.seeds", 42, f"{SEEDS}; got 42"),
        ("study.seeds", [42, 42], "expected each entry once; got [42, 42]"),
        ("study.seeds", [42, -1], "expected an integer from 0 to 2147483647; got -1"),
        ("study.seeds", [42, True], "expected an integer from 0 to 2147483647; got True"),
        ("study.seeds", ["42"], "expected an integer from 0 to 2147483647; got '42'"),
        ("prune.seeds", [], f"{SEEDS}; got []"),
        ("prune.epochs", 1.0, "expected an integer from 1 to 100000; got 1.0"),
        ("prune.epochs", [1, 1, 100_001], "expected an integer from 1 to 100000; got 100001"),
        ("prune.epochs", [1, 2], f"{PER_SPARSITY}; got [1, 2]"),
        ("prune.learning_rate", [1, 2], f"{PER_SPARSITY}; got [1, 2]"),
        ("prune.learning_rate", 0, "expected a number in (0, 100]; got 0"),
        ("prune.learning_rate", [1, 1, "2"], "expected a number in (0, 100]; got '2'"),
        ("prune.rankings", [], "expected a list of uniform, lamp, cost; got []"),
        ("prune.rankings", ["lamb"], "unknown value 'lamb'; did you mean 'lamp'? known: uniform, lamp, cost"),
        ("prune.shrunk_rankings", [], "expected a list of uniform, lamp, cost; got []"),
        ("prune.shrunk_rankings", "cost", "expected a list of uniform, lamp, cost; got 'cost'"),
        ("prune.shrunk_rankings", ["costs"], "'costs'; did you mean 'cost'? known: uniform, lamp, cost"),
        ("prune.shrunk_shares", 0.5, "expected a list of numbers in (0, 1); got 0.5"),
        ("prune.shrunk_shares", [1], "expected a number in (0, 1); got 1"),
        ("prune.shrunk_shares", [0.5, 0.5], "expected each entry once; got [0.5, 0.5]"),
        ("prune.sparsities", [], "expected a list of numbers in (0, 1); got []"),
        ("prune.sparsities", 0.5, "expected a list of numbers in (0, 1); got 0.5"),
        ("prune.sparsities", [0.5, 1], "expected a number in (0, 1); got 1"),
        ("prune.sparsities", [0.5, 0.8, 0.8], "expected rising numbers, each once; got [0.5, 0.8, 0.8]"),
        ("prune.sparsities", [0.8, 0.5], "expected rising numbers, each once; got [0.8, 0.5]"),
        ("shrink.macs_shares", [0.25, 0.5], "expected falling numbers, each once; got [0.25, 0.5]"),
        ("shrink.macs_shares", [1.0], "expected a number in (0, 1); got 1.0"),
        ("shrink.filters", "random", "expected a list of magnitude, random and scratch; got 'random'"),
        ("dataset.class_names", [], f"{CLASSES}; got []"),
        ("dataset.class_names", ["only"], f"{CLASSES}; got ['only']"),
        ("dataset.class_names", [f"class {label}" for label in range(257)], f"{CLASSES}; got 257 entries"),
        ("dataset.class_names", ["a", 1], 'expected a word; got 1; write ["a","1"]'),
        ("dataset.class_names", [0, 1], 'expected a word; got 0; write ["0","1"]'),
        ("dataset.class_names", ["é", True], 'expected a word; got True; write ["é","true"]'),
        ("dataset.name", 2.5, 'expected a name; got 2.5; write "2.5"'),
        *(("dataset.source", path, f"{FOLDER}; got {path!r}") for path in ("", "/", "a/", "~/a", "${b}", " a", "a\\b")),
        ("dataset.source", None, f"{FOLDER}; got None"),
        ("dataset.fit", "padd", "unknown value 'padd'; did you mean 'pad'? known: pad, crop, stretch, garment"),
        ("dataset.files", None, "expected the SHA-256 of four files, as dataset.source is data/download; got None"),
        ("prepare.bad_pictures", "leaveout", "unknown value 'leaveout'; did you mean 'leave_out'? known: stop, leave"),
        ("study.augmentations", [1, None], "expected a word; got 1"),
        ("dataset.class_names", ["Coat", "Bag", "Coat"], "expected each entry once; got ['Coat', 'Bag', 'Coat']"),
        ("dataset.files.train-images-idx3-ubyte", "a" * 63, f"expected the SHA-256 of the .*; got '{'a' * 63}'"),
        ("dataset.files.train-images-idx3-ubyte", "A" * 64, "64 hexadecimal digits; got 'AAA"),
        ("dataset.files.t10k-labels-idx1-ubyte", "g" * 64, "64 hexadecimal digits; got 'ggg"),
        ("dataset.files.t10k-labels-idx1-ubyte", int("1" * 64), "64 hexadecimal digits; got 111"),  # without quotes
        ("study.models", [], "expected a list of at least one name; got []"),
        ("study.models", "first", "expected a list of at least one name; got 'first'"),
        ("study.models", ["frist"], "'frist'; did you mean 'first'? known: first, second, third, fourth"),
        ("study.models", ["first", "first"], "expected each entry once; got ['first', 'first']"),
        ("study.augmentations", [None], "expected a word; got None"),
        ("study.augmentations", ["wild"], "'wild'; did you mean 'mild'? known: none, strong, mild, flip, sharp"),
        ("deploy.prefer", "sped", "unknown value 'sped'; did you mean 'speed'? known: size, speed"),
        ("train.optimizer", "Adam", "unknown value 'Adam'; did you mean 'adam'? known: adam, adamw, muon, sgd"),
        ("train.optimizer", None, "unknown value None; known: adam, adamw, muon, sgd"),
        ("train.optimizer", ["adam"], "unknown value ['adam']; did you mean 'adam'?"),
        ("train.class_weights", "balance", "'balance'; did you mean 'balanced'? known: none, balanced"),
        ("train.class_weights", None, "unknown value None; did you mean 'none'? known: none, balanced"),
        *(("dataset.channels", value, f"unknown value {value!r}; known: 1, 3") for value in (2, 4, "rgb", None)),
        ("ship.metric", "f1", "unknown value 'f1'; known: accuracy, balanced_accuracy, macro_f1"),
        ("select_model.metric", "acuracy", "'acuracy'; did you mean 'accuracy'? known: accuracy,"),
        ("train.schedule", "one-cycle", "'one-cycle'; did you mean 'one_cycle'? known: one_cycle, constant"),
        ("train.precision", "float16", "'float16'; did you mean 'bfloat16'? known: auto, bfloat16, float32"),
        ("prepare.leave_out", None, f"{CSV}; got None"),
        ("prepare.leave_out", "/a/b.csv", f"{CSV}; got '/a/b.csv'"),
        ("prepare.leave_out", "../a.csv", f"{CSV}; got '../a.csv'"),
        ("prepare.leave_out", "${seed}.csv", f"{CSV}; got '${{seed}}.csv'"),
        ("prepare.leave_out", "a.txt", f"{CSV}; got 'a.txt'"),
        ("download.sources", [], "expected a list of at least one source; got []"),
        ("download.sources", "https://host", "expected a list of at least one source; got 'https://host'"),
        ("download.sources", ["folder:a", "ftp://b"], f"{SOURCE}; got 'ftp://b'"),
        ("download.sources", ["https:///a"], f"{SOURCE}; got 'https:///a'"),
        ("download.sources", ["apt:-y"], f"{SOURCE}; got 'apt:-y'"),
        ("download.sources", ["folder:"], f"{SOURCE}; got 'folder:'"),
        ("download.sources", ["folder:a", "folder:a"], "expected each entry once; got ['folder:a', 'folder:a']"),
    ],
)
def test_an_unsound_value_is_refused_and_shown(key: str, value: object, message: str) -> None:
    refused = refusal({key: value})

    assert refused.startswith(f"{key}: ")
    assert re.search(re.escape(message).replace(r"\.\*", ".*"), refused)


# Seeds


@pytest.mark.parametrize("section", ["prune", "shrink"])
@pytest.mark.parametrize("seeds", [[42], [42, 7], [42, 9, 7]])
def test_some_of_the_seeds_are_compressed_the_first_one_among_them(section: str, seeds: list[int]) -> None:
    key = f"{section}.seeds"

    assert look_up(check_edited({"study.seeds": [42, 7, 9], key: seeds}), key) == tuple(seeds)


@pytest.mark.parametrize("section", ["prune", "shrink"])
@pytest.mark.parametrize("seeds", [[7], [7, 42], [42, 8]])
def test_seeds_that_are_not_of_the_study_or_without_its_first_one_are_refused(section: str, seeds: list[int]) -> None:
    assert refusal({"study.seeds": [42, 7], f"{section}.seeds": seeds}) == (
        f"{section}.seeds: expected some of study.seeds [42, 7], the first of them (42) first; got {seeds}"
    )


def test_a_split_by_seed_keeps_the_prepared_one_for_the_first_seed() -> None:
    edit = {"study.split_by_seed": True, "study.seeds": [7, 42], "prune.seeds": [7], "shrink.seeds": [7]}
    assert refusal(edit) == (
        "study.split_by_seed: with true, expected `seed` (42) first in study.seeds, for it has the validation images "
        "by which a file is shipped; got [7, 42]"
    )
    assert check_edited({"study.split_by_seed": True, "study.seeds": [42, 7]}).study.split_by_seed


# Shrunk networks that are pruned

SHRUNK = {"prune.shrunk_shares": [0.25], "shrink.macs_shares": [0.5, 0.25]}


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (
            {"prune.shrunk_shares": [0.25, 0.3]},
            "prune.shrunk_shares: expected some of shrink.macs_shares [0.5, 0.25], whose networks are pruned, or [] as "
            "prune.shrunk_shares; got [0.25, 0.3]",
        ),
        (
            {"study.seeds": [42, 7], "prune.seeds": [42, 7]},
            "prune.seeds: expected some of shrink.seeds [42], whose networks are pruned, or [] as "
            "prune.shrunk_shares; got [42, 7]",
        ),
        (
            {"shrink.filters": ["random"]},
            "shrink.filters: expected magnitude among them, whose networks are pruned, or [] as prune.shrunk_shares; "
            "got ['random']",
        ),
    ],
    ids=["share", "seed", "filters"],
)
def test_a_shrunk_network_that_will_not_be_there_cannot_be_pruned(edits: dict[str, Any], message: str) -> None:
    assert refusal(SHRUNK | edits) == message
    assert "magnitude-" not in "".join(check_edited(SHRUNK | edits | {"prune.shrunk_shares": []}).prune.ladders)


def test_ladders_are_named_by_what_is_pruned_and_how() -> None:
    edits = {"prune.rankings": ["lamp", "cost"], "prune.shrunk_shares": [0.5, 0.25], "prune.shrunk_rankings": ["cost"]}

    prune = check_edited(SHRUNK | edits).prune

    assert prune.ladders == ["finished-lamp", "finished-cost", "magnitude-0.5-cost", "magnitude-0.25-cost"]
    assert prune.ways == ["lamp", "cost", "magnitude-0.5-cost", "magnitude-0.25-cost"]


# Architectures


def test_an_image_may_have_one_pixel_where_no_model_pools() -> None:
    model = {
        "blocks": [],
        "separable": False,
        "residual": False,
        "global_pool": False,
        "dense": [],
        "batch_norm": [],
        "dropout": 0,
    }

    params = check_edited({"dataset.image_size_px": 1, "models": {"m": model}, "study.models": ["m"]})

    assert params.dataset.image_size_px == 1


def test_as_many_pools_are_accepted_as_leave_a_pixel() -> None:
    assert check_edited({"models.first.blocks": [[1]] * 4}).models["first"].blocks == ((1,),) * 4
    assert refusal({"models.first.blocks": [[1]] * 5}) == (
        "models.first.blocks: block 5 of 5 pools an image of 1 x 1 pixels to below 1 pixel; "
        "use at most 4 blocks for an image of 28 pixels"
    )


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (
            {"residual": True, "blocks": [[8], [8, 8]]},
            "blocks: block 2 of 2: expected an odd number of convolutions with residual: one, then pairs; got [8, 8]",
        ),
        (
            {"residual": True, "blocks": [[8, 8, 4]]},
            "blocks: block 1 of 1: expected 8 filters in convolution 3 with residual, as many as enter its pair; "
            "got [8, 8, 4]",
        ),
        (
            {"global_pool": True, "blocks": [], "batch_norm": []},
            "blocks: expected at least one block with global_pool, which ends the last one; got []",
        ),
        (
            {"global_pool": True, "batch_norm": ["conv", "flatten"]},
            "batch_norm: expected no flatten with global_pool, which leaves nothing to flatten; "
            "got ['conv', 'flatten']",
        ),
    ],
    ids=["pairs", "filters", "no block", "flatten"],
)
def test_an_architecture_that_contradicts_itself_is_refused_at_the_key_that_is_wrong(
    edits: dict[str, Any], message: str
) -> None:
    assert refusal({f"models.first.{key}": value for key, value in edits.items()}) == f"models.first.{message}"


def test_a_dense_layer_that_would_be_huge_is_refused_with_the_remedy() -> None:
    edits = {"dataset.image_size_px": 96, "study.models": ["third"]}

    assert refusal(edits) == (
        "models.third.blocks: expected at most 8,000,000 weights in each dense layer; got 9,437,184 in dense1 (the "
        "last pool leaves 24 x 24 x 128 values); add blocks, which halve height and width, set global_pool: true, or "
        "take fewer filters or dense units"
    )
    assert check_edited(edits | {"models.third.blocks": [[32, 64], [64, 128], [128]]})
    assert check_edited(edits | {"models.third.global_pool": True})
    assert check_edited(edits | {"study.models": ["seventh"]}).study.models == ("seventh",)
    assert refusal(edits | {"models.third.blocks": [[8]] * 6, "models.third.dense": [3000, 3000]}).startswith(
        "models.third.blocks: expected at most 8,000,000 weights in each dense layer; got 9,000,000 in dense2"
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size_px", [32, 33, 48, 64, 96])
def test_the_seventh_model_takes_pictures_of_32_to_96_pixels(size_px: int, channels: int) -> None:
    edits = {
        "dataset.image_size_px": size_px,
        "dataset.channels": channels,
        "dataset.fit": "pad",
        "study.models": ["seventh"],
    }

    assert check_edited(edits).dataset.channels == channels


def test_every_model_is_checked_even_if_the_study_does_not_name_it() -> None:
    edits = {"study.models": ["first"], "models.fourth.dropout": 1}

    assert refusal(edits) == "models.fourth.dropout: expected a number in [0, 1); got 1"


def test_a_name_is_found_among_the_known_ones_or_refused_with_the_nearest() -> None:
    assert find_name("b", ["a", "b"], "letter") == "b"
    with pytest.raises(UserError, match=r"^model: unknown name 'frist'; did you mean 'first'\? known: first, second$"):
        find_name("frist", ["first", "second"], "model")


# The file and its YAML


def test_a_refusal_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(COMMITTED.read_text().replace("seed: 42", "seed: -1"))

    with pytest.raises(UserError) as caught:
        load_params(path)

    assert str(caught.value) == f"{path}: seed: expected an integer from 0 to 2147483647; got -1"


def test_a_missing_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/absent\.yaml: not found; run this from the top of the repository$"):
        load_params(tmp_path / "absent.yaml")


@pytest.mark.parametrize("key", ["seed", "  epochs", "    dense", "  third"])
def test_a_key_that_is_given_twice_is_refused(tmp_path: Path, key: str) -> None:
    path, text = tmp_path / "params.yaml", COMMITTED.read_text()
    assert f"\n{key}:" in text
    path.write_text(text.replace(f"\n{key}:", f"\n{key}: 1\n{key}:", 1))

    with pytest.raises(UserError, match=rf"params\.yaml: {key.strip()}: given twice in one section, near line \d+;"):
        load_params(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"seed: [1", "no valid YAML: .*expected ',' or ']'"),
        (b"seed: 1\n\tdataset: 2", r"no valid YAML: .*found character '\\t'"),
        (b"seed: \xff", "no valid YAML: .*invalid start byte"),
        (b"seed: !!float word", "no valid YAML: .*'word'"),
        (b"seed: !!python/object:os.system {}", "no valid YAML: .*could not determine a constructor"),
        (b"a: 1\nseed: !!int word", "line 2: expected an integer; got 'word'$"),
    ],
)
def test_a_file_that_is_no_yaml_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)

    with pytest.raises(UserError, match=rf"(?s)^{re.escape(str(path))}: {message}"):
        load_params(path)


def test_scalars_are_read_as_dvc_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "scalars.yaml"
    path.write_text(
        "- [1e-05, 1E3, 1.5e3, 1.e3, 1., .5, -.5, +.5, .5e+3, 1e, 1e+, ., 1.2.3]\n"
        "- [0, -0, +1, -1, 012, 08, 0o17, 0o8, 0x1F, 0x1f, 0xG, _1, 12:30:45, 1:30]\n"
        "- [yes, no, on, off, y, n, Yes, No, true, True, TRUE, tRUE, false, False, FALSE]\n"
        "- [null, Null, NULL, nULL, ~, nan, inf, .inf, -.inf, +.inf, .Inf, .INF, .nan, .NaN, .NAN]\n"
        "- ['1', \"1e5\", '', 'null', {no: 1, 1e-05: 2}]\n"
    )

    assert repr(read_yaml(path)) == repr(YAML(typ="safe").load(path))  # the parser of DVC


def test_a_scalar_outside_what_dvc_and_the_core_schema_share_follows_the_core_schema(tmp_path: Path) -> None:
    path = tmp_path / "scalars.yaml"
    path.write_text("[1_000, 0b101, -0x1F, 2026-01-01, .5e3]")

    assert read_yaml(path) == ["1_000", "0b101", "-0x1F", "2026-01-01", 500.0]
    assert all(ours != dvcs for ours, dvcs in zip(read_yaml(path), YAML(typ="safe").load(path), strict=True))
