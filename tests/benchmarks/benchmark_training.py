"""How fast does the pipeline train, beside the study's way, plain Keras 3 and PyTorch, on this machine?

Run as `python -m tests.benchmarks.benchmark_training` from the top of the repository, after `dvc repro prepare`, on a
machine that does nothing else. Prints Markdown; `--json FILE` writes the same numbers.

Speed (the default). Each row trains the same network on the same images, the first ones of data/prepare/train.npz, in
a process of its own, one after the other; then all of them again, `--rounds` times, so that a drift of the machine
hits all alike. A row's speed is that of whole epochs, the first one left out as warm-up, until `--seconds` have
passed; the table has the median over the rounds, the least and the most.

- (a) the study's way: ImageDataGenerator, batches of 64, Adam, float32.
- (b) plain Keras 3: `fit` on arrays, batches of 256, Adam, float32.
- (c) ours: what stages/train.py does, in the precision of params.yaml; without augmentation, with flip, with strong.
- (d) PyTorch: eager, channels_last, batches of 256, in the precision of (c); with `--torch-python`.

The end of an epoch counts: in (a) and (b) tf.data's autotuning can stall there, which (c) avoids by switching it off.
The fewer `--images` an epoch has, the more that weighs; the pipeline's own epochs have 48,000.
No row validates, unless `--val-images` makes every row do so after each epoch, as stages/train.py does.

Training on one image takes 3 x 2 x MACs floating point operations (FLOPs): a forward pass, the gradients of the
weights and those of the inputs, each with one multiplication and one addition per MAC; less the gradient of the first
convolution's input, which nobody computes. Nothing else is counted: no augmentation, no products of Muon's updates.
The peak is this machine's own: the best product of two 2048 x 2048 matrices in TensorFlow, measured in every round.

Time to accuracy (`--time-to-accuracy 0.93`). Seconds from the start of the process to its end, after the model was
saved, for a model that reaches that accuracy on the test images:

- (b) plain Keras 3, Adam at 1e-3, batches of 128, no augmentation, evaluates on the test images after every epoch,
  stops and saves when the accuracy is reached, and gives up after `--max-epochs`.
- (c) ours: `python -m stages.train MODEL AUGMENTATION SEED` on all training images for `--epochs`, a number that is
  fixed beforehand. Its model is evaluated on the test images after the clock has stopped.

This is a benchmark of speed: it stops on test images, and nothing in the pipeline is chosen by it.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for `python tests/benchmarks/benchmark_training.py`

from stages.lib.cost.macs import count_macs
from stages.lib.errors import UserError
from stages.lib.network.architecture import Layer, list_layers
from stages.lib.params.load import load_params
from stages.lib.params.sections import Params
from stages.lib.params.yaml_1_2 import read_yaml
from stages.lib.storage.files import read_arrays
from stages.lib.storage.variant import Variant

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PREPARED = ROOT / "data/prepare"
AUGMENTATIONS = ("none", "flip", "strong")
PACKAGES = ("tensorflow", "tf-keras", "keras", "numpy")


@dataclass(frozen=True)
class Row:
    """One way to train: the script that does it, what is special in its task, and the interpreter."""

    name: str
    title: str
    script: str
    task: dict[str, Any] = field(default_factory=dict)
    python: str = sys.executable


def positive_int(text: str) -> int:
    """Reads an integer above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer above 0; got {text}")
    return value


def positive_number(text: str) -> float:
    """Reads a finite number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0; got {text}")
    return value


def accuracy(text: str) -> float:
    """Reads a number between 0 and 1."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1; got {text}")
    return value


