"""Real servers that hold artifacts, and a wire to them that breaks: on 127.0.0.1, each as long as its `with` block."""

import json
import os
import select
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import botocore.session  # type: ignore[import-untyped]  # it ships no types
from botocore.config import Config  # type: ignore[import-untyped]  # nor here
from pipeline import require_program, run

DEADLINE_SECONDS = 60
PROGRAMS = Path(sys.executable).parent  # of the packages of requirements.txt


def find_free_ports(count: int) -> list[int]:
    """Finds ports of 127.0.0.1 that nobody listens on now; they are all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [opened.getsockname()[1] for opened in sockets]


def answers(port: int) -> bool:
    """Tells whether a server listens on a port of 127.0.0.1."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def run_server(folder: Path, command: list[str], port: int) -> Iterator[None]:
    """Runs a server in `folder` from the moment that its port answers until the block ends."""
    log = folder / "server.log"
    with log.open("wb") as file:
        bound = ["setpriv", "--pdeathsig", "KILL", *command]  # ends with the tests, should those be killed
        server = subprocess.Popen(bound, cwd=folder, stdout=file, stderr=file, start_new_session=True)
    try:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not answers(port):
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@contextmanager
def serve_s3(folder: Path) -> Iterator[int]:
    """Serves S3 with SeaweedFS: bucket `team`, key id `team`, secret `s3-secret`. Yields the port."""
    keys = [{"accessKey": "team", "secretKey": "s3-secret"}]
    identity = {"name": "team", "credentials": keys, "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    options = [f"{server}.port{kind}" for server in ("master", "volume", "filer", "s3") for kind in ("", ".grpc")]
    ports = dict(zip(options, find_free_ports(len(options)), strict=True))
    command = [str(PROGRAMS / "weed"), "server", "-s3", "-dir=.", "-s3.config=s3.json"]
    command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", *(f"-{option}={port}" for option, port in ports.items())]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
    command += ["-master.volumeSizeLimitMB=64", "-volume.max=20"]
    with run_server(folder, command, ports["s3.port"]):
        make_bucket(f"http://127.0.0.1:{ports['s3.port']}")
        yield ports["s3.port"]


def make_bucket(endpoint: str) -> None:
    """Makes the bucket `team` as soon as the server is able to; its port answers before that."""
    client = botocore.session.get_session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=endpoint,
        aws_access_key_id="team",
        aws_secret_access_key="s3-secret",  # noqa: S106 - of this server alone
        config=Config(retries={"total_max_attempts": 20, "mode": "standard"}),
    )
    with closing(client):
        client.create_bucket(Bucket="team")


@contextmanager
def serve_ssh(folder: Path) -> Iterator[int]:
    """Serves SFTP with OpenSSH: whoever has the key in the file `key` is in; `wrong_key` is not. Yields the port."""
    for name in ("host_key", "key", "wrong_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", name], cwd=folder, check=True)
    (port,) = find_free_ports(1)
    options = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": folder / "host_key",
        "AuthorizedKeysFile": folder / "key.pub",
        "StrictModes": "no",  # the folder for temporary files is everybody's
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "PidFile": "none",
        "Subsystem": "sftp internal-sftp",
    }
    (folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in options.items()))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd shuts itself in; Debian's service makes it, too
    command = [require_program("sshd", "openssh-server"), "-D", "-e", "-f", str(folder / "sshd_config")]
    with run_server(folder, command, port):
        yield port


@contextmanager
def serve_webdav(folder: Path) -> Iterator[int]:
    """Serves WebDAV with WsgiDAV: folder `team`, user `team`, password `webdav-secret`. Yields the port."""
    (folder / "storage/team").mkdir(parents=True)
    (port,) = find_free_ports(1)
    config = {
        "host": "127.0.0.1",
        "port": port,
        "server": "cheroot",
        "provider_mapping": {"/": str(folder / "storage")},
        "simple_dc": {"user_mapping": {"*": {"team": {"password": "webdav-secret"}}}},
    }
    (folder / "wsgidav.json").write_text(json.dumps(config))
    with run_server(folder, [str(PROGRAMS / "wsgidav"), "--config", "wsgidav.json"], port):
        yield port


class Wire(socketserver.ThreadingTCPServer):
    """A wire to a port of 127.0.0.1, at a port of its own, that can be cut.

    A cut wire drops its connections in the middle of what they carry, and closes new ones at once, as if the server had
    died.
    """

    daemon_threads = True

    def __init__(self, target: int) -> None:
        super().__init__(("127.0.0.1", 0), WireEnd)
        self.target = target
        self.port: int = self.server_address[1]
        self.bytes_left = float("inf")

    def cut_after(self, size_bytes: int) -> None:
        """Cuts the wire once it has carried so many bytes more, in both directions together."""
        self.bytes_left = size_bytes

    def mend(self) -> None:
        """Mends the wire."""
        self.bytes_left = float("inf")


class WireEnd(socketserver.BaseRequestHandler):
    """One connection."""

    server: Wire

    def handle(self) -> None:
        """Carries bytes both ways until one side closes or the wire is cut."""
        with suppress(ConnectionError), socket.create_connection(("127.0.0.1", self.server.target)) as target:
            other = {self.request: target, target: self.request}
            while self.server.bytes_left > 0:
                for source in select.select(list(other), [], [], 0.1)[0]:
                    data = source.recv(65536)
                    self.server.bytes_left -= len(data)
                    if not data or self.server.bytes_left <= 0:
                        return
                    other[source].sendall(data)


@contextmanager
def lay_wire(target: int) -> Iterator[Wire]:
    """Lays a wire to the port `target`, which is taken up when the block ends."""
    with Wire(target) as wire:
        threading.Thread(target=wire.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield wire
        finally:
            wire.shutdown()


def add_origin(folder: Path) -> Path:
    """Makes a bare Git repository beside `folder`, to which it pushes from now on; returns its path."""
    origin = folder.parent / "origin"
    run(folder, "git", "init", "--quiet", "--bare", str(origin))
    run(folder, "git", "remote", "add", "origin", str(origin))
    run(folder, "git", "push", "--quiet", "--set-upstream", "origin", "HEAD")
    run(origin, "git", "symbolic-ref", "HEAD", run(folder, "git", "symbolic-ref", "HEAD").strip())
    return origin
