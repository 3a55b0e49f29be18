import csv
import dataclasses
import sys
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sections import replace

from stages import deploy as stage
from stages.lib.device.compiler import compile_to_c
from stages.lib.errors import UserError
from stages.lib.litert.convert import convert_to_float32, convert_to_int8
from stages.lib.network.architecture import list_layers
from stages.lib.network.keras2 import keras
from stages.lib.network.model import build_model
from stages.lib.params.load import load_params
from stages.lib.params.sections import DeployParams, Params
from stages.lib.running.machine import read_cpu_name
from stages.lib.storage.files import read_json, write_arrays, write_bytes, write_json
from stages.lib.target.emulator import Run, count_instructions, run_on_processor
from stages.lib.target.micro import measure_arena

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 6, 6), np.uint8)
NAMES = ("A", "B", "C")
LATENCY = {"num_threads": 1, "c": {"median_ms": 0.1}}


def make_network(zeros: float) -> keras.Model:
    """Builds a small network, of whose weights a share is zero, but for the first and last kernel."""
    model = build_model(list_layers(6, 3, [[8, 16]], False, False, False, [16], ["conv"], 0), 0)
    for layer in model.layers[3:-1]:
        if layer.get_weights() and layer.get_weights()[0].ndim > 1:
            kernel, *others = layer.get_weights()
            kernel[np.abs(kernel) < np.quantile(np.abs(kernel), zeros)] = 0
            layer.set_weights([kernel, *others])
    return model


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Holds LiteRT files: int8 of a dense and of a pruned network, and float32 of the dense one."""
    dense, pruned = make_network(0), make_network(0.9)
    return {
        "dense": convert_to_int8(dense, IMAGES, 8),
        "pruned": convert_to_int8(pruned, IMAGES, 8),
        "float32": convert_to_float32(dense),
    }


@pytest.fixture
def params() -> Params:
    loaded = load_params()
    dataset = replace(loaded.dataset, class_names=NAMES)
    return replace(loaded, dataset=dataset, deploy=DeployParams(prefer="speed", images=4))


def write_exports(files: Mapping[str, bytes]) -> None:
    """Writes exported files of finish and prune, and validation images, into the working directory."""
    write_arrays(Path("data/prepare/val.npz"), images=IMAGES, labels=np.zeros(len(IMAGES), np.uint8))
    for name, content in (("finish/finished", "dense"), ("prune/lamp-0.9", "pruned"), ("prune/lamp-0.5", "dense")):
        write_bytes(Path(f"data/export/{name}/int8.tflite"), files[content])
        write_bytes(Path(f"data/export/{name}/float32.tflite"), files["float32"])
        write_json(Path(f"data/export/{name}/metrics.json"), {})


@pytest.fixture
def folder(params: Params, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Is a folder in which the stage finds exported files, and in which nothing is timed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stage, "load_params", lambda **_: params)
    monkeypatch.setattr(stage, "measure_latency_in_fresh_process", lambda *_: LATENCY)
    monkeypatch.setattr(sys, "argv", ["deploy", "prune"])
    write_exports(files)
    return tmp_path


def read_outputs(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("data/deploy/*/*/*"))}


def test_each_int8_file_becomes_c_with_what_it_costs(
    folder: Path, files: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    stage.main()

    output = folder / "data/deploy/prune"
    assert {path.name for path in output.iterdir()} == {"lamp-0.5", "lamp-0.9"}
    for name, content in (("lamp-0.5", files["dense"]), ("lamp-0.9", files["pruned"])):
        written = output / name
        assert {path.name for path in written.iterdir()} == {"model.c", "model.h", "layers.csv", "metrics.json"}
        code = compile_to_c(content, NAMES, "speed")
        assert ((written / "model.c").read_text(), (written / "model.h").read_text()) == (code.source, code.header)
        metrics = read_json(written / "metrics.json")
        assert (metrics["macs"], metrics["dense_macs"]) == (code.macs, code.dense_macs)
        pixels = 256  # the table of `model_classify`, which `model_run` does not need
        assert metrics["flash_bytes"] > metrics["code_bytes"] + metrics["weights_bytes"] - pixels
        assert metrics["ram_bytes"] == 6 * 6 + 3 + code.buffer_bytes + metrics["stack_bytes"]
        assert metrics["compared_images"] == 4
        assert metrics["tflite_micro_arena_bytes"] == measure_arena(content).total_bytes
        rows = list(csv.DictReader((written / "layers.csv").read_text().splitlines()))
        assert sum(int(row["macs"]) for row in rows) == metrics["macs"]
    dense, pruned = (read_json(output / name / "metrics.json") for name in ("lamp-0.5", "lamp-0.9"))
    for name in ("macs", "flash_bytes", "weights_bytes", "instructions_cortex_m4", "instructions_cortex_m0plus"):
        assert pruned[name] < dense[name]
    assert pruned["dense_macs"] == dense["dense_macs"]
    assert capsys.readouterr().out.splitlines()[0] == (
        f"data/deploy/prune/lamp-0.5: {dense['flash_bytes']:,} bytes of flash, {dense['ram_bytes']:,} of RAM, "
        f"{dense['instructions_cortex_m4']:,} instructions on a Cortex-M4"
    )
    first = read_outputs(folder)
    stage.main()
    assert read_outputs(folder) == first


def test_the_finished_model_has_a_control_that_skips_no_zero(
    folder: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["deploy", "finish"])
    write_bytes(folder / "data/export/finish/finished/int8.tflite", files["pruned"])

    stage.main()

    metrics = read_json(folder / "data/deploy/finish/finished/metrics.json")
    assert metrics["control_macs"] == metrics["dense_macs"] > metrics["macs"]
    for name in ("flash_bytes", "instructions_cortex_m4", "instructions_cortex_m0plus"):
        assert metrics[f"control_{name}"] > metrics[name]
    assert metrics["control_ram_bytes"] > metrics["image_bytes"] + metrics["buffer_bytes"]


def test_a_dense_model_is_its_own_control(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["deploy", "finish"])

    stage.main()

    metrics = read_json(folder / "data/deploy/finish/finished/metrics.json")
    names = ("macs", "flash_bytes", "ram_bytes", "instructions_cortex_m4", "instructions_cortex_m0plus")
    assert {name: metrics[f"control_{name}"] for name in names} == {name: metrics[name] for name in names}


@pytest.mark.parametrize(("wrong_processor", "wrong_image"), [("cortex_m4", 0), ("cortex_m0plus", 0), ("cortex_m4", 2)])
def test_a_processor_that_answers_otherwise_stops_the_stage(
    folder: Path, monkeypatch: pytest.MonkeyPatch, wrong_processor: str, wrong_image: int
) -> None:

    def count_wrongly(*given: Any) -> Run:
        result = count_instructions(*given)
        is_wrong = (given[2], 0) == (wrong_processor, wrong_image)
        return dataclasses.replace(result, logits=result.logits + np.int8(is_wrong))

    def run_wrongly(*given: Any) -> np.ndarray:
        return run_on_processor(*given) + (np.arange(4) == wrong_image).astype(np.int8)[:, np.newaxis]

    monkeypatch.setattr(stage, "count_instructions", count_wrongly)
    monkeypatch.setattr(stage, "run_on_processor", run_wrongly)

    with pytest.raises(UserError, match=rf"int8\.tflite: .* on a {wrong_processor}, .* on 1 of [14] validation images"):
        stage.main()

    assert not list(folder.glob("data/deploy/prune/*/metrics.json"))


def test_the_sixth_model_fits_into_64_kib_of_flash_and_32_kib_of_ram(params: Params, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
    network = build_model(list_layers(28, 10, **params.models["sixth"].model_dump()), 0)
    path = tmp_path / "int8.tflite"
    path.write_bytes(convert_to_int8(network, images, 7))

    deployed = stage.deploy_model(path, load_params().dataset.class_names, "speed", images[:1], has_control=False)

    assert deployed.metrics["flash_bytes"] < 64 * 1024
    assert deployed.metrics["ram_bytes"] < 32 * 1024


def test_what_export_left_out_is_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "data/export/prune/lamp-0.5/int8.tflite").unlink()
    (folder / "data/export/finish/finished/int8.tflite").unlink()

    stage.main()
    monkeypatch.setattr(sys, "argv", ["deploy", "finish"])
    stage.main()

    assert [path.name for path in (folder / "data/deploy/prune").iterdir()] == ["lamp-0.9"]
    assert list((folder / "data/deploy/finish").iterdir()) == []


def test_the_c_is_timed_last_beside_the_files_that_there_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "data/export/prune/lamp-0.9/float32.tflite").unlink()
    timed = []

    def time(_program: object, library: bytes, paths: dict[str, Path]) -> dict[str, object]:
        assert library[:4] == b"\x7fELF"
        assert len(list(folder.glob("data/deploy/prune/*/metrics.json"))) == 2
        timed.append({name: str(path) for name, path in paths.items()})
        return LATENCY

    monkeypatch.setattr(stage, "measure_latency_in_fresh_process", time)

    stage.main()

    prune = "data/export/prune"
    both = {"int8": f"{prune}/lamp-0.5/int8.tflite", "float32": f"{prune}/lamp-0.5/float32.tflite"}
    assert timed == [both, {"int8": f"{prune}/lamp-0.9/int8.tflite"}]
    for name in ("lamp-0.5", "lamp-0.9"):
        content = (folder / f"data/deploy/prune/{name}/model.c").read_bytes()
        identity = {"sha256": sha256(content).hexdigest(), "cpu": read_cpu_name()}
        assert read_json(folder / f"data/timing/c/prune/{name}.json") == identity | LATENCY


@pytest.mark.usefixtures("folder")
def test_a_missing_export_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["deploy", "shrink"])

    with pytest.raises(UserError, match="data/export/shrink: not found; run `dvc repro`"):
        stage.main()


def test_a_file_that_is_damaged_is_refused(folder: Path) -> None:
    (folder / "data/export/prune/lamp-0.5/int8.tflite").write_bytes(b"no model")

    with pytest.raises(UserError, match=r"data/export/prune/lamp-0\.5/int8\.tflite: no LiteRT model of this project"):
        stage.main()
