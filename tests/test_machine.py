from pathlib import Path

import pytest

from stages.lib.running.machine import read_memory_mib

STATUS = "Name:\tpython\nVmPeak:\t 999 kB\nVmHWM:\t    3072 kB\nVmRSS:\t    1536 kB\nThreads:\t1\n"


@pytest.mark.parametrize(("name", "mib"), [("VmRSS", 1.5), ("VmHWM", 3.0)])
def test_memory_is_read_in_mib(name: str, mib: float, tmp_path: Path) -> None:
    (tmp_path / "status").write_text(STATUS)

    assert read_memory_mib(name, tmp_path / "status") == mib
