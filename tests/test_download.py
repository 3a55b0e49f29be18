import gzip
import hashlib
import io
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from stages import download as stage
from stages.download import download
from stages.lib.errors import UserError
from stages.lib.params.load import load_params

CONTENTS = {  # tiny IDX files: two images of 2 x 2, two labels
    "train-images-idx3-ubyte": bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2, 0, 1, 2, 3, 4, 5, 6, 7]),
    "train-labels-idx1-ubyte": bytes([0, 0, 8, 1, 0, 0, 0, 2, 3, 4]),
    "t10k-images-idx3-ubyte": bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2, 7, 6, 5, 4, 3, 2, 1, 0]),
    "t10k-labels-idx1-ubyte": bytes([0, 0, 8, 1, 0, 0, 0, 2, 1, 9]),
}
FILES = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
FIRST, LAST = next(iter(FILES)), list(FILES)[-1]
PATIENCE_SECONDS = 30  # with a server that answers, however busy the machine is
TIMEOUT_SECONDS = 1.5  # with one that does not
FOLDER = Path("data/download")


class Handler(BaseHTTPRequestHandler):
    """Serves good files below /good; below any other folder, the last file is bad in the way that the folder says."""

    server: "Server"

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        how, name = self.path.split("/")[-2:]
        body = gzip.compress(CONTENTS[name.removesuffix(".gz")])
        if name != f"{LAST}.gz":
            how = "good"
        if how == "missing":
            self.send_error(404)
        elif how == "mute":
            self.server.stop.wait(5)
        elif how == "slow-header":
            self.trickle(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 1000)
        elif how == "moved":
            self.send_response(302)
            self.send_header("Location", f"/good/{name}")
            self.end_headers()
        else:
            if how == "wrong":
                body = gzip.compress(b"something else")
            elif how == "page":
                body = b"<html>please log in</html>"
            elif how == "damaged":
                body = body[:10] + b"\xff" + body[11:]  # a type of block that does not exist
            elif how == "half":
                body = body[:-9]
            elif how == "trickle":
                body += bytes(1000)
            elif how == "bomb":
                body = gzip.compress(bytes(stage.MAX_FILE_BYTES + 1), compresslevel=1)
            elif how == "endless":
                body = bytes(stage.MAX_FILE_BYTES + 1)
            self.send_response(200)
            if how != "unsized":
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if how == "cut":
                self.wfile.write(body[:-9])
            elif how == "stall":
                self.wfile.write(body[:20])
                self.server.stop.wait(5)
            elif how == "trickle":
                self.trickle(body)
            else:
                self.wfile.write(body)

    def trickle(self, content: bytes) -> None:
        for byte in content:
            if self.server.stop.wait(0.05):
                return
            self.wfile.write(bytes([byte]))

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.paths: list[str] = []
        self.stop = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """Says nothing: that clients hang up is what many tests are about."""


@pytest.fixture(autouse=True)
def work_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(stage, "MAX_FILE_BYTES", 2**20)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.stop.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def dead_url() -> str:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{bound.getsockname()[1]}"  # closed again: nobody listens


def fetch(*sources: str) -> str:
    return download(sources, FILES, PATIENCE_SECONDS, FOLDER)


def fail(*sources: str) -> str:
    with pytest.raises(UserError) as caught:
        download(sources, FILES, TIMEOUT_SECONDS, FOLDER)
    return str(caught.value)


def put_files(folder: Path, suffix: str = "") -> None:
    folder.mkdir(parents=True)
    for name, content in CONTENTS.items():
        (folder / f"{name}{suffix}").write_bytes(gzip.compress(content) if suffix else content)


def read_tree() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path("data").rglob("*") if path.is_file()}


WRITTEN = {f"data/download/{name}": content for name, content in CONTENTS.items()}


def test_a_good_server_gives_the_four_decompressed_files_and_nothing_else(server: Server) -> None:
    assert fetch(f"{server.url}/good") == f"{server.url}/good"

    assert read_tree() == WRITTEN
    assert [path.name for path in Path("data").iterdir()] == ["download"]
    assert server.paths == [f"/good/{name}.gz" for name in FILES]


def test_files_are_readable_by_everyone_who_may_read_the_folder(server: Server) -> None:
    Path("other").touch()

    fetch(f"{server.url}/good")

    assert (FOLDER / FIRST).stat().st_mode == Path("other").stat().st_mode


