"""Stages on a disk that is really full: a small one in memory, mounted where only the processes of a test see it."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

BYTES_OF_DISK = 2**27  # holds the clone; the rest is filled
IN_NAMESPACE = ("unshare", "--map-root-user", "--mount", "sh", "-c")


class Disk(NamedTuple):
    """A mounted file system: process that holds it, and where its processes see it."""

    pid: int
    mounted: Path

    @property
    def clone(self) -> Path:
        """Returns the clone's folder as this process sees it."""
        return Path(f"/proc/{self.pid}/root{self.mounted}/clone")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in the clone."""
        inside = ("nsenter", f"--target={self.pid}", "--user", "--mount", "--preserve-credentials")
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        return subprocess.run(
            [*inside, f"--wdns={self.mounted / 'clone'}", *command],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def fill(self, free_bytes: int) -> None:
        """Fills the disk but for so many bytes, to within a page."""
        with (self.clone.parent / "filler").open("wb", buffering=0) as file:
            with pytest.raises(OSError, match="No space left") as caught:
                while True:
                    file.write(bytes(2**16))
            assert caught.value.errno == errno.ENOSPC
            file.truncate(file.tell() - free_bytes)

    def empty(self) -> None:
        (self.clone.parent / "filler").unlink()


def can_mount() -> bool:
    """Tells whether this system lets its users have file systems of their own."""
    with suppress(FileNotFoundError):
        probe = subprocess.run([*IN_NAMESPACE, "mount -t tmpfs tmpfs /tmp"], capture_output=True, check=False)
        return probe.returncode == 0 and shutil.which("nsenter") is not None
    return False


pytestmark = pytest.mark.skipif(not can_mount(), reason="this system lets its users mount nothing")


@pytest.fixture
def disk(finished: Path, tmp_path: Path) -> Iterator[Disk]:
    """Is a disk with a copy of the finished clone."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    mount = f'mount -t tmpfs -o size={BYTES_OF_DISK} tmpfs "$0" && cp -a "$1" "$0/clone" && echo mounted && exec cat'
    pipe = subprocess.PIPE
    with subprocess.Popen([*IN_NAMESPACE, mount, mounted, finished], stdin=pipe, stdout=pipe, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "mounted\n"
        yield Disk(holder.pid, mounted)
        holder.kill()


def compute_checksums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(
    ("command", "free_bytes"),
    [
        ("stages.prepare", 0),
        ("stages.report", 0),
        ("stages.train tiny strong 42", 2**14),  # some of its files fit
        ("stages.prune finished-lamp 42", 2**14),
        ("stages.export train", 2**14),
    ],
)
def test_a_stage_that_finds_no_space_says_so_in_a_line_and_leaves_what_was_there(
    command: str, free_bytes: int, disk: Disk
) -> None:
    before = compute_checksums(disk.clone / "data")
    disk.fill(free_bytes)

    result = disk.run(sys.executable, "-m", *command.split())

    disk.empty()
    assert (result.returncode, "Traceback" in result.stderr) == (1, False), result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: "), result.stderr
    assert "[Errno 28] No space left on device" in result.stderr.splitlines()[-1]
    after = compute_checksums(disk.clone / "data")
    changed = {name for name, _ in before.items() ^ after.items()}
    curves = {"train/tiny-strong/42/history.csv"}  # written anew after every epoch
    assert all(name.startswith(("checkpoints/", "running/")) for name in changed - curves)  # both no outputs


def test_a_training_that_found_no_space_goes_on_once_there_is_some(disk: Disk) -> None:
    before = compute_checksums(disk.clone / "data/train")
    disk.fill(2**17)  # the checkpoint of the first epoch fits, that of the second not beside it

    stopped = disk.run(sys.executable, "-m", "stages.train", "tiny", "strong", "42")
    disk.empty()
    result = disk.run("dvc", "repro", "--force", "--single-item", "train@tiny-strong-42")

    assert stopped.returncode == 1
    assert "[Errno 28] No space left on device" in stopped.stderr
    assert result.returncode == 0, result.stderr
    assert "goes on after epoch 1" in result.stdout + result.stderr
    assert compute_checksums(disk.clone / "data/train") == before
    assert disk.run("git", "status", "--porcelain", "dvc.lock").stdout == ""
