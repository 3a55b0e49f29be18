"""Compiles the C of a model by Zig's C compiler: for a microcontroller, or for the CPU of this machine.

For a microcontroller the same C gives the same bytes on every machine. Helpers that the compiler calls, such as the
64-bit multiplication of a core without one, come from Zig's runtime library and count as the model's.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

from stages.lib.errors import UserError
from stages.lib.target.program import Program

Processor = Literal["cortex_m4", "cortex_m0plus"]
"""Two ends of the Cortex-M family: Armv7E-M, and Armv6-M, which has few instructions and 32-bit products only."""

PROCESSORS: tuple[Processor, ...] = get_args(Processor)
Optimization = Literal["speed", "size"]
FLAGS_OF: dict[Optimization, str] = {"speed": "-O3", "size": "-Os"}
LINK_SCRIPT = Path(__file__).with_name("link.ld")
SAME_BYTES = ("-std=c99", "-g0", "-s", "-fomit-frame-pointer", "-fno-unwind-tables", "-fno-asynchronous-unwind-tables")


def build_for_processor(program: Program, processor: Processor, optimization: Optimization) -> bytes:
    """Compiles a model for a microcontroller; returns an ELF file whose entry is `model_run`, with no other code in it.

    It uses no floating point unit, which not every such processor has.

    Raises:
        UserError: if the C does not compile or link.
    """
    link = f"-Wl,-T,{LINK_SCRIPT.name},--entry=model_run"
    flags = ["-target", "thumb-freestanding-eabi", f"-mcpu={processor}", "-ffreestanding", link]
    with _folder_of(program) as folder:
        (folder / LINK_SCRIPT.name).write_bytes(LINK_SCRIPT.read_bytes())
        _compile(folder, [*flags, FLAGS_OF[optimization], *SAME_BYTES], "model.elf", processor)
        return (folder / "model.elf").read_bytes()


def build_for_host(program: Program) -> bytes:
    """Compiles a model for the CPU of this machine, with all its instructions; returns a shared library.

    Raises:
        UserError: if the C does not compile or link.
    """
    flags = ["-shared", "-fPIC", "-nostdlib", "-march=native", FLAGS_OF["speed"], *SAME_BYTES]
    with _folder_of(program) as folder:
        _compile(folder, flags, "model.so", "this machine")
        return (folder / "model.so").read_bytes()


@contextmanager
def _folder_of(program: Program) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("model.c", program.source), ("model.h", program.header)):
            (Path(folder) / name).write_text(text, encoding="utf-8")
        yield Path(folder)


def _compile(folder: Path, flags: Sequence[str], output: str, target: str) -> None:
    """Compiles model.c in its own folder, by relative names: no path gets into the output."""
    command = [sys.executable, "-m", "ziglang", "cc", *flags, "model.c", "-o", output]
    with _cache() as cache:
        variables = os.environ | {"ZIG_GLOBAL_CACHE_DIR": str(cache), "ZIG_LOCAL_CACHE_DIR": str(folder / "cache")}
        result = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = result.stderr.strip().splitlines()
        first = next((line for line in lines if "error" in line), lines[-1] if lines else "no message")
        raise UserError(
            f"model.c: could not be built for {target}: {first.strip()}; if Zig itself is missing or broken, install "
            "requirements.txt again"
        )


@contextmanager
def _cache() -> Iterator[Path]:
    """Yields where Zig keeps what it has compiled of its runtime library, which takes it seconds.

    That is the user's cache, which processes may share, or a folder for this once where that cannot be written.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        (base / "zig").mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=base / "zig").close()
        yield base / "zig"
    except OSError:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
