"""The shipped model by its name and version, out of a real S3 server and a real Git repository."""

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from pipeline import commit, dvc, edit_params, run_commands
from servers import add_origin, serve_s3

MODEL = "data/ship/model.tflite"


@pytest.fixture
def team(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Is a clone whose remote and origin are set up; the secrets are in the environment."""
    (tmp_path / "s3").mkdir()
    with serve_s3(tmp_path / "s3") as port:
        variables = {
            "BUCKET": "team",
            "ENDPOINT": f"http://127.0.0.1:{port}",
            "REPOSITORY": str(tmp_path / "origin"),
            "AWS_ACCESS_KEY_ID": "team",
            "AWS_SECRET_ACCESS_KEY": "s3-secret",
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        run_commands(copy, "share-s3")
        commit(copy)
        add_origin(copy)
        yield copy


def test_model_is_published_and_fetched_by_stage_and_version(team: Path, tmp_path: Path) -> None:
    first, c = (team / MODEL).read_bytes(), (team / "data/ship/model.c").read_bytes()
    assert "fashion-classifier" in run_commands(team, "publish")
    flash_bytes = json.loads((team / "data/ship/model.json").read_text())["device"]["flash_bytes"]
    edit_params(team, ship={"max_flash_bytes": flash_bytes - 1})
    dvc(team, "repro", "ship")
    second = (team / MODEL).read_bytes()
    assert second != first
    commit(team)
    assert "v0.0.2" in run_commands(team, "publish")

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run_commands(elsewhere, "fetch-model")
    assert (elsewhere / "first.tflite").read_bytes() == first
    assert (elsewhere / "model.c").read_bytes() == c
    assert (elsewhere / "model.tflite").read_bytes() == second
    assert json.loads((elsewhere / "model.json").read_text())["sha256"] == sha256(first).hexdigest()


def test_name_that_was_never_published_is_one_message(copy: Path) -> None:
    printed = dvc(copy, "artifacts", "get", str(add_origin(copy)), "fashion-classifier", status=1)
    assert "Unable to find artifact 'fashion-classifier'" in printed
    assert "Traceback" not in printed
