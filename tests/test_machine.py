import platform
import subprocess
import sys
from pathlib import Path

import pytest

from stages.lib.running.machine import read_cpu_name, read_memory_mib

STATUS = "Name:\tpython\nVmPeak:\t 999 kB\nVmHWM:\t    3072 kB\nVmRSS:\t    1536 kB\nThreads:\t1\n"


@pytest.mark.parametrize(("name", "mib"), [("VmRSS", 1.5), ("VmHWM", 3.0)])
def test_memory_is_read_in_mib(name: str, mib: float, tmp_path: Path) -> None:
    (tmp_path / "status").write_text(STATUS)

    assert read_memory_mib(name, tmp_path / "status") == mib


def test_the_memory_of_a_process_is_its_own_and_not_that_of_the_one_that_started_it() -> None:
    script = "from stages.lib.running.machine import read_memory_mib; print(read_memory_mib('VmHWM'))"
    mine = bytearray(300 * 2**20)

    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert float(result.stdout) < len(mine) / 2**20


def test_the_cpu_is_named_as_the_first_one(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU @ 2.00GHz: fast\nmodel name\t: Another\n")

    assert read_cpu_name(tmp_path / "cpuinfo") == "Some CPU @ 2.00GHz: fast"


@pytest.mark.parametrize("content", ["processor\t: 0\n", "", None], ids=["no name", "empty", "missing"])
def test_a_cpu_without_a_name_is_named_by_its_architecture(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "cpuinfo").write_text(content)

    assert read_cpu_name(tmp_path / "cpuinfo") == platform.machine()
