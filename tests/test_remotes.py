"""Artifacts in teams: real servers, real clones, and the commands of the README as they are written there."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from pipeline import MODELS, commit, dvc, edit_params, list_stages_to_run, run, run_commands
from servers import Wire, add_origin, lay_wire, serve_s3, serve_ssh, serve_webdav

SERVERS = {"s3": serve_s3, "ssh": serve_ssh, "webdav": serve_webdav}
WRONG_SECRETS = {
    "s3": ({"SECRET": "wrong"}, "403"),
    "ssh": ({"KEY_FILE": "{server}/wrong_key"}, "Permission denied"),
    "webdav": ({"PASSWORD": "wrong"}, "401 (Not Authorized)"),
}
MODEL = "data/ship/model.tflite"  # also a file of the folder data/export/..., which is an output of its own
THIN = "data/train/thin-none/42/model.h5"
BROKEN_OFF = (1, 255)  # DVC ends with 255 where the list of a folder was on its way
HALF = 25_000_000  # bytes; all files of the crumb together have 55 million


@dataclass(frozen=True)
class Team:
    """A clone, and what it has pushed everything to: a server, which runs in a folder behind a wire, and an origin."""

    kind: str
    server: Path
    ours: Path
    origin: Path
    wire: Wire

    def join(self, folder: Path) -> Path:
        """Clones the repository and gives the clone the secrets, as a teammate does."""
        run(folder, "git", "clone", "--quiet", str(self.origin), "theirs")
        run_commands(folder / "theirs", f"secrets-{self.kind}")
        return folder / "theirs"


def list_variables(kind: str, folder: Path, port: int) -> dict[str, str]:
    """Lists the variables of the README's commands for a server that runs in `folder`."""
    host = f"127.0.0.1:{port}"
    return {
        "s3": {"BUCKET": "team", "ENDPOINT": f"http://{host}", "KEY_ID": "team", "SECRET": "s3-secret"},
        "ssh": {"HOST": host, "FOLDER": f"{folder}/storage", "KEY_FILE": f"{folder}/key"},
        "webdav": {"HOST": host, "FOLDER": "team", "NAME": "team", "PASSWORD": "webdav-secret"},
    }[kind]


@pytest.fixture(scope="module", params=SERVERS)
def team(request: pytest.FixtureRequest, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    kind = request.param
    base = tmp_path_factory.mktemp(kind)
    (base / kind).mkdir()
    ours = Path(shutil.copytree(finished, base / "ours", symlinks=True))
    with ExitStack() as stack:
        wire = stack.enter_context(lay_wire(stack.enter_context(SERVERS[kind](base / kind))))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in list_variables(kind, base / kind, wire.port).items():
            patch.setenv(name, value)
        patch.setenv("AWS_MAX_ATTEMPTS", "1")  # no minute of patience with a server that is known to be dead
        run_commands(ours, f"share-{kind}")
        run_commands(ours, "share-commit")
        run_commands(ours, f"secrets-{kind}")
        origin = add_origin(ours)
        run_commands(ours, "share-push")
        yield Team(kind, base / kind, ours, origin, wire)


def read_outputs(folder: Path) -> dict[str, bytes]:
    """Reads every file that dvc.lock declares; there must be one at least for each output."""
    lock = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    outputs = [folder / out["path"] for stage in lock.values() for out in stage.get("outs", [])]
    assert [path for path in outputs if not path.exists()] == []
    files = [path for output in outputs for path in (output.rglob("*") if output.is_dir() else [output])]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.is_file()}


def list_damaged(store: Path) -> list[Path]:
    """Lists the files of a cache or storage whose bytes do not have the MD5 of their names."""
    paths = [path for path in (store / "files/md5").glob("??/*") if path.is_file()]
    return [
        path
        for path in paths
        if hashlib.md5(path.read_bytes()).hexdigest() != path.parent.name + path.name.removesuffix(".dir")  # noqa: S324
    ]


def find_file(store: Path, output: str, folder: Path) -> Path:
    """Finds the file of a cache or storage that holds an output."""
    lock = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    (md5,) = {out["md5"] for stage in lock.values() for out in stage.get("outs", []) if out["path"] == output}
    return store / "files/md5" / md5[:2] / md5[2:]


def damage(path: Path) -> None:
    """Cuts off the end of a file that DVC takes for sound, because it is read-only."""
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size - 1)
    path.chmod(0o444)


def test_teammate_gets_every_byte_and_runs_nothing(team: Team, finished: Path, tmp_path: Path) -> None:
    theirs = team.join(tmp_path)
    printed = run_commands(theirs, "share-pull")
    assert "Data and pipelines are up to date" in printed
    assert read_outputs(theirs) == read_outputs(finished)


