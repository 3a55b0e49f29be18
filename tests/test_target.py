import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from stages.lib.errors import UserError
from stages.lib.litert.convert import convert_to_int8
from stages.lib.network.keras2 import keras
from stages.lib.target import emulator
from stages.lib.target.build import Processor, build_for_host, build_for_processor
from stages.lib.target.emulator import count_instructions, run_on_processor
from stages.lib.target.host import bind, run_on_host
from stages.lib.target.latency import NUM_TURNS, measure_in_turns, measure_latency_in_fresh_process
from stages.lib.target.memory import measure_sections
from stages.lib.target.micro import measure_arena, run_on_micro
from stages.lib.target.program import Program

PROCESSORS: list[Processor] = ["cortex_m4", "cortex_m0plus"]
HEADER = "#include <stdint.h>\nvoid model_run(const int8_t *image, int8_t *logits, void *buffer);\n"
SIGNATURE = "void model_run(const int8_t *image, int8_t *logits, void *buffer)"
IMAGES = np.random.default_rng(0).integers(-128, 128, (7, 4, 4), np.int8)
WEIGHTS = np.random.default_rng(1).integers(-128, 128, (3, 16), np.int8)


def make_program(source: str, buffer_bytes: int = 64) -> Program:
    return Program(f'#include "model.h"\n{source}', HEADER, image_bytes=16, num_classes=3, buffer_bytes=buffer_bytes)


def make_in_c(body: str, before: str = "", buffer_bytes: int = 64) -> Program:
    """Makes a model of C statements, after what stands before the function."""
    return make_program(f"{before}\n{SIGNATURE} {{ (void)image; (void)logits; (void)buffer; {body} }}", buffer_bytes)


def make_in_assembly(*instructions: str) -> Program:
    """Makes a model of just these instructions: no compiler adds any."""
    code = "\\n".join(instructions)
    return make_program(f'__attribute__((naked)) {SIGNATURE} {{ __asm__ volatile("{code}"); }}')


def make_dense(sums_in_buffer: bool = True) -> Program:
    """Makes a dense layer of 3 units, whose sums are scaled as int8 networks do: by a product of 64 bits."""
    table = ", ".join(map(str, WEIGHTS.ravel().tolist()))
    place = "int32_t *sums = buffer;" if sums_in_buffer else "volatile int32_t sums[3];"
    return make_in_c(
        f"""{place}
        for (int c = 0; c < 3; c++) {{
          sums[c] = 0;
          for (int i = 0; i < 16; i++) sums[c] += weights[16 * c + i] * image[i];
          logits[c] = (int8_t)((sums[c] * (int64_t)multiplier) >> 40);
        }}""",
        before=f"static const int8_t weights[48] = {{{table}}};\nvolatile const int32_t multiplier = 1234567890;",
    )


def answer_dense(images: np.ndarray) -> np.ndarray:
    sums = images.reshape(-1, 16).astype(np.int64) @ WEIGHTS.T.astype(np.int64)
    return ((sums * 1234567890) >> 40).astype(np.int8)


def count(program: Program, processor: Processor = "cortex_m4") -> emulator.Run:
    return count_instructions(program, build_for_processor(program, processor, "speed"), processor, IMAGES[0])


# Instructions


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize(
    ("instructions", "num_executed"),
    [
        (["bx lr"], 1),
        (["movs r3, #0", "1: adds r3, #1", "cmp r3, #100", "bne 1b", "bx lr"], 1 + 3 * 100 + 1),
        (["movs r3, #100", "1: subs r3, #1", "beq 2f", "b 1b", "2: bx lr"], 1 + 3 * 100 - 1 + 1),
        # bl is one instruction of two halfwords
        (["push {r4, lr}", "bl 1f", "bl 1f", "pop {r4, pc}", "1: adds r4, #1", "bx lr"], 1 + 2 * 3 + 1),
        ([".rept 5000", "nop", ".endr", "bx lr"], 5001),  # over two pages and more
    ],
    ids=["return", "loop", "loop with two branches", "calls", "long"],
)
def test_as_many_instructions_are_counted_as_by_hand(
    processor: Processor, instructions: Sequence[str], num_executed: int
) -> None:
    assert count(make_in_assembly(*instructions), processor).instructions == num_executed


