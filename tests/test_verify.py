import re
from dataclasses import replace as replace_in
from pathlib import Path

import numpy as np
import pytest
from sections import replace

from stages import verify as stage
from stages.lib.device.compiler import Code, compile_to_c
from stages.lib.errors import UserError
from stages.lib.litert.convert import convert_to_int8
from stages.lib.litert.runtime import predict_outputs, read_interpreter, to_model_input
from stages.lib.network.architecture import list_layers
from stages.lib.network.model import build_model
from stages.lib.params.load import load_params
from stages.lib.params.sections import DeployParams
from stages.lib.storage.files import read_json, write_arrays, write_bytes
from stages.lib.target.build import Optimization, Processor, build_for_processor
from stages.lib.target.micro import run_on_micro
from stages.lib.target.program import Program

IMAGES = np.random.default_rng(0).integers(0, 256, (130, 6, 6), np.uint8)
CLASSES = ("A", "B", "C")
LABELS = (np.arange(len(IMAGES)) % 3).astype(np.uint8)


def write_c(code: Code) -> None:
    """Writes what the stage reads of the shipped C."""
    write_bytes(Path("data/ship/model.c"), code.source.encode())
    write_bytes(Path("data/ship/model.h"), code.header.encode())


def convert(seed: int) -> bytes:
    """Makes an int8 file of a small network with random weights."""
    return convert_to_int8(
        build_model(list_layers(6, 3, [[8, 16]], False, False, False, [16], ["conv"], 0), seed), IMAGES[:20], 8
    )


@pytest.fixture(scope="module")
def content() -> bytes:
    return convert(0)


@pytest.fixture(scope="module")
def other() -> Code:
    """Is the C of another network."""
    return compile_to_c(convert(1), CLASSES, "speed")


@pytest.fixture
def folder(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Is a folder in which the stage finds a shipped int8 file and its C."""
    params = replace(load_params(), deploy=DeployParams(prefer="speed", images=1))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stage, "load_params", lambda **_: params)
    write_bytes(Path("data/ship/model.tflite"), content)
    write_c(compile_to_c(content, CLASSES, "speed"))
    write_arrays(Path("data/prepare/test.npz"), images=IMAGES, labels=LABELS)
    return tmp_path


def test_what_each_runtime_answers_is_compared_and_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage.main()

    shipped = folder / "data/ship/model.tflite"
    usual, reference = (
        predict_outputs(read_interpreter(shipped, 1, 1, is_reference=is_reference), IMAGES)
        for is_reference in (False, True)
    )
    given = to_model_input(read_interpreter(shipped, 1, 1), IMAGES[:100])
    micro = run_on_micro(shipped.read_bytes(), given)
    other_classes = int((usual.argmax(axis=1) != reference.argmax(axis=1)).sum())
    assert read_json(folder / "data/verify/metrics.json") == {
        "images": 130,
        "different_from_reference": 0,
        "test_accuracy": float(np.mean(reference.argmax(axis=1) == LABELS)),
        "xnnpack_different_logits": int((usual != reference).any(axis=1).sum()),
        "xnnpack_different_classes": other_classes,
        "emulated_images": 100,
        "tflite_micro_different_logits": int((micro != reference[:100]).any(axis=1).sum()),
    }
    assert capsys.readouterr().out.startswith(
        "data/verify: the C gives on all 130 test images what the reference gives"
    )


def test_the_same_file_gives_the_same_bytes(folder: Path) -> None:
    stage.main()
    first = (folder / "data/verify/metrics.json").read_bytes()
    stage.main()

    assert (folder / "data/verify/metrics.json").read_bytes() == first


def test_images_that_differ_are_found() -> None:
    expected = np.array([[1, 2], [3, 4], [5, 6]], np.int8)

    assert stage.find_different(expected, expected).tolist() == []
    assert stage.find_different(np.array([[1, 2], [3, 5], [6, 6]], np.int8), expected).tolist() == [1, 2]


def test_c_that_differs_from_the_reference_fails_with_the_first_image(folder: Path, other: Code) -> None:
    write_c(other)

    message = r"model\.tflite: expected the C to give .* what the reference gives; .* of 130, first on image 0: \["
    with pytest.raises(UserError, match=message):
        stage.main()
    assert not (folder / "data/verify").exists()


@pytest.mark.usefixtures("folder")
def test_c_that_a_processor_runs_otherwise_fails(other: Code, monkeypatch: pytest.MonkeyPatch) -> None:
    def build_other(program: Program, processor: Processor, optimization: Optimization) -> bytes:
        source = program.source if processor == "cortex_m4" else other.source
        return build_for_processor(replace_in(program, source=source), processor, optimization)

    monkeypatch.setattr(stage, "build_for_processor", build_other)

    with pytest.raises(UserError, match=r"expected the C on cortex_m0plus to give .* what the C here gives"):
        stage.main()


@pytest.mark.parametrize("count", [1, 19, 20, 21, 130])
def test_parts_run_on_all_cpus_are_joined_in_order(count: int) -> None:
    images = np.arange(count)[:, np.newaxis]

    assert stage.run_on_all_cpus(lambda part: part + 1, images, "shown").tolist() == (images + 1).tolist()


@pytest.mark.parametrize("name", ["model.tflite", "model.c", "model.h"])
def test_a_missing_file_is_refused(folder: Path, name: str) -> None:
    (folder / "data/ship" / name).unlink()

    with pytest.raises(UserError, match=rf"data/ship/{re.escape(name)}: not found"):
        stage.main()


def test_a_header_that_does_not_say_what_a_caller_needs_is_refused(folder: Path) -> None:
    header = folder / "data/ship/model.h"
    header.write_text(header.read_text().replace("MODEL_BUFFER_BYTES ", "MODEL_BYTES "))

    with pytest.raises(UserError, match=r"data/ship/model\.h: expected to find MODEL_BUFFER_BYTES defined"):
        stage.main()
