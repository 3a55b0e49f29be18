import os
from pathlib import Path
from typing import Any

import pytest

from stages.lib.network.keras2 import tf
from stages.lib.training import precision as module
from stages.lib.training.precision import (
    SETTINGS,
    choose_policy,
    describe_machine,
    has_native_bfloat16,
    read_cpu_flags,
    read_settings,
)

X86 = "processor\t: 0\nvmx flags\t: vnmi\nflags\t\t: fpu sse2 avx512_bf16\n\nprocessor\t: 1\nflags\t\t: fpu\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16\nCPU part\t: 0xd40\n"


@pytest.mark.parametrize(
    ("content", "flags"),
    [
        (X86, {"fpu", "sse2", "avx512_bf16"}),
        (ARM, {"fp", "asimd", "bf16"}),
        ("processor\t: 0\nisa\t: rv64\n", set()),
        (None, set()),
    ],
    ids=["x86", "ARM", "neither", "missing"],
)
def test_flags_are_those_of_the_first_cpu(tmp_path: Path, content: str | None, flags: set[str]) -> None:
    if content is not None:
        (tmp_path / "cpuinfo").write_text(content)

    assert read_cpu_flags(tmp_path / "cpuinfo") == flags


@pytest.mark.parametrize(
    ("flags", "gpus", "expected"),
    [
        ({"fpu"}, [], False),
        ({"avx512_bf16"}, [], True),
        ({"amx_bf16"}, [], True),
        ({"bf16"}, [], True),
        ({"avx512_bf16"}, [{"compute_capability": (7, 5)}], False),
        ({"fpu"}, [{"compute_capability": (8, 0)}], True),
        ({"avx512_bf16"}, [{}], False),
    ],
)
def test_bfloat16_is_native_where_the_device_that_computes_has_it(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], gpus: list[dict[str, Any]], expected: bool
) -> None:
    monkeypatch.setattr(module, "read_cpu_flags", lambda: flags)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus if kind == "GPU" else ["CPU"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: gpu)

    assert has_native_bfloat16() is expected


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, True),
        ({"TF_ENABLE_ONEDNN_OPTS": "1"}, True),
        ({"TF_ENABLE_ONEDNN_OPTS": "0"}, False),
        ({"TF_ENABLE_ONEDNN_OPTS": "False"}, False),
        ({"ONEDNN_MAX_CPU_ISA": "avx2"}, False),
        ({"DNNL_MAX_CPU_ISA": "AVX512_CORE"}, False),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, True),
        ({"ONEDNN_MAX_CPU_ISA": "DEFAULT", "DNNL_MAX_CPU_ISA": "AVX2"}, True),  # oneDNN reads the new name first
    ],
)
def test_bfloat16_is_native_only_where_settings_leave_it_to_the_cpu(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: bool
) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(module, "read_cpu_flags", lambda: {"avx512_bf16"})
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: [])

    assert has_native_bfloat16() is expected


def test_settings_that_are_recorded_are_named_one_by_one() -> None:
    secrets = {"TF_VAR_password": "secret", "TF_TOKEN_example": "secret"}

    assert read_settings({**secrets, "OMP_NUM_THREADS": "1"}) == {"OMP_NUM_THREADS": "1"}


def test_a_machine_is_described_by_cpus_flags_gpus_and_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5})
    monkeypatch.setattr(module, "read_cpu_flags", lambda: {"fpu"})
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: ["a GPU"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda _: {"device_name": "H"})

    described = {"CPUs": "3", "GPU 0": "H", "ONEDNN_MAX_CPU_ISA": "AVX2", "CPU flag fpu": "yes"}
    assert describe_machine() == described


@pytest.mark.parametrize(
    ("precision", "is_native", "policy"),
    [
        ("auto", True, "mixed_bfloat16"),
        ("auto", False, "float32"),
        ("bfloat16", False, "mixed_bfloat16"),
        ("float32", True, "float32"),
    ],
)
def test_auto_follows_the_hardware_and_a_named_precision_does_not(
    monkeypatch: pytest.MonkeyPatch, precision: str, is_native: bool, policy: str
) -> None:
    monkeypatch.setattr(module, "has_native_bfloat16", lambda: is_native)

    assert choose_policy(precision) == policy


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(KeyError, match="float16"):
        choose_policy("float16")
