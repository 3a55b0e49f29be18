"""The machine that a stage runs on: its CPU, and the memory of a process. No TensorFlow."""

import platform
from pathlib import Path


def read_memory_mib(name: str, status: Path = Path("/proc/self/status")) -> float:
    """Reads the memory of this process now (VmRSS), or the most it ever held (VmHWM), in MiB.

    Not `ru_maxrss`: Linux starts it at the memory of the process that started this one.
    """
    lines = status.read_text().splitlines()
    (kib,) = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(kib) / 1024


def read_cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Reads the model name of the first CPU; the architecture where there is no name."""
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
