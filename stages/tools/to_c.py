"""Makes C of a model, for a microcontroller or any other program: `python -m stages.tools.to_c FOLDER`.

Reads:
    data/ship/model.tflite, or with --model any other int8 .tflite file of the pipeline.
    Its class names, as `python -m stages.tools.predict` does.

Writes, in FOLDER:
    model.c, model.h: the model in C99, which needs no library. model.h says how it is called.
    example.c: a program that prints the class of a picture; its first lines say how it is compiled.

Prints a table of the layers, and what the model costs on two microcontrollers, which are emulated: flash with the code;
RAM with image, logits, working memory and stack; and executed instructions for an image of noise, which are no cycles
and no milliseconds.
Beside it, the memory that TensorFlow Lite Micro asks for, and how long C and LiteRT take on this machine.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from stages.lib import device
from stages.lib.device.compiler import Code, compile_to_c
from stages.lib.device.encode import PREFERENCES
from stages.lib.errors import UserError
from stages.lib.storage.files import write_bytes
from stages.lib.target.build import PROCESSORS, Optimization, Processor, build_for_host, build_for_processor
from stages.lib.target.emulator import count_instructions
from stages.lib.target.latency import measure_latency_in_fresh_process
from stages.lib.target.memory import measure_sections
from stages.lib.target.micro import measure_arena
from stages.lib.target.program import Program
from stages.tools.predict import MODEL, check_given, escape, read_card, read_classifier

EXAMPLE = Path(device.__file__).with_name("example.c")
NAME_OF: dict[Processor, str] = {"cortex_m4": "Cortex-M4", "cortex_m0plus": "Cortex-M0+"}


def format_layers(code: Code) -> str:
    """Writes a line for each layer with weights: its MACs, and the bytes of its tables.

    >>> from stages.lib.device.compiler import LayerCost
    >>> layer = LayerCost("conv1", "conv", macs=9000, dense_macs=36000, weights_bytes=40, form="sparse")
    >>> print(format_layers(Code("", "", 0, 40, 9000, 36000, [layer])))
    conv1               9,000 of       36,000 MACs         40 bytes, sparse
    """
    return "\n".join(
        f"{layer.name:10} {layer.macs:14,} of {layer.dense_macs:12,} MACs {layer.weights_bytes:10,} bytes, {layer.form}"
        for layer in code.layers
    )


def measure(program: Program, processor: Processor, optimization: Optimization) -> str:
    """Says what a model costs on a processor."""
    elf = build_for_processor(program, processor, optimization)
    sections = measure_sections(elf)
    image = np.random.default_rng(0).integers(-128, 128, program.image_bytes, np.int8)
    run = count_instructions(program, elf, processor, image)
    ram_bytes = program.given_bytes + sections.static_bytes + run.stack_bytes
    return (
        f"{NAME_OF[processor]}: {sections.flash_bytes:,} bytes of flash, {ram_bytes:,} bytes of RAM, "
        f"{run.instructions:,} instructions for an image"
    )


def measure_beside_litert(program: Program, model: Path) -> str:
    """Says what a LiteRT file takes under TensorFlow Lite Micro, and how long its C and LiteRT take here."""
    arena_bytes = measure_arena(model.read_bytes()).total_bytes
    latency = measure_latency_in_fresh_process(program, build_for_host(program), {"int8": model})
    c_ms, litert_ms = (latency[name]["median_ms"] for name in ("c", "int8"))
    return (
        f"TensorFlow Lite Micro: {arena_bytes:,} bytes of RAM, as a 64-bit machine counts them\n"
        f"Here, on one thread: {c_ms:.2f} ms for an image; LiteRT {litert_ms:.2f} ms"
    )


def main() -> None:
    """Runs the tool."""
    parser = argparse.ArgumentParser(
        "python -m stages.tools.to_c", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", type=check_given, help="where the C is written")
    parser.add_argument("--model", metavar="PATH", type=check_given, default=MODEL, help="default %(default)s")
    parser.add_argument(
        "--prefer",
        choices=PREFERENCES,
        default="speed",
        help="store each kernel as is faster, as is smaller, or with all its zeros; default %(default)s",
    )
    arguments = parser.parse_args()

    model, folder = Path(arguments.model), Path(arguments.folder)
    card = read_card(model)
    read_classifier(model, card, batch_size=1)  # which checks that they belong together
    try:
        code = compile_to_c(model.read_bytes(), card["class_names"], arguments.prefer)
    except UserError as error:
        raise UserError(f"{model}: {error}") from None
    for name, content in (("model.c", code.source), ("model.h", code.header), ("example.c", EXAMPLE.read_text())):
        write_bytes(folder / name, content.encode())
    print(format_layers(code))
    program = Program(
        code.source,
        code.header,
        card["image_size_px"] ** 2 * card["channels"],
        len(card["class_names"]),
        code.buffer_bytes,
    )
    for processor in PROCESSORS:
        print(measure(program, processor, "size" if arguments.prefer == "size" else "speed"))
    print(measure_beside_litert(program, model))
    print(f"{folder}: model.c, model.h, example.c")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {escape(str(error))}")