def test_long_instructions_count_once_and_so_do_those_whose_condition_does_not_hold() -> None:
    long = ["mla r3, r0, r0, r0", "add.w r3, r3, #1", "ldr.w r3, [r0]", "bx lr"]
    skipped = ["cmp r0, r0", "itt ne", "addne r3, #1", "addne r3, #2", "bx lr"]

    assert count(make_in_assembly(*long)).instructions == 4
    assert count(make_in_assembly(*skipped)).instructions == 5


def test_every_run_of_the_same_model_counts_the_same() -> None:
    program = make_dense()
    elf = build_for_processor(program, "cortex_m4", "speed")

    first, again = (count_instructions(program, elf, "cortex_m4", IMAGES[0]) for _ in range(2))

    assert first.instructions == again.instructions > 3 * 16
    assert first.stack_bytes == again.stack_bytes
    assert first.logits.tolist() == again.logits.tolist() == answer_dense(IMAGES[:1])[0].tolist()


# Memory


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize(
    ("instructions", "stack_bytes"),
    [
        (["bx lr"], 0),
        (["push {r4, r5, r6, lr}", "pop {r4, r5, r6, pc}"], 16),
        (["sub sp, #200", "str r0, [sp]", "add sp, #200", "bx lr"], 200),
        # the deepest call counts
        (["push {r4, lr}", "bl 1f", "pop {r4, pc}", "1: push {r0, r1, r2, r3, r4}", "add sp, #20", "bx lr"], 28),
    ],
    ids=["none", "registers", "frame", "call"],
)
def test_the_stack_is_measured_to_its_deepest_byte(
    processor: Processor, instructions: Sequence[str], stack_bytes: int
) -> None:
    assert count(make_in_assembly(*instructions), processor).stack_bytes == stack_bytes


def test_flash_is_split_into_code_constants_and_data() -> None:
    variables = "static const int8_t table[1000] = {1}; static volatile int32_t given[5] = {2}; static int32_t zero[9];"
    program = make_in_c("zero[image[1]] = given[image[2]]; logits[0] = table[image[0]] + zero[image[3]];", variables)
    nothing = make_in_assembly("bx lr")

    sections = measure_sections(build_for_processor(program, "cortex_m4", "speed"))
    smallest = measure_sections(build_for_processor(nothing, "cortex_m4", "speed"))

    assert (sections.constants, sections.data, sections.zeroed) == (1000, 20, 36)
    assert sections.flash_bytes == sections.code + 1020
    assert sections.static_bytes == 56
    assert (smallest.code, smallest.flash_bytes, smallest.static_bytes) == (2, 2, 0)  # of the harness there is nothing


def test_variables_have_their_values_at_the_start_and_can_be_changed() -> None:
    variables = "static volatile int32_t given[2] = {5, 6}; static volatile int32_t zero[2];"
    program = make_in_c("logits[0] = given[1]; logits[1] = zero[1]; zero[0] = 7; logits[2] = zero[0];", variables)

    assert count(program).logits.tolist() == [6, 0, 7]


def test_all_that_a_caller_may_use_counts_as_flash() -> None:
    before = "int model_classify(const uint8_t *pixels, void *buffer);\n"
    names = 'const char *const model_class_names[3] = {"A", "B", "C"};\n'
    classify = "int model_classify(const uint8_t *pixels, void *buffer) { (void)buffer; return pixels[3]; }\n"

    def measure(before: str) -> int:
        program = make_in_c("", before)
        return measure_sections(build_for_processor(program, "cortex_m4", "speed")).flash_bytes

    assert measure(before + classify) > measure("")
    assert measure(names) >= measure("") + 3 * 4 + 3 * 2  # pointers and texts


def test_helpers_of_the_compiler_count_as_flash_where_a_processor_needs_them() -> None:
    m4, m0plus = (measure_sections(build_for_processor(make_dense(), name, "speed")).code for name in PROCESSORS)
    division = make_in_c("logits[0] = image[0] / image[1];")

    assert m0plus > m4  # it has no product of 64 bits
    expected = int(IMAGES[0, 0, 0] / IMAGES[0, 0, 1])
    assert [count(division, name).logits[0] for name in PROCESSORS] == [expected] * 2


def test_optimized_for_size_it_is_smaller_and_answers_the_same() -> None:
    program = make_dense()
    by_speed, by_size = (build_for_processor(program, "cortex_m4", name) for name in ("speed", "size"))

    assert measure_sections(by_size).code < measure_sections(by_speed).code
    assert np.array_equal(run_on_processor(program, by_size, "cortex_m4", IMAGES), answer_dense(IMAGES))


