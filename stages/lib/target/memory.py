"""What a model takes in flash and RAM, read from its ELF file."""

import io
from dataclasses import dataclass

from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile


@dataclass(frozen=True)
class Sections:
    """Bytes of a model by the section that they lie in.

    Attributes:
        code: instructions, with the constants that the compiler puts between them.
        constants: tables, weights among them.
        data: variables that have a value at the start; it lies in flash and is copied to RAM.
        zeroed: variables that start at zero.
    """

    code: int
    constants: int
    data: int
    zeroed: int

    @property
    def flash_bytes(self) -> int:
        """Counts what lies in flash."""
        return self.code + self.constants + self.data

    @property
    def static_bytes(self) -> int:
        """Counts what lies in RAM whether the model runs or not: not the caller's buffer, and not the stack."""
        return self.data + self.zeroed


def measure_sections(elf: bytes) -> Sections:
    """Measures the sections of a file of `stages.lib.target.build`; one that is not there has 0 bytes."""
    sizes = {section.name: section.data_size for section in ELFFile(io.BytesIO(elf)).iter_sections()}
    return Sections(*(sizes.get(name, 0) for name in (".text", ".rodata", ".data", ".bss")))


def read_parts(elf: bytes) -> tuple[int, list[tuple[int, bytes]]]:
    """Reads what has to lie in memory before a model runs.

    Returns:
        The address of `model_run`, whose lowest bit says Thumb; address and content of each part, none of them empty.
    """
    file = ELFFile(io.BytesIO(elf))
    parts = [
        (section["sh_addr"], bytes(section.data_size) if section["sh_type"] == "SHT_NOBITS" else section.data())
        for section in file.iter_sections()
        if section["sh_flags"] & SH_FLAGS.SHF_ALLOC and section.data_size
    ]
    return file["e_entry"], parts
