"""What does a model cost on a small device? Makes C of the int8 files of a stage; `python -m stages.deploy SOURCE`.

The C needs no runtime and no library, and skips the weights that are zero. It is built for two microcontrollers, run in
an emulator of them, which counts instructions, not cycles, and timed on this machine beside the LiteRT files.

Reads:
    data/export/<source>/<name>/, for a source of train, finish, prune or shrink: int8.tflite; where export left it out,
        the model is left out here, too.   float32.tflite, which is only timed.
    data/prepare/val.npz: `deploy.images` of its images are run.

Writes, in data/deploy/<source>/<name>/:
    model.c, model.h: the model in C99.
    layers.csv: of each layer with weights, MACs that are executed for an image, MACs of the dense layer, bytes of its
        tables, and their form.
    metrics.json: the same of the whole model; bytes of flash and RAM on a Cortex-M4, and what they are made of;
        instructions for the first image on a Cortex-M4 and a Cortex-M0+; how many images got the same logits, bit for
        bit, from the Cortex-M4 as from this machine; bytes of the arena of TensorFlow Lite Micro for the same file, as
        a 64-bit machine measures it. Of the finished model also, as a control, what it costs to skip no zero.
and, which are no DVC outputs, since no two runs take the same time:
    data/timing/c/<source>/<name>.json: how long the C takes here, beside the LiteRT files.

The stage fails if a Cortex-M4, or for the first image a Cortex-M0+, gives other logits than this machine.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stages.lib.device.compiler import Code, compile_to_c
from stages.lib.errors import UserError
from stages.lib.litert.runtime import read_interpreter, to_model_input
from stages.lib.params.load import load_params
from stages.lib.running.arguments import parse_names
from stages.lib.running.machine import read_cpu_name
from stages.lib.running.runner import TIMING, run_stage
from stages.lib.storage.files import check_exists, compute_sha256, read_split, write_bytes, write_csv, write_json
from stages.lib.target.build import PROCESSORS, Optimization, Processor, build_for_host, build_for_processor
from stages.lib.target.emulator import Run, count_instructions, run_on_processor
from stages.lib.target.host import run_on_host
from stages.lib.target.latency import measure_latency_in_fresh_process
from stages.lib.target.memory import measure_sections
from stages.lib.target.micro import measure_arena
from stages.lib.target.program import Program

READS = ("dataset.class_names", "deploy")
SOURCES = ("train", "finish", "prune", "shrink")
EXPORT = Path("data/export")
VAL_SET = Path("data/prepare/val.npz")
OUTPUT = Path("data/deploy")
CONTROLLED = ("macs", "flash_bytes", "ram_bytes", "instructions_cortex_m4", "instructions_cortex_m0plus")


@dataclass(frozen=True)
class Deployed:
    """A model in C, and what it costs.

    Attributes:
        path: of the int8 file that it was made of.
        code: the C.
        program: the same, to be built and run.
        library: the same, built for this machine.
        metrics: what metrics.json holds, but for the arena of TensorFlow Lite Micro.
    """

    path: Path
    code: Code
    program: Program
    library: bytes
    metrics: dict[str, int]

    @property
    def folder(self) -> Path:
        """Returns where its files lie."""
        return OUTPUT / self.path.parent.relative_to(EXPORT)


def make_program(code: Code, image_bytes: int, num_classes: int) -> Program:
    """Adds to generated C what its caller has to know."""
    return Program(code.source, code.header, image_bytes, num_classes, code.buffer_bytes)


def build_all(program: Program, optimization: Optimization) -> dict[Processor, bytes]:
    """Builds a model for each processor."""
    return {processor: build_for_processor(program, processor, optimization) for processor in PROCESSORS}


def run_all(program: Program, elfs: Mapping[Processor, bytes], image: np.ndarray) -> dict[Processor, Run]:
    """Runs a model on each processor on one int8 image."""
    return {processor: count_instructions(program, elf, processor, image) for processor, elf in elfs.items()}


def check_same(path: Path, processor: Processor, logits: np.ndarray, expected: np.ndarray) -> None:
    """Checks that the C of the file at `path` gives on a processor what it gives here: (images, classes) int8 logits.

    Raises:
        UserError: if not.
    """
    different = int((logits != expected).any(axis=1).sum())
    if different:
        raise UserError(
            f"{path}: expected its C to give on a {processor}, emulated, the logits that it gives here; got others on "
            f"{different} of {len(logits)} validation images; do not deploy it, and install requirements.txt again, of "
            "which the compiler is a part"
        )


def measure_cost(
    code: Code, program: Program, elfs: Mapping[Processor, bytes], runs: Mapping[Processor, Run]
) -> dict[str, int]:
    """Lists what a model costs for an image; flash and RAM are those of the Cortex-M4."""
    sections, stack_bytes = measure_sections(elfs["cortex_m4"]), runs["cortex_m4"].stack_bytes
    return {
        "macs": code.macs,
        "dense_macs": code.dense_macs,
        "flash_bytes": sections.flash_bytes,
        "code_bytes": sections.code,
        "weights_bytes": code.weights_bytes,
        "ram_bytes": sections.static_bytes + program.given_bytes + stack_bytes,
        "image_bytes": program.image_bytes,
        "buffer_bytes": code.buffer_bytes,
        "stack_bytes": stack_bytes,
        **{f"instructions_{processor}": run.instructions for processor, run in runs.items()},
    }


def deploy_model(
    path: Path, class_names: Sequence[str], prefer: Optimization, images: np.ndarray, has_control: bool
) -> Deployed:
    """Makes C of an int8 file, and measures it without timing it.

    Args:
        path: of the file.
        class_names: by label.
        prefer: what the generator and the compiler aim at.
        images: uint8, of which the first one's instructions are counted.
        has_control: whether the C that skips no zero is measured, too.

    Raises:
        UserError: if it cannot be compiled, or a processor gives other logits than this machine.
    """
    content = path.read_bytes()
    given = to_model_input(read_interpreter(path, 1, num_threads=1), images)
    code = compile_to_c(content, class_names, prefer)
    program = make_program(code, given[0].size, len(class_names))
    library, elfs = build_for_host(program), build_all(program, prefer)
    expected = run_on_host(program, library, given)
    runs = run_all(program, elfs, given[0])
    for processor, run in runs.items():
        check_same(path, processor, run.logits[np.newaxis], expected[:1])
    check_same(path, "cortex_m4", run_on_processor(program, elfs["cortex_m4"], "cortex_m4", given), expected)
    metrics = measure_cost(code, program, elfs, runs) | {"compared_images": len(given)}
    if has_control:
        control = compile_to_c(content, class_names, "dense")
        dense = make_program(control, given[0].size, len(class_names))
        dense_elfs = build_all(dense, prefer)
        cost = measure_cost(control, dense, dense_elfs, run_all(dense, dense_elfs, given[0]))
        metrics |= {f"control_{name}": cost[name] for name in CONTROLLED}
    return Deployed(path, code, program, library, metrics)


def write_deployed(deployed: Deployed) -> None:
    """Writes the files of a model."""
    folder, code = deployed.folder, deployed.code
    write_bytes(folder / "model.c", code.source.encode())
    write_bytes(folder / "model.h", code.header.encode())
    write_csv(folder / "layers.csv", [asdict(layer) for layer in code.layers])
    arena = {"tflite_micro_arena_bytes": measure_arena(deployed.path.read_bytes()).total_bytes}
    write_json(folder / "metrics.json", deployed.metrics | arena)


def write_latency(deployed: Deployed) -> None:
    """Times the C beside the LiteRT files that there are, and writes that, with what identifies C and machine."""
    paths = {name: deployed.path.with_name(f"{name}.tflite") for name in ("int8", "float32")}
    files = {name: path for name, path in paths.items() if path.exists()}
    measured = measure_latency_in_fresh_process(deployed.program, deployed.library, files)
    identity = {"sha256": compute_sha256(deployed.folder / "model.c"), "cpu": read_cpu_name()}
    write_json(TIMING / "c" / deployed.folder.parent.name / f"{deployed.folder.name}.json", identity | measured)


def main() -> None:
    """Runs the stage."""
    (source,) = parse_names(__doc__, source=SOURCES)
    params = load_params(reads=READS)
    check_exists(EXPORT / source)
    paths = sorted((EXPORT / source).glob("*/int8.tflite"))
    deploy = partial(
        deploy_model,
        class_names=params.dataset.class_names,
        prefer=params.deploy.prefer,
        images=read_split(VAL_SET)[0][: params.deploy.images],
        has_control=source == "finish",
    )
    show = partial(tqdm, total=len(paths), leave=False, unit="model", disable=not sys.stderr.isatty())
    all_deployed = []
    (OUTPUT / source).mkdir(parents=True, exist_ok=True)  # where export left out every file, it stays empty
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for deployed in show(pool.map(deploy, paths), f"deploy {source}"):
            write_deployed(deployed)
            all_deployed.append(deployed)
            cost = deployed.metrics
            tqdm.write(
                f"{deployed.folder}: {cost['flash_bytes']:,} bytes of flash, {cost['ram_bytes']:,} of RAM, "
                f"{cost['instructions_cortex_m4']:,} instructions on a Cortex-M4"
            )
    for deployed in show(all_deployed, f"time {source}"):  # now that nothing else runs
        write_latency(deployed)


if __name__ == "__main__":
    run_stage(main)