def read_arguments(params: Params) -> argparse.Namespace:
    """Reads and checks the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", choices=params.models, default="third", help="a model of params.yaml (default: third)")
    add("--rounds", type=positive_int, default=3, help="times that every row is measured (default: 3)")
    add("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    speed = parser.add_argument_group("speed")
    speed.add_argument("--seconds", type=positive_number, default=20.0, help="to measure a row for (default: 20)")
    speed.add_argument("--images", type=positive_int, default=12_800, help="images of an epoch (default: 12800)")
    speed.add_argument(
        "--val-images", type=positive_int, default=0, help="validation images after each epoch (default: none)"
    )
    speed.add_argument(
        "--precision",
        choices=("auto", "bfloat16", "float32"),
        default=params.train.precision,
        help="of (c) and (d) (default: train.precision of params.yaml)",
    )
    speed.add_argument("--torch-python", metavar="PYTHON", help="an interpreter that has torch and numpy, for (d)")
    to_accuracy = parser.add_argument_group("time to accuracy")
    to_accuracy.add_argument("--time-to-accuracy", type=accuracy, metavar="ACCURACY", help="to reach, such as 0.93")
    to_accuracy.add_argument("--epochs", type=positive_int, default=4, help="of (c) (default: 4)")
    to_accuracy.add_argument("--max-epochs", type=positive_int, default=30, help="of (b) (default: 30)")
    to_accuracy.add_argument(
        "--augmentation", choices=params.augmentations, default="none", help="of (c) (default: none)"
    )
    arguments = parser.parse_args()
    check_arguments(parser, arguments, params)
    return arguments


def check_arguments(parser: argparse.ArgumentParser, arguments: argparse.Namespace, params: Params) -> None:
    """Ends the program where something is missing that the measurement will need.

    Raises:
        UserError: if it is the images.
    """
    for split in ("train", "val", "test"):
        if not (PREPARED / f"{split}.npz").exists():
            raise UserError(f"data/prepare/{split}.npz: not found; run `dvc repro prepare` to make it")
    if missing := [name for name in AUGMENTATIONS if name not in params.augmentations]:
        parser.error(f"params.yaml has no augmentation {', '.join(missing)}, which the rows (c) need")
    if arguments.torch_python and not shutil.which(arguments.torch_python):
        parser.error(f"--torch-python: {arguments.torch_python} is no program")
    if arguments.json and not arguments.json.resolve().parent.is_dir():
        parser.error(f"--json: there is no folder {arguments.json.parent}")
    for option, split in (("images", "train"), ("val_images", "val")):
        (labels,) = read_arrays(PREPARED / f"{split}.npz", "labels")
        wanted, available = getattr(arguments, option), len(labels)
        if wanted > available:
            parser.error(f"--{option.replace('_', '-')}: {split}.npz has {available} images; got {wanted}")


def count_training_flops(layers: Sequence[Layer], val_images_per_image: float = 0.0) -> float:
    """Counts the FLOPs of training on one image, with its share of the validation, a forward pass an image.

    >>> conv = Layer("conv1", "conv", (28, 28, 1), (28, 28, 32), kernel_size=3)  # 225,792 MACs
    >>> logits = Layer("logits", "dense", (25088,), (10,))  # 250,880 MACs
    >>> count_training_flops([conv, logits]) == 4 * 225_792 + 6 * 250_880
    True
    """
    macs = [count for count in map(count_macs, layers) if count]
    return 6 * sum(macs) - 2 * macs[0] + 2 * sum(macs) * val_images_per_image


def list_rows(torch_python: str | None) -> list[Row]:
    """Lists the ways to train that are compared."""
    rows = [
        Row("study", "(a) the study's way, augmented", "study_training.py"),
        Row("plain", "(b) plain Keras 3", "keras3_training.py"),
    ]
    rows += [
        Row(f"ours_{name}", f"(c) ours, {name}", "our_training.py", {"augmentation": name}) for name in AUGMENTATIONS
    ]
    if torch_python:
        rows.append(Row("torch", "(d) PyTorch", "torch_training.py", python=torch_python))
    return rows


def build_environment() -> dict[str, str]:
    """Builds the environment of the rows: it finds this project, and nothing leaks in that would change a row."""
    leaking = ("TF_USE_LEGACY_KERAS", "TF_CONFIG", "DVC_STAGE")
    kept = {name: value for name, value in os.environ.items() if name not in leaking}
    return kept | {"PYTHONPATH": str(ROOT), "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}


def run_process(
    command: Sequence[str], cwd: Path, task: Mapping[str, Any] | None = None, environment: dict[str, str] | None = None
) -> str:
    """Runs a command with `task` as JSON on stdin and returns its stdout; its failure ends the program."""
    done = subprocess.run(
        command,
        cwd=cwd,
        input=json.dumps(task),
        env=environment or build_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{done.stderr}error: {' '.join(command)} failed with status {done.returncode}")
    return done.stdout


def run_script(script: str, task: Mapping[str, Any], python: str = sys.executable) -> dict[str, Any]:
    """Runs a script of this folder on a task and returns its result, the last line of its output."""
    result: dict[str, Any] = json.loads(run_process([python, str(HERE / script)], ROOT, task).splitlines()[-1])
    return result


def list_model_layers(params: Params, model: str) -> list[Layer]:
    """Lists the layers of a model of params.yaml."""
    num_classes = len(params.dataset.class_names)
    return list_layers(params.dataset.image_size_px, num_classes, **params.models[model].model_dump())


def list_versions(torch_python: str | None) -> dict[str, str]:
    """Lists the versions of what computes."""
    versions = {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}
    if torch_python:
        command = [torch_python, "-c", "import numpy, torch; print(torch.__version__)"]
        versions["torch"] = run_process(command, ROOT).strip()
    return versions


def summarize(values: Sequence[float]) -> dict[str, float]:
    """Returns median, least and most.

    >>> summarize([3.0, 1.0, 2.0])
    {'median': 2.0, 'min': 1.0, 'max': 3.0}
    """
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def measure_rounds(
    rows: Sequence[Row], task: Mapping[str, Any], rounds: int
) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """Measures the machine and then every row, `rounds` times; (d) computes in the precision found for (c).

    Returns:
        What machine.py found in each round, and the results of each row.
    """
    machine: list[dict[str, Any]] = []
    results: dict[str, list[dict[str, Any]]] = {row.name: [] for row in rows}
    with tqdm(total=rounds * (1 + len(rows)), unit="row", leave=False, disable=None) as bar:
        for _ in range(rounds):
            bar.set_description("matrix product")
            machine.append(run_script("machine.py", task))
            bar.update()
            for row in rows:
                bar.set_description(row.title)
                precision = machine[0]["precision"] if row.name == "torch" else task["precision"]
                results[row.name].append(
                    run_script(row.script, {**task, "precision": precision, **row.task}, row.python)
                )
                bar.update()
    return machine, results


def benchmark_speed(params: Params, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures all rows and returns every number that is reported."""
    layers = list_model_layers(params, arguments.model)
    rows = list_rows(arguments.torch_python)
    versions = list_versions(arguments.torch_python)
    task = {
        "model": arguments.model,
        "layers": list(map(asdict, layers)),
        "train_path": str(PREPARED / "train.npz"),
        "val_path": str(PREPARED / "val.npz"),
        "num_images": arguments.images,
        "num_val_images": arguments.val_images,
        "seconds": arguments.seconds,
        "seed": params.seed,
        "precision": arguments.precision,
        "optimizer": params.train.optimizer,
    }
    machine, results = measure_rounds(rows, task, arguments.rounds)
    flops = count_training_flops(layers, arguments.val_images / arguments.images)
    peaks = {name: max(found["peak_gflops"][name] for found in machine) for name in machine[0]["peak_gflops"]}
    speeds = {name: summarize([result["images_per_second"] for result in found]) for name, found in results.items()}
    medians = {name: speed["median"] for name, speed in speeds.items()}
    return {
        "model": arguments.model,
        "images": arguments.images,
        "val_images": arguments.val_images,
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "training_flops_per_image": count_training_flops(layers),
        "peak_gflops": peaks,
        "rows": [
            describe_row(row, results[row.name][0]["precision"], speeds[row.name], medians["plain"], flops, peaks)
            for row in rows
        ],
        "ratios": compute_ratios(medians),
        "augmentation_cost_percent": compute_costs(medians),
        "hardware": {key: machine[0][key] for key in ("cpu", "num_cpus", "gpus")},
        "versions": versions,
        "date": date.today().isoformat(),
    }


