"""What the machine can do."""

from pathlib import Path

from stages.lib.network.keras2 import tf

BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""CPU flags of native bfloat16 products, as Linux names them on x86 and ARM."""


def choose_policy(precision: str) -> str:
    """Chooses the Keras policy for a `train.precision` of auto, bfloat16 or float32.

    auto is mixed_bfloat16 where a GPU of compute capability 8 or higher, or else the CPU, multiplies bfloat16
    natively; elsewhere it would be emulated, and slow.
    """
    if precision == "auto":
        precision = "bfloat16" if has_native_bfloat16() else "float32"
    return {"bfloat16": "mixed_bfloat16", "float32": "float32"}[precision]


def has_native_bfloat16() -> bool:
    """Tells whether the device that TensorFlow computes on multiplies bfloat16 in hardware."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))
        return bool(capability[0] >= 8)
    return bool(read_cpu_flags(Path("/proc/cpuinfo")) & BFLOAT16_FLAGS)


def read_cpu_flags(cpuinfo: Path) -> set[str]:
    """Reads the flags (x86) or features (ARM) of the first CPU in a Linux cpuinfo file; none elsewhere."""
    if not cpuinfo.exists():
        return set()
    for line in cpuinfo.read_text().splitlines():
        if line.startswith(("flags", "Features")):
            return set(line.partition(":")[2].split())
    return set()
