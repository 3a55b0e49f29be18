"""Which bytes is the study made of? Fetches the data set from the first source that has it, and verifies its SHA-256.

Reads: params.yaml (`dataset.source`, `dataset.files`, `download`); and what `download.sources` lists: network, Debian
package or folder.
Writes: data/download/<name> for each of the four decompressed IDX files, all of one source, or none of them. Where
`dataset.source` is another folder, nothing is fetched, and data/download/ is empty.
What the files hold is not looked at: only their SHA-256 counts. A file that is cut or wrong is never kept.
"""

import gzip
import hashlib
import http.client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Thread

from tqdm import tqdm

from stages.lib.errors import UserError
from stages.lib.params.load import load_params
from stages.lib.running.runner import run_stage

READS = ("dataset.source", "dataset.files", "download")
OUTPUT = Path("data/download")

CHUNK_BYTES = 2**16
MAX_FILE_BYTES = 2**30  # 1 GiB; the largest file of Fashion-MNIST has 47 MB, and a gzip bomb must not fill the disk
MIN_BYTES_PER_SECOND = 10_000  # a slower source would take most of an hour: the next one is tried


class SourceError(Exception):
    """A source does not give a file; the message says why, in one line."""


def download(sources: Sequence[str], files: Mapping[str, str], timeout_seconds: float, folder: Path) -> str:
    """Writes all `files` into `folder` from the first source that has them all, and returns that source.

    Args:
        sources: `https://host/path` (or http), `apt:package` or `folder:path`, in the order in which they are tried.
        files: name of each decompressed file, and its SHA-256.
        timeout_seconds: how long a server may be silent.
        folder: where the files go; it is left as it was unless one source gave every file.

    Raises:
        UserError: if no source has them all; the message lists each source with its reason, and what to do.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    for source in sources:
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=folder.parent) as name:
            staging = Path(name)
            try:
                fetch_source(source, files, timeout_seconds, staging)
            except SourceError as error:
                reasons.append(f"  - {source}: {error}\n")
                tell(f"{source}: {error}")
                continue
            folder.mkdir(exist_ok=True)
            for file_name in files:
                (staging / file_name).replace(folder / file_name)
            return source
    raise UserError(
        f"no source gave the data set:\n{''.join(reasons)}"
        "do one of these, and run `dvc repro` again:\n"
        "  - check the network; behind a proxy, set https_proxy\n"
        "  - run `sudo apt-get install dataset-fashion-mnist` (Debian, Ubuntu), and add "
        "folder:/usr/share/datasets/fashion-mnist to download.sources in params.yaml\n"
        f"  - put {', '.join(files)}, each as it is or as .gz, into a folder, and add folder:PATH to download.sources "
        "in params.yaml"
    )


def fetch_source(source: str, files: Mapping[str, str], timeout_seconds: float, staging: Path) -> None:
    """Writes all `files` of one source into `staging`, verified; raises SourceError at the first that it lacks."""
    kind, _, rest = source.partition(":")
    with tempfile.TemporaryDirectory(prefix="raw-", dir=staging) as name:
        raw = Path(name)
        if kind == "apt":
            extract_package(rest, timeout_seconds, raw)
        for file_name, sha256 in files.items():
            if kind == "folder":
                path = find_file(Path(rest), file_name)
            elif kind == "apt":
                path = find_file(raw, f"**/{file_name}")
            else:
                path = raw / f"{file_name}.gz"
                fetch_url(f"{source.rstrip('/')}/{path.name}", timeout_seconds, path)
            write_verified(path, sha256, staging / file_name)


def fetch_url(url: str, timeout_seconds: float, path: Path) -> None:
    """Writes what `url` answers to `path`, with a progress bar if stderr is a terminal.

    Raises:
        SourceError: if the server cannot be reached, refuses, is silent or very slow, or the file is cut or too long.
    """
    name = path.name
    if not sys.stderr.isatty():
        tell(f"fetching {url}")
    try:
        with (
            open_url(url, timeout_seconds) as response,
            path.open("wb") as file,
            tqdm(total=response.length, unit="B", unit_scale=True, desc=name, disable=None) as bar,
        ):
            promised_bytes, received_bytes = response.length, 0
            window_start, window_bytes = time.monotonic(), 0
            while chunk := response.read1(CHUNK_BYTES):  # read1 returns whatever came, however slowly
                file.write(chunk)
                bar.update(len(chunk))
                received_bytes += len(chunk)
                window_bytes += len(chunk)
                if received_bytes > MAX_FILE_BYTES:
                    raise SourceError(f"{name}: more than {MAX_FILE_BYTES} bytes")
                seconds = time.monotonic() - window_start
                if seconds > timeout_seconds:
                    if window_bytes < MIN_BYTES_PER_SECOND * seconds:
                        raise SourceError(f"{name}: too slow, {window_bytes / seconds:.0f} bytes per second")
                    window_start, window_bytes = time.monotonic(), 0
        if promised_bytes is not None and received_bytes != promised_bytes:
            raise SourceError(f"{name}: cut, {received_bytes} of {promised_bytes} bytes came")
    except urllib.error.HTTPError as error:
        error.close()
        raise SourceError(f"{name}: HTTP {error.code} {error.reason}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise SourceError(f"{name}: {explain(error, timeout_seconds)}") from error


def open_url(url: str, timeout_seconds: float) -> http.client.HTTPResponse:
    """Sends the request and returns the answer, whose body is still to be read.

    The timeout of a socket covers neither the look-up of the host nor an answer that comes byte by byte. So another
    thread asks, and is waited for for twice `timeout_seconds`, in which a second address of the host can be tried.

    Raises:
        OSError, ValueError or http.client.HTTPException: whatever urllib raises; TimeoutError if no answer comes.
    """
    answer: Future[http.client.HTTPResponse] = Future()

    def ask() -> None:
        try:
            opener = urllib.request.build_opener()  # urlopen would keep the proxies of its first call
            answer.set_result(opener.open(url, timeout=timeout_seconds))
        except Exception as error:
            answer.set_exception(error)

    Thread(target=ask, daemon=True).start()
    return answer.result(2 * timeout_seconds)


def explain(error: Exception, timeout_seconds: float) -> str:
    """Says in a few words why a transfer failed."""
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        error = error.reason
    if isinstance(error, TimeoutError):
        return f"silent for {timeout_seconds:g} seconds"
    if isinstance(error, socket.gaierror):
        return f"host not found ({error.strerror})"
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def extract_package(package: str, timeout_seconds: float, folder: Path) -> None:
    """Extracts a Debian package, fetched by the package manager, into `folder`; installs nothing.

    Raises:
        SourceError: if there is no package manager here, or it does not give the package.
    """
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise SourceError("no apt-get on this machine")
    tell(f"fetching the Debian package {package}")
    seconds = max(1, round(timeout_seconds))
    options = ["Acquire::Retries=0", f"Acquire::http::Timeout={seconds}", f"Acquire::https::Timeout={seconds}"]
    is_root = os.geteuid() == 0
    if is_root:
        options += ["APT::Sandbox::User=root"]  # apt's own user cannot write into this folder
    apt_get = ["apt-get", "-qq", *(f"--option={option}" for option in options)]
    try:
        run_command([*apt_get, "download", package], folder)
    except SourceError as error:
        if not is_root:
            raise SourceError(f"{error}; `sudo apt-get update` may help") from error
        run_command([*apt_get, "update"], folder)
        run_command([*apt_get, "download", package], folder)
    for archive in folder.glob("*.deb"):
        run_command(["dpkg-deb", "--extract", archive.name, "."], folder)


def run_command(command: Sequence[str], folder: Path) -> None:
    """Runs `command` in `folder`, quietly; if it fails, raises SourceError with the first line of its complaint."""
    result = subprocess.run(
        command, cwd=folder, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, errors="replace"
    )
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if not line.startswith("W:")]
        raise SourceError(lines[0] if lines else f"{command[0]} ended with status {result.returncode}")


def find_file(folder: Path, pattern: str) -> Path:
    """Finds `pattern` or `pattern`.gz in `folder`, which may start with ~; raises SourceError if there is neither."""
    try:
        folder = folder.expanduser()
        for path in (*folder.glob(pattern), *folder.glob(f"{pattern}.gz")):
            if path.is_file():
                return path
    except OSError as error:
        raise SourceError(f"{folder}: {error.strerror}") from error
    except RuntimeError as error:  # the user has no home folder
        raise SourceError(str(error)) from error
    name = Path(pattern).name
    raise SourceError(f"neither {name} nor {name}.gz in it" if folder.is_dir() else "no such folder")


def write_verified(path: Path, sha256: str, target: Path) -> None:
    """Copies `path`, decompressed if it is a .gz, to `target`.

    Raises:
        SourceError: if it cannot be read or decompressed, is far too long, or its bytes do not have this `sha256`.
    """
    digest, num_bytes = hashlib.sha256(), 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as source, target.open("wb") as file:
            while chunk := source.read(CHUNK_BYTES):
                num_bytes += len(chunk)
                if num_bytes > MAX_FILE_BYTES:
                    raise SourceError(f"{path.name}: more than {MAX_FILE_BYTES} bytes")
                digest.update(chunk)
                file.write(chunk)
    except EOFError as error:
        raise SourceError(f"{path.name}: cut, the compressed data ends too early") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise SourceError(f"{path.name}: no valid gzip file ({error})") from error
    except OSError as error:
        raise SourceError(f"{path.name}: {error.strerror}") from error
    if digest.hexdigest() != sha256:
        raise SourceError(
            f"{target.name}: other bytes than expected, SHA-256 {digest.hexdigest()[:12]}... "
            f"and not {sha256[:12]}... ({num_bytes} bytes)"
        )


def tell(line: str) -> None:
    """Prints a line about the progress to stderr."""
    print(f"download: {line}", file=sys.stderr, flush=True)


def main() -> None:
    """Runs the stage."""
    params = load_params(reads=READS)
    if params.dataset.files is None or Path(params.dataset.source) != OUTPUT:
        OUTPUT.mkdir(parents=True, exist_ok=True)
        print(f"{OUTPUT}: nothing to fetch, for the images are in {params.dataset.source} (dataset.source)")
        return
    files = params.dataset.files.model_dump(by_alias=True)
    source = download(params.download.sources, files, params.download.timeout_seconds, OUTPUT)
    print(f"Wrote {len(files)} verified files to {OUTPUT} from {source}")


if __name__ == "__main__":
    run_stage(main)