def describe_row(
    row: Row, precision: str, speed: dict[str, float], plain: float, flops: float, peaks: Mapping[str, float]
) -> dict[str, Any]:
    """Describes what a row achieved; `speed` and `plain` are in images/s, `flops` per image, `peaks` in GFLOP/s."""
    gflops = speed["median"] * flops / 1e9
    return {
        "row": row.title,
        "precision": precision,
        "images_per_second": speed,
        "ratio_to_plain": speed["median"] / plain,
        "gflops": gflops,
        "share_of_peak": gflops / peaks[precision],
    }


def compute_ratios(speeds: Mapping[str, float]) -> dict[str, float]:
    """Divides our speed by the others', like by like: strong by the augmented (a), none by (b) and (d)."""
    pairs = (("strong", "(a)", "study"), ("none", "(b)", "plain"), ("none", "(d)", "torch"))
    return {
        f"ours, {augmentation} / {letter}": speeds[f"ours_{augmentation}"] / speeds[other]
        for augmentation, letter, other in pairs
        if other in speeds
    }


def compute_costs(speeds: Mapping[str, float]) -> dict[str, float]:
    """Computes how much longer an image takes with each augmentation than without, in percent.

    >>> compute_costs({"ours_none": 1000.0, "ours_flip": 1000.0, "ours_strong": 800.0})
    {'flip': 0.0, 'strong': 25.0}
    """
    return {name: 100 * (speeds["ours_none"] / speeds[f"ours_{name}"] - 1) for name in AUGMENTATIONS if name != "none"}


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Formats a Markdown table; all columns but the first one are aligned right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def format_range(value: Mapping[str, float]) -> str:
    """Formats median, least and most as integers."""
    return f"{value['median']:,.0f} ({value['min']:,.0f}-{value['max']:,.0f})"