def test_wrong_secret_is_named_and_the_right_one_completes(
    team: Team, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Path(shutil.copytree(team.ours, tmp_path / "ours", symlinks=True))
    wrong, cause = WRONG_SECRETS[team.kind]
    with monkeypatch.context() as patch:
        for name, value in wrong.items():
            patch.setenv(name, value.format(server=team.server))
        run_commands(ours, f"secrets-{team.kind}")
    printed = dvc(ours, "push", status=255)
    assert cause in printed
    assert "Traceback" not in printed
    assert list_damaged(ours / ".dvc/cache") == []
    assert read_outputs(ours) == read_outputs(finished)
    run_commands(ours, f"secrets-{team.kind}")
    assert "Everything is up to date" in dvc(ours, "push")


@pytest.mark.parametrize("team", ["s3"], indirect=True)
def test_pull_from_a_server_that_died_is_completed_later(team: Team, finished: Path, tmp_path: Path) -> None:
    theirs = team.join(tmp_path)
    team.wire.cut_after(HALF)
    printed = dvc(theirs, "pull", status=BROKEN_OFF)
    team.wire.mend()
    assert "failed to" in printed
    assert "Traceback" not in printed
    assert list_damaged(theirs / ".dvc/cache") == []
    assert run(theirs, "git", "status", "--porcelain") == ""
    dvc(theirs, "pull")
    assert read_outputs(theirs) == read_outputs(finished)


@pytest.mark.parametrize("team", ["webdav"], indirect=True)
def test_half_a_file_that_a_broken_push_left_behind_is_replaced(team: Team, finished: Path, tmp_path: Path) -> None:
    ours = Path(shutil.copytree(team.ours, tmp_path / "ours", symlinks=True))
    storage = team.server / "storage/empty"
    storage.mkdir()
    dvc(ours, "remote", "modify", "storage", "url", f"webdav://127.0.0.1:{team.wire.port}/empty")
    team.wire.cut_after(HALF)
    printed = dvc(ours, "push", status=BROKEN_OFF)
    team.wire.mend()
    assert "failed to" in printed
    assert "Traceback" not in printed
    assert list_damaged(ours / ".dvc/cache") == []
    dvc(ours, "push")
    assert list_damaged(storage)  # DVC takes it for whole; as many as were on their way when the connection broke
    run_commands(ours, "mend")
    assert list_damaged(storage) == []
    shutil.rmtree(ours / ".dvc/cache/files")
    dvc(ours, "fetch")  # fails where the remote lacks a file
    assert list_damaged(ours / ".dvc/cache") == []
    assert read_outputs(ours) == read_outputs(finished)


@pytest.fixture
def pushed(copy: Path) -> Path:
    """Is a clone that has pushed everything to a folder beside it, `storage`, and to a Git repository."""
    run_commands(copy, "share-folder")
    run_commands(copy, "share-commit")
    add_origin(copy)
    run_commands(copy, "share-push")
    return copy


def test_plain_folder_serves_a_teammate_as_a_server_does(pushed: Path, tmp_path: Path) -> None:
    run(tmp_path, "git", "clone", "--quiet", "origin", "theirs")
    printed = run_commands(tmp_path / "theirs", "share-pull")
    assert "Data and pipelines are up to date" in printed
    assert read_outputs(tmp_path / "theirs") == read_outputs(pushed)


def test_damaged_file_of_the_storage_is_not_taken_for_whole(pushed: Path, tmp_path: Path) -> None:
    damage(find_file(tmp_path / "storage", MODEL, pushed))
    run(tmp_path, "git", "clone", "--quiet", "origin", "theirs")
    assert MODEL in dvc(tmp_path / "theirs", "pull", status=1)
    assert not (tmp_path / "theirs" / MODEL).exists()
    assert list_damaged(tmp_path / "theirs/.dvc/cache") == []


def test_damaged_files_of_cache_storage_and_workspace_are_mended(pushed: Path, finished: Path, tmp_path: Path) -> None:
    cache, storage = pushed / ".dvc/cache", tmp_path / "storage"
    damage(find_file(cache, THIN, pushed))
    damage(find_file(storage, MODEL, pushed))
    (pushed / THIN).unlink()
    dvc(pushed, "checkout")
    assert "up to date" in dvc(pushed, "status", "train@thin-none-42")  # DVC believes the name of the damaged file
    printed = run_commands(pushed, "mend")
    assert str(find_file(cache, THIN, pushed)) in printed
    assert str(find_file(storage, MODEL, pushed)) in printed
    assert list_damaged(cache) == list_damaged(storage) == []
    assert find_file(storage, MODEL, pushed).exists()
    assert read_outputs(pushed) == read_outputs(finished)


def cut_pipeline_after_the_choice(folder: Path) -> None:
    """Leaves of dvc.yaml what leads to the chosen model, of the study one regime: the rest would only take time."""
    pipeline = yaml.safe_load((folder / "dvc.yaml").read_text())
    names = ("validate", "download", "prepare", "complexity", "train", "select_model")
    pipeline = {"stages": {name: pipeline["stages"][name] for name in names}}
    (folder / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
    edit_params(folder, study={"augmentations": ["none"]})


def test_merge_of_two_models_trains_neither_again(copy: Path, tmp_path: Path) -> None:
    cut_pipeline_after_the_choice(copy)
    dvc(copy, "repro")
    run_commands(copy, "share-folder")
    commit(copy)
    add_origin(copy)
    theirs = Path(shutil.copytree(copy, tmp_path / "theirs", symlinks=True))
    for folder, name in ((copy, "tiny"), (theirs, "thin")):
        edit_params(folder, models={name: MODELS[name] | {"dropout": 0.3}})
        dvc(folder, "repro")
        commit(folder)
    run_commands(theirs, "share-push")

    ours = (copy / "dvc.lock").read_bytes()
    assert "CONFLICT" in run_commands(copy, "merge", status=1)
    assert (copy / "dvc.lock").read_bytes() == ours
    printed = run_commands(copy, "merge-finish")
    assert "Stage 'train@thin-none-42' is cached - skipping run" in printed
    assert re.findall(r"Running stage '(.*)'", printed) == ["validate", "complexity@thin", "select_model"]
    merged = yaml.safe_load((copy / "params.yaml").read_text())["models"]
    assert [merged[name]["dropout"] for name in ("tiny", "thin")] == [0.3, 0.3]
    assert (copy / THIN).read_bytes() == (theirs / THIN).read_bytes()
    assert run(copy, "git", "status", "--porcelain") == ""
    assert list_stages_to_run(copy) == []