@pytest.mark.parametrize("how", ["moved", "unsized"])
def test_a_redirect_and_a_body_of_unknown_size_are_followed(server: Server, how: str) -> None:
    fetch(f"{server.url}/{how}/")

    assert server.paths[0] == f"/{how}/{FIRST}.gz"
    assert read_tree() == WRITTEN


def test_a_proxy_from_the_environment_is_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url)

    fetch("http://mirror.invalid/good")

    assert server.paths[0] == f"http://mirror.invalid/good/{FIRST}.gz"
    assert read_tree() == WRITTEN


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("missing", f"{LAST}.gz: HTTP 404 Not Found"),
        ("mute", f"{LAST}.gz: silent for 1.5 seconds"),
        ("slow-header", f"{LAST}.gz: silent for 1.5 seconds"),
        ("stall", f"{LAST}.gz: silent for 1.5 seconds"),
        ("trickle", f"{LAST}.gz: too slow, "),
        ("cut", f"{LAST}.gz: cut, {len(gzip.compress(CONTENTS[LAST])) - 9} of "),
        ("half", f"{LAST}.gz: cut, the compressed data ends too early"),
        ("page", f"{LAST}.gz: no valid gzip file (Not a gzipped file (b'<h'))"),
        ("damaged", f"{LAST}.gz: no valid gzip file (Error -3 while decompressing data: invalid block type)"),
        ("bomb", f"{LAST}.gz: more than 1048576 bytes"),
        ("endless", f"{LAST}.gz: more than 1048576 bytes"),
        ("wrong", f"{LAST}: other bytes than expected, SHA-256 {hashlib.sha256(b'something else').hexdigest()[:12]}"),
    ],
)
def test_one_bad_file_of_four_is_one_readable_reason_soon_and_leaves_nothing(
    server: Server, how: str, reason: str
) -> None:
    start = time.monotonic()

    message = fail(f"{server.url}/{how}")

    assert f"\n  - {server.url}/{how}: {reason}" in message
    assert time.monotonic() - start < 4.5
    assert list(Path("data").iterdir()) == []


def test_a_host_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")

    def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)

    reason = f"{FIRST}.gz: host not found (Name or service not known)"
    assert f"\n  - http://mirror.invalid: {reason}\n" in fail("http://mirror.invalid")


def test_a_name_look_up_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    stop = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: stop.wait(5))
    start = time.monotonic()

    try:
        message = fail("http://mirror.invalid")
    finally:
        stop.set()

    assert "http://mirror.invalid: train-images-idx3-ubyte.gz: silent for 1.5 seconds" in message
    assert time.monotonic() - start < 4.5


def test_an_address_that_is_none_is_a_reason_and_no_traceback() -> None:
    assert "  - http://[: " in fail("http://[")


def test_a_bad_source_is_named_in_one_line_and_the_next_is_tried(
    server: Server, dead_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good = f"{server.url}/good"

    assert fetch(dead_url, f"{server.url}/wrong", good) == good

    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if dead_url in line and "fetching" not in line] == [
        f"download: {dead_url}: {FIRST}.gz: Connection refused"
    ]
    assert len([line for line in lines if line.startswith(f"download: {server.url}/wrong: {LAST}: other bytes")]) == 1
    assert read_tree() == WRITTEN


def test_files_of_two_sources_are_never_mixed(server: Server) -> None:
    put_files(Path("mine"))
    (Path("mine") / FIRST).unlink()

    fail(f"{server.url}/missing", "folder:mine")

    assert list(Path("data").iterdir()) == []