def format_speed(report: Mapping[str, Any]) -> str:
    """Formats the report of `benchmark_speed` as Markdown."""
    header = ["row", "precision", "images/s (min-max)", "ratio to (b)", "GFLOP/s", "share of peak"]
    rows = [
        [
            row["row"],
            row["precision"],
            format_range(row["images_per_second"]),
            f"{row['ratio_to_plain']:.2f}",
            f"{row['gflops']:,.0f}",
            f"{row['share_of_peak']:.0%}",
        ]
        for row in report["rows"]
    ]
    peaks = ", ".join(f"{value:,.0f} in {name}" for name, value in report["peak_gflops"].items())
    parts = [
        format_table(header, rows),
        f"Model {report['model']}, {report['training_flops_per_image'] / 1e6:,.1f} MFLOPs to train on an image; "
        f"epochs of {report['images']:,} images, {report['val_images']:,} for validation; medians over "
        f"{report['rounds']} rounds of {report['seconds']:g} s. Peak in GFLOP/s: {peaks}.",
        format_machine(report),
        "\n".join(
            [f"- {name}: {ratio:.2f} times the images/s" for name, ratio in report["ratios"].items()]
            + [
                f"- {name}: {cost:+.1f}% more time for an image than none"
                for name, cost in report["augmentation_cost_percent"].items()
            ]
        ),
    ]
    return "\n\n".join(parts)


def format_machine(report: Mapping[str, Any]) -> str:
    """Formats hardware, versions and date as one line."""
    hardware = report["hardware"]
    gpus = f"{len(hardware['gpus'])} GPUs, " if hardware["gpus"] else ""
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    return f"{hardware['cpu']}, {hardware['num_cpus']} CPUs, {gpus}{versions}, {report['date']}."