# Answers


@pytest.mark.parametrize("sums_in_buffer", [True, False])
def test_answers_are_those_of_the_arithmetic_on_every_processor(sums_in_buffer: bool) -> None:
    program = make_dense(sums_in_buffer)
    expected = answer_dense(IMAGES)

    assert len(np.unique(expected)) > 5
    for processor in PROCESSORS:
        elf = build_for_processor(program, processor, "speed")
        assert np.array_equal(run_on_processor(program, elf, processor, IMAGES), expected)
    assert np.array_equal(run_on_host(program, build_for_host(program), IMAGES), expected)


def test_the_arrays_of_a_model_live_as_long_as_it(tmp_path: Path) -> None:
    (tmp_path / "model.so").write_bytes(build_for_host(make_dense()))
    image, logits = np.zeros(16, np.int8), np.zeros(3, np.int8)
    references = [sys.getrefcount(array) for array in (image, logits)]

    run = bind(tmp_path / "model.so", image, logits, np.zeros(64, np.int8))

    assert [sys.getrefcount(array) for array in (image, logits)] > references
    image[:] = IMAGES[1].ravel()
    run()
    assert logits.tolist() == answer_dense(IMAGES[1:2])[0].tolist()


# What a model must not do


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("for (int i = 0; i <= 64; i++) ((volatile int8_t *)buffer)[i] = 1;", "writes 1 bytes at 0x90000000"),
        ("logits[0] = ((volatile const int8_t *)image)[16];", "reads 1 bytes at 0x38010000"),
        ("*(volatile int8_t *)(uintptr_t)0x08000001 = 1;", "writes 1 bytes at 0x08000001"),
        ("((volatile int8_t *)image)[0] = 1;", "writes 1 bytes at 0x3800fff0"),
        ("((void (*)(void))(uintptr_t)0x0a000001)();", "fetches 2 bytes at 0x0a000000"),
        ('__asm__ volatile("udf #0");', "Invalid instruction"),
    ],
    ids=["buffer", "image", "flash", "constant image", "nowhere", "undefined"],
)
def test_a_model_that_leaves_its_memory_is_refused(body: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"model\.c on cortex_m4: the instruction at 0x[0-9a-f]{{8}}.* {message}"):
        count(make_in_c(body))


def test_a_stack_that_is_too_large_is_refused() -> None:
    with pytest.raises(UserError, match="writes 4 bytes at 0x3000f000, which are not its memory"):
        count(make_in_assembly("sub.w sp, sp, #69632", "str r0, [sp]", "bx lr"))


@pytest.mark.parametrize("processor", PROCESSORS)
def test_a_model_that_never_returns_is_stopped(processor: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    program = make_in_assembly("1: nop", "b 1b")
    elf = build_for_processor(program, processor, "speed")
    monkeypatch.setattr(emulator, "MAX_SECONDS", 1)

    with pytest.raises(UserError, match=f"on {processor}: model_run has not returned after 1,000 instructions"):
        count_instructions(program, elf, processor, IMAGES[0], max_instructions=1000)
    with pytest.raises(UserError, match="model_run has not returned after 1 seconds"):
        run_on_processor(program, elf, processor, IMAGES)


def test_c_that_does_not_compile_is_refused_with_the_first_error() -> None:
    with pytest.raises(UserError, match=r"model\.c: could not be built for cortex_m4: model\.c:2:.* error: .*'x'"):
        build_for_processor(make_program("int nonsense = x;"), "cortex_m4", "speed")
    with pytest.raises(
        UserError, match=r"could not be built for cortex_m4: ld\.lld: error: undefined symbol: elsewhere"
    ):
        build_for_processor(make_in_c("elsewhere();", "void elsewhere(void);"), "cortex_m4", "speed")


def test_a_library_that_cannot_be_loaded_is_refused() -> None:
    program = make_in_c("elsewhere();", "void elsewhere(void);")

    with pytest.raises(UserError, match=r"model\.c: could not be loaded here: .*undefined symbol: elsewhere"):
        run_on_host(program, build_for_host(program), IMAGES)


# Building


def test_the_same_c_gives_the_same_bytes_wherever_and_however_often_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = make_dense()
    first = build_for_processor(program, "cortex_m0plus", "speed")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    with ThreadPoolExecutor(3) as pool:
        others = list(pool.map(lambda _: build_for_processor(program, "cortex_m0plus", "speed"), range(3)))

    assert others == [first] * 3
    assert list(tmp_path.iterdir()) == []
    assert str(tmp_path).encode() not in first


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "HOME"])
def test_it_is_built_where_the_users_cache_cannot_be_written(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "file"))

    assert build_for_host(make_dense())[:4] == b"\x7fELF"