def test_if_all_fail_one_message_lists_each_source_and_what_to_do(server: Server, dead_url: str) -> None:
    lines = fail(dead_url, f"{server.url}/missing", "folder:nowhere").splitlines()

    assert lines[:4] == [
        "no source gave the data set:",
        f"  - {dead_url}: {FIRST}.gz: Connection refused",
        f"  - {server.url}/missing: {LAST}.gz: HTTP 404 Not Found",
        "  - folder:nowhere: no such folder",
    ]
    remedies = "\n".join(lines[4:])
    for word in ("network", "https_proxy", "apt-get install", "download.sources in params.yaml", *FILES):
        assert word in remedies


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError])
def test_whatever_stops_a_download_leaves_the_previous_files_alone(
    server: Server, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    put_files(FOLDER)
    (FOLDER / FIRST).write_bytes(b"of an earlier run")
    before = read_tree()
    write_verified = stage.write_verified

    def stop_at_the_last(path: Path, sha256: str, target: Path) -> None:
        assert target.is_relative_to("data")  # on the same disk, so that a move is a rename
        if target.name == LAST:
            raise error
        write_verified(path, sha256, target)

    monkeypatch.setattr(stage, "write_verified", stop_at_the_last)
    with pytest.raises(error):
        fetch(f"{server.url}/good")

    assert read_tree() == before
    assert [path.name for path in Path("data").iterdir()] == ["download"]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_folder_may_hold_files_as_they_are_or_compressed(suffix: str) -> None:
    put_files(Path("mine"), suffix)

    assert fetch("folder:mine") == "folder:mine"

    assert read_tree() == WRITTEN
    assert len(list(Path("mine").iterdir())) == 4


def test_a_folder_that_lacks_a_file_or_holds_a_wrong_one_says_which() -> None:
    put_files(Path("lacking"))
    (Path("lacking") / LAST).unlink()
    put_files(Path("wrong"))
    (Path("wrong") / FIRST).write_bytes(b"")

    message = fail("folder:lacking", "folder:wrong")

    assert f"folder:lacking: neither {LAST} nor {LAST}.gz in it" in message
    assert f"folder:wrong: {FIRST}: other bytes than expected, SHA-256 e3b0c44298fc... and not " in message
    assert f"{FILES[FIRST][:12]}... (0 bytes)" in message


def test_without_a_package_manager_the_package_is_no_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")

    assert "\n  - apt:dataset-fashion-mnist: no apt-get on this machine\n" in fail("apt:dataset-fashion-mnist")


@pytest.mark.parametrize(
    ("user_id", "calls", "hint"),
    [(1000, ["download"], "; `sudo apt-get update` may help"), (0, ["download", "update", "download"], "")],
    ids=["user", "root"],
)
def test_an_unknown_package_asks_for_new_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user_id: int, calls: list[str], hint: str
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("apt-get", "dpkg-deb"):
        (programs / name).write_text(
            f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n'
            'case "$*" in *update*) exit 0;; esac\n'
            'echo "W: a warning" >&2; echo "E: Unable to locate package some-data" >&2; exit 100\n'
        )
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr("os.geteuid", lambda: user_id)

    message = fail("apt:some-data")

    assert f"\n  - apt:some-data: E: Unable to locate package some-data{hint}\n" in message
    words = [set(line.split()) for line in (tmp_path / "calls").read_text().splitlines()]
    assert [next(call for call in ("download", "update") if call in line) for line in words] == calls


def has_candidate(package: str) -> bool:
    if not shutil.which("apt-cache") or not shutil.which("apt-get"):
        return False
    result = subprocess.run(["apt-cache", "show", package], capture_output=True)
    return result.returncode == 0


@pytest.mark.skipif(not has_candidate("dataset-fashion-mnist"), reason="no package lists with dataset-fashion-mnist")
def test_the_debian_package_holds_the_four_files_of_the_study(request: pytest.FixtureRequest) -> None:
    known = load_params(request.config.rootpath / "params.yaml").dataset.files
    assert known is not None
    files = known.model_dump(by_alias=True)

    try:
        download(["apt:dataset-fashion-mnist"], files, 30, FOLDER)
    except UserError as error:
        if "E: Failed to fetch" in str(error):
            pytest.skip("the package manager cannot reach its mirror")
        raise

    assert {path.name for path in FOLDER.iterdir()} == set(files)
    for name, sha256 in files.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == sha256


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_progress_bar_and_a_log_one_line_per_file(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal, log = Terminal(), io.StringIO()
    for stream in (terminal, log):
        monkeypatch.setattr("sys.stderr", stream)
        fetch(f"{server.url}/good")

    assert f"{FIRST}.gz: 100%" in terminal.getvalue()
    assert "fetching" not in terminal.getvalue()
    assert log.getvalue().splitlines() == [f"download: fetching {server.url}/good/{name}.gz" for name in FILES]


@pytest.mark.parametrize("has_files", [False, True])
def test_where_the_images_are_in_another_folder_nothing_is_fetched(
    tmp_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], has_files: bool
) -> None:
    known = load_params(Path(__file__).parents[1] / "params.yaml")
    dataset = known.dataset.model_copy(update={"source": "../mine"} | ({} if has_files else {"files": None}))
    monkeypatch.setattr(stage, "load_params", lambda **_: known.model_copy(update={"dataset": dataset}))
    monkeypatch.setattr(stage, "download", lambda *_: pytest.fail("fetches"))

    stage.main()

    assert list((tmp_dir / "data/download").iterdir()) == []
    assert capsys.readouterr().out == (
        "data/download: nothing to fetch, for the images are in ../mine (dataset.source)\n"
    )