def write_params(path: Path, epochs: int) -> None:
    """Writes params.yaml with so many epochs, of all training images."""
    params = read_yaml(ROOT / "params.yaml")
    params["train"] |= {"epochs": epochs, "clean_epochs": min(params["train"]["clean_epochs"], epochs - 1)}
    params["study"]["keep_fraction"] = 1.0
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def time_plain(task: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Times (b) from the start of its process to its end; its model is saved in `folder`."""
    start = time.perf_counter()
    result = run_script("keras3_training.py", {**task, "model_path": str(folder / "model.keras")})
    return {"seconds": time.perf_counter() - start} | result


def time_ours(task: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Times (c) likewise, in a copy of the pipeline in `folder`; its accuracy is measured after that."""
    shutil.copytree(ROOT / "stages", folder / "stages")
    write_params(folder / "params.yaml", task["epochs"])
    (folder / "data").mkdir()
    (folder / "data/prepare").symlink_to(PREPARED.resolve())
    environment = {name: value for name, value in build_environment().items() if name != "PYTHONPATH"}
    start = time.perf_counter()
    names = [task["model"], task["augmentation"], str(task["seed"])]
    run_process([sys.executable, "-m", "stages.train", *names], folder, environment=environment)
    seconds = time.perf_counter() - start
    path = Variant("train", task["model"], task["augmentation"], task["seed"]).folder / "model.h5"
    result = run_script("our_accuracy.py", {**task, "model_path": str(folder / path)})
    return {"seconds": seconds, "epochs": task["epochs"]} | result


def benchmark_time_to_accuracy(params: Params, arguments: argparse.Namespace) -> dict[str, Any]:
    """Times (b) and (c) in turn, `rounds` times, and returns every number that is reported."""
    task = {
        "model": arguments.model,
        "augmentation": arguments.augmentation,
        "layers": list(map(asdict, list_model_layers(params, arguments.model))),
        "train_path": str(PREPARED / "train.npz"),
        "test_path": str(PREPARED / "test.npz"),
        "seed": params.study.seeds[0],
        "epochs": arguments.epochs,
        "max_epochs": arguments.max_epochs,
        "target": arguments.time_to_accuracy,
        "precision": params.train.precision,
    }
    ways = {"(b) plain Keras 3": time_plain, f"(c) ours, {arguments.augmentation}": time_ours}
    runs: dict[str, list[dict[str, Any]]] = {title: [] for title in ways}
    machine = run_script("machine.py", task)
    with tqdm(total=arguments.rounds * len(ways), unit="run", leave=False, disable=None) as bar:
        for _ in range(arguments.rounds):
            for title, measure in ways.items():
                bar.set_description(title)
                with tempfile.TemporaryDirectory() as folder:
                    runs[title].append(measure(task, Path(folder)))
                bar.update()
    rows = [describe_runs(title, found, arguments.time_to_accuracy) for title, found in runs.items()]
    plain, ours = rows
    have_all_reached = all(row["times_reached"] == arguments.rounds for row in rows)
    return {
        "model": arguments.model,
        "target_accuracy": arguments.time_to_accuracy,
        "rounds": arguments.rounds,
        "rows": rows,
        "ratio": plain["seconds"]["median"] / ours["seconds"]["median"] if have_all_reached else None,
        "hardware": {key: machine[key] for key in ("cpu", "num_cpus", "gpus")},
        "versions": list_versions(None),
        "date": date.today().isoformat(),
    }


def describe_runs(title: str, runs: Sequence[Mapping[str, Any]], target: float) -> dict[str, Any]:
    """Describes the runs of one row."""
    summaries = {key: summarize([run[key] for run in runs]) for key in ("seconds", "epochs", "accuracy")}
    return {"row": title, **summaries, "times_reached": sum(run["accuracy"] >= target for run in runs)}


def format_time_to_accuracy(report: Mapping[str, Any]) -> str:
    """Formats the report of `benchmark_time_to_accuracy` as Markdown."""
    rows = [
        [
            row["row"],
            format_range(row["seconds"]),
            f"{row['epochs']['median']:g}",
            f"{row['accuracy']['median']:.4f} ({row['accuracy']['min']:.4f}-{row['accuracy']['max']:.4f})",
            f"{row['times_reached']} of {report['rounds']}",
        ]
        for row in report["rows"]
    ]
    ratio = "no ratio: not every run reached it" if report["ratio"] is None else f"{report['ratio']:.2f}"
    parts = [
        format_table(["row", "seconds (min-max)", "epochs", "test accuracy (min-max)", "reached"], rows),
        f"Model {report['model']}, to a test accuracy of {report['target_accuracy']:g}; medians.",
        format_machine(report),
        f"- seconds of (b) / seconds of ours: {ratio}",
    ]
    return "\n\n".join(parts)


def main() -> None:
    """Measures what the command line asks for and prints it."""
    try:
        params = load_params(ROOT / "params.yaml")
        arguments = read_arguments(params)
        if arguments.time_to_accuracy:
            report = benchmark_time_to_accuracy(params, arguments)
        else:
            report = benchmark_speed(params, arguments)
        print(format_time_to_accuracy(report) if arguments.time_to_accuracy else format_speed(report))
        if arguments.json:
            arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)  # 128 + SIGINT, as shells count


if __name__ == "__main__":
    main()
