"""What the machine can do, and which of its settings decide the bytes of a training."""

import os
from collections.abc import Mapping
from pathlib import Path

from stages.lib.network.keras2 import tf

BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""CPU flags of native bfloat16 products, as Linux names them on x86 and ARM."""

ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Variables that keep oneDNN, which computes for TensorFlow, from newer instructions; it reads the first one set."""

ISAS_WITHOUT_BFLOAT16 = {
    "SSE41",
    "AVX",
    "AVX2",
    "AVX2_VNNI",
    "AVX2_VNNI_2",
    "AVX512_CORE",
    "AVX512_CORE_VNNI",
}
"""Values of theirs under which oneDNN has no native bfloat16 products; it ignores case, and values that it lacks."""

SETTINGS = (
    *("TF_ENABLE_ONEDNN_OPTS", "TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS"),
    *ISA_LIMITS,
    *("ONEDNN_CPU_ISA_HINTS", "DNNL_CPU_ISA_HINTS", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"),
    *("TF_NUM_INTEROP_THREADS", "TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"),
    *("TF_XLA_FLAGS", "XLA_FLAGS", "NVIDIA_TF32_OVERRIDE"),
)
"""Environment variables that can change the bytes of a training. Named one by one: others may hold secrets."""


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
    return bool(read_cpu_flags() & BFLOAT16_FLAGS) and lets_onednn_use_bfloat16(os.environ)


def lets_onednn_use_bfloat16(environment: Mapping[str, str]) -> bool:
    """Tells whether these environment variables leave TensorFlow oneDNN and its instructions for bfloat16.

    TensorFlow reads 0 and false as no, and refuses what is no boolean.

    >>> lets_onednn_use_bfloat16({"ONEDNN_MAX_CPU_ISA": "AVX2"})
    False
    """
    if environment.get("TF_ENABLE_ONEDNN_OPTS", "1").lower() in ("0", "false"):
        return False
    limits = [environment[name].upper() for name in ISA_LIMITS if name in environment]
    return not limits or limits[0] not in ISAS_WITHOUT_BFLOAT16


def read_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Reads those of `SETTINGS` that are set among environment variables.

    >>> read_settings({"OMP_NUM_THREADS": "1", "HOME": "/"})
    {'OMP_NUM_THREADS': '1'}
    """
    return {name: environment[name] for name in SETTINGS if name in environment}


def describe_machine() -> dict[str, str]:
    """Describes what decides the bytes of a training beside its params, data, code and versions.

    Kernels divide their work by the CPUs that this process may use, and are chosen by what CPU and GPUs can do and by
    `SETTINGS`; another order of additions rounds differently.
    """
    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    return {
        "CPUs": str(len(os.sched_getaffinity(0))),
        **{f"GPU {number}": gpu.get("device_name", "unknown") for number, gpu in enumerate(gpus)},
        **read_settings(os.environ),
        **{f"CPU flag {flag}": "yes" for flag in sorted(read_cpu_flags())},
    }


def read_cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> set[str]:
    """Reads the flags (x86) or features (ARM) of the first CPU in a Linux cpuinfo file; none elsewhere."""
    if not cpuinfo.exists():
        return set()
    for line in cpuinfo.read_text().splitlines():
        if line.startswith(("flags", "Features")):
            return set(line.partition(":")[2].split())
    return set()
