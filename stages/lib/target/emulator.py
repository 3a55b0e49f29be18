"""Runs a model built for a microcontroller in an emulator of its processor, and counts the instructions.

The emulator calls `model_run` as a program would (registers and stack as in Arm's Procedure Call Standard, AAPCS32), so
that nothing but the model is run and counted. Instructions are counted, not cycles: how many cycles one takes depends
on the processor, its flash and its memory. The count is the same in every run and on every machine.
"""

from dataclasses import dataclass
from threading import Timer
from typing import Any

import numpy as np
from unicorn import UC_ARCH_ARM, UC_HOOK_BLOCK, UC_HOOK_MEM_INVALID, UC_MODE_MCLASS, UC_MODE_THUMB, Uc, UcError
from unicorn import unicorn_const as uc_const
from unicorn.arm_const import (
    UC_ARM_REG_LR,
    UC_ARM_REG_PC,
    UC_ARM_REG_R0,
    UC_ARM_REG_R1,
    UC_ARM_REG_R2,
    UC_ARM_REG_SP,
    UC_CPU_ARM_CORTEX_M0,
    UC_CPU_ARM_CORTEX_M4,
)

from stages.lib.errors import UserError
from stages.lib.target.build import Processor
from stages.lib.target.memory import read_parts
from stages.lib.target.program import Program

MODEL_OF: dict[Processor, int] = {
    "cortex_m4": UC_CPU_ARM_CORTEX_M4,
    "cortex_m0plus": UC_CPU_ARM_CORTEX_M0,  # the same instructions
}
MAX_INSTRUCTIONS = 4_000_000_000
MAX_SECONDS = 600  # for one image, where instructions are not counted

PAGE = 4096
RETURN = 0x1000_0000  # to where `model_run` returns
# Each ends where nothing follows, so that an access behind it is noticed. The emulator finds pages by the low bits of
# their addresses: where they are those of another page, it is ten times slower.
STACK_END, STACK_BYTES = 0x3002_0000, 64 * 1024
LOGITS_END, IMAGE_END, BUFFER_END = 0x3103_0000, 0x3801_0000, 0x9000_0000
PAINT = 0xA5  # what the stack and the buffer are full of before a run

CONSTANT = uc_const.UC_PROT_READ
WRITABLE = uc_const.UC_PROT_READ | uc_const.UC_PROT_WRITE
CODE = uc_const.UC_PROT_READ | uc_const.UC_PROT_EXEC
ACCESSES = {
    uc_const.UC_MEM_READ_UNMAPPED: "reads",
    uc_const.UC_MEM_READ_PROT: "reads",
    uc_const.UC_MEM_WRITE_UNMAPPED: "writes",
    uc_const.UC_MEM_WRITE_PROT: "writes",
    uc_const.UC_MEM_FETCH_UNMAPPED: "fetches",
    uc_const.UC_MEM_FETCH_PROT: "fetches",
}


@dataclass(frozen=True)
class Run:
    """What a model did for one image.

    Attributes:
        logits: (classes,) int8.
        instructions: executed from the call of `model_run` to its return; one whose condition does not hold counts.
        stack_bytes: from the stack's start to the last byte that was changed. Interrupts need more.
    """

    logits: np.ndarray
    instructions: int
    stack_bytes: int


@dataclass(frozen=True)
class _Machine:
    """A processor with a model in its memory.

    Attributes:
        emulator: of the processor.
        processor: its name, for messages.
        entry, image, logits, buffer: addresses of `model_run` and of what it is given.
        num_classes: int8 of the logits.
        faults: accesses to memory that is not there, of the last run: what, address, bytes.
    """

    emulator: Uc
    processor: Processor
    entry: int
    image: int
    logits: int
    buffer: int
    num_classes: int
    faults: list[tuple[str, int, int]]


def count_instructions(
    program: Program, elf: bytes, processor: Processor, image: np.ndarray, max_instructions: int = MAX_INSTRUCTIONS
) -> Run:
    """Runs a model on one image, and counts instructions and stack.

    Args:
        program: what was built.
        elf: what it was built to, for this processor.
        processor: that is emulated.
        image: int8, `program.image_bytes` of them in any shape.
        max_instructions: after so many, a model that has not returned never will.

    Raises:
        UserError: if the model does not return, or uses memory that is not its own.
    """
    machine = _load(program, elf, processor)
    lengths: dict[tuple[int, int], int] = {}
    executed = 0

    def count_block(emulator: Uc, address: int, size: int, _: Any) -> None:
        nonlocal executed
        block = address, size
        if block not in lengths:
            lengths[block] = _count_in_block(bytes(emulator.mem_read(address, size)))
        executed += lengths[block]
        if executed > max_instructions:
            emulator.emu_stop()

    machine.emulator.hook_add(UC_HOOK_BLOCK, count_block, begin=0, end=RETURN - 1)
    logits = _run(machine, image, f"{max_instructions:,} instructions")
    stack = np.frombuffer(machine.emulator.mem_read(STACK_END - STACK_BYTES, STACK_BYTES), np.uint8)
    return Run(logits, executed, STACK_BYTES - _count_painted(stack))