# Latency


def test_what_is_timed_takes_turns() -> None:
    order: list[str] = []

    times = measure_in_turns({name: partial(order.append, name) for name in ("c", "int8")})

    changes = [name for name, before in zip(order, [None, *order[:-1]], strict=True) if name != before]
    assert changes == ["c", "int8"] * (1 + NUM_TURNS)  # the warm-up, and the turns
    assert [times[name]["runs"] for name in times] == [NUM_TURNS * 100] * 2


@pytest.fixture(scope="module")
def model() -> bytes:
    """Is an int8 LiteRT file from images of 4x4 pixels to 3 classes."""
    layers = [keras.layers.InputLayer(input_shape=(4, 4, 1)), keras.layers.Conv2D(2, 3), keras.layers.Flatten()]
    images = np.random.default_rng(2).integers(0, 256, (20, 4, 4), np.uint8)
    return convert_to_int8(keras.Sequential([*layers, keras.layers.Dense(3)]), images, 8)


def test_c_and_litert_files_are_timed_in_one_process_of_their_own(model: bytes, tmp_path: Path) -> None:
    (tmp_path / "int8.tflite").write_bytes(model)
    program = make_dense()

    measured = measure_latency_in_fresh_process(program, build_for_host(program), {"int8": tmp_path / "int8.tflite"})

    assert list(measured) == ["compiler", "runtime", "num_threads", "c", "int8"]
    assert measured["num_threads"] == 1
    for name in ("c", "int8"):
        assert 0 < measured[name]["p25_ms"] <= measured[name]["median_ms"] <= measured[name]["p75_ms"] < 100
    with pytest.raises(UserError, match=r"latency could not be measured: error: .*none\.tflite: not found"):
        measure_latency_in_fresh_process(program, build_for_host(program), {"int8": tmp_path / "none.tflite"})


def test_the_command_line_prints_json(tmp_path: Path) -> None:
    (tmp_path / "model.so").write_bytes(build_for_host(make_dense()))
    command = [sys.executable, "-m", "stages.lib.target.latency", str(tmp_path / "model.so"), "16", "3", "64"]

    result = subprocess.run(command, capture_output=True, text=True, check=True)

    assert json.loads(result.stdout)["c"]["runs"] == NUM_TURNS * 100


# TensorFlow Lite Micro


def test_tensorflow_lite_micro_answers_as_the_reference_kernels_of_litert_do(model: bytes) -> None:
    interpreter = Interpreter(
        model_content=model, experimental_op_resolver_type=OpResolverType.BUILTIN_REF, num_threads=1
    )
    interpreter.allocate_tensors()
    (given,), (found,) = interpreter.get_input_details(), interpreter.get_output_details()
    expected = []
    for image in IMAGES:
        interpreter.set_tensor(given["index"], image[np.newaxis, ..., np.newaxis])
        interpreter.invoke()
        expected.append(interpreter.get_tensor(found["index"])[0])

    answers = run_on_micro(model, IMAGES[..., np.newaxis])

    assert answers.dtype == np.int8
    assert answers.tolist() == np.stack(expected).tolist()


def test_the_arena_is_measured_and_nothing_is_printed(model: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    arena = measure_arena(model)

    assert arena == measure_arena(model)
    assert arena.head_bytes % 16 == 0
    assert 16 + 8 <= arena.head_bytes < 100  # image and activations of the convolution, each on 16 bytes
    assert 500 < arena.tail_bytes < 5000
    assert arena.total_bytes == arena.head_bytes + arena.tail_bytes
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("damage", [b"", b"no model", bytes(5000)], ids=["empty", "text", "zeros"])
def test_what_is_no_model_is_refused(damage: bytes) -> None:
    with pytest.raises(UserError, match="TensorFlow Lite Micro: expected a LiteRT file that it can run in 64 MiB; got"):
        measure_arena(damage)
