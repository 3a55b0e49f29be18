"""How much memory a process holds. No TensorFlow."""

from pathlib import Path


def read_memory_mib(name: str, status: Path = Path("/proc/self/status")) -> float:
    """Reads the memory of this process now (VmRSS), or the most it ever held (VmHWM), in MiB.

    Not `ru_maxrss`: Linux starts it at the memory of the process that started this one.
    """
    lines = status.read_text().splitlines()
    (kib,) = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(kib) / 1024