def run_on_processor(program: Program, elf: bytes, processor: Processor, images: np.ndarray) -> np.ndarray:
    """Runs a model on (N, ...) int8 images; returns (N, classes) int8 logits. Counts nothing, which is faster.

    Raises:
        UserError: as `count_instructions`.
    """
    machine = _load(program, elf, processor)
    answers = []
    for image in images:
        # Not the emulator's own limit of time, which once in some thousand runs strikes at once.
        watch = Timer(MAX_SECONDS, machine.emulator.emu_stop)
        watch.start()
        try:
            answers.append(_run(machine, image, f"{MAX_SECONDS} seconds"))
        finally:
            watch.cancel()
    return np.stack(answers)


def _load(program: Program, elf: bytes, processor: Processor) -> _Machine:
    emulator = Uc(UC_ARCH_ARM, UC_MODE_THUMB | UC_MODE_MCLASS)
    emulator.ctl_set_cpu_model(MODEL_OF[processor])
    faults: list[tuple[str, int, int]] = []

    def note_fault(_emulator: Uc, access: int, address: int, size: int, _value: int, _: Any) -> bool:
        faults.append((ACCESSES.get(access, "uses"), address, size))
        return False  # it stays a fault

    emulator.hook_add(UC_HOOK_MEM_INVALID, note_fault)
    entry, parts = read_parts(elf)
    for rights, is_in_flash in ((CODE, True), (WRITABLE, False)):
        own = [(address, content) for address, content in parts if (address < RETURN) == is_in_flash]
        if own:
            start, end = own[0][0], own[-1][0] + len(own[-1][1])  # of addresses that rise
            _map_up_to(emulator, end, end - start, rights)
        for address, content in own:
            emulator.mem_write(address, content)
    _map_up_to(emulator, RETURN + PAGE, PAGE, CODE)
    _map_up_to(emulator, STACK_END, STACK_BYTES, WRITABLE)
    return _Machine(
        emulator=emulator,
        processor=processor,
        entry=entry,
        image=_map_up_to(emulator, IMAGE_END, program.image_bytes, CONSTANT),
        logits=_map_up_to(emulator, LOGITS_END, program.num_classes, WRITABLE),
        buffer=_map_up_to(emulator, BUFFER_END, program.buffer_bytes, WRITABLE),
        num_classes=program.num_classes,
        faults=faults,
    )


def _map_up_to(emulator: Uc, end: int, size: int, rights: int) -> int:
    """Maps the pages of the `size` bytes before `end`, paints them, and returns where they begin, on 4 bytes."""
    start = (end - size) // 4 * 4
    page, last = start // PAGE * PAGE, -(-end // PAGE) * PAGE
    emulator.mem_map(page, last - page, rights)
    emulator.mem_write(page, bytes([PAINT]) * (last - page))
    return start


def _run(machine: _Machine, image: np.ndarray, limit: str) -> np.ndarray:
    """Runs a model on one image; `limit` is what it may take, for the message. Returns (classes,) int8 logits."""
    emulator = machine.emulator
    emulator.mem_write(machine.image, np.ascontiguousarray(image, np.int8).tobytes())
    registers = {
        UC_ARM_REG_R0: machine.image,
        UC_ARM_REG_R1: machine.logits,
        UC_ARM_REG_R2: machine.buffer,
        UC_ARM_REG_SP: STACK_END,
        UC_ARM_REG_LR: RETURN | 1,
    }
    for register, value in registers.items():
        emulator.reg_write(register, value)
    try:
        emulator.emu_start(machine.entry, RETURN)
    except UcError as error:
        raise _explain(machine, str(error)) from None
    if emulator.reg_read(UC_ARM_REG_PC) != RETURN:
        raise UserError(f"model.c on {machine.processor}: model_run has not returned after {limit}; it never will")
    return np.frombuffer(bytes(emulator.mem_read(machine.logits, machine.num_classes)), np.int8)


def _explain(machine: _Machine, message: str) -> UserError:
    """Says what a model did that its processor cannot do."""
    place = f"the instruction at {machine.emulator.reg_read(UC_ARM_REG_PC):#010x}"
    if machine.faults:
        what, address, size = machine.faults[-1]
        place += f" {what} {size} bytes at {address:#010x}, which are not its memory"
    return UserError(
        f"model.c on {machine.processor}: {place}: {message}; it may use its code and constants, {machine.image:#010x} "
        f"(the image), {machine.logits:#010x} (the logits) and {machine.buffer:#010x} (the buffer)"
    )


def _count_in_block(content: bytes) -> int:
    """Counts the Thumb instructions of a block, each of one halfword or two.

    The first halfword of those with two begins with the bits 11101, 11110 or 11111 (Armv7-M Architecture Reference
    Manual, A5.1).
    """
    halfwords = np.frombuffer(content, "<u2").tolist()
    count = place = 0
    while place < len(halfwords):
        place += 2 if halfwords[place] >> 11 >= 0b11101 else 1
        count += 1
    return count


def _count_painted(stack: np.ndarray) -> int:
    """Counts the bytes from the far end of a stack on that no one has changed."""
    changed = np.flatnonzero(stack != PAINT)
    return int(changed[0]) if changed.size else len(stack)
