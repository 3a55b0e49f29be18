"""Which model gives the most accuracy for its bytes, its instructions and its time? Puts every model side by side.

Reads:
    params.yaml: which models, augmentations, prunings and shrinkings belong to the run; others in data/ are ignored.
    data/select_model/choice.json; metrics.json of train, finish, evaluate, complexity, prune, shrink, export and
    deploy; layers.csv of shrink; model.h5 and the exported files.
    predictions.npz of evaluate and export: what each model and file says of each test image.
    data/prepare/val.npz: how many images there are, for the intervals of accuracies.
    data/recorded_times.json: how long the exported files take; data/timing/ for files that it does not know.

Writes, in data/frontier/:
    frontier.csv: a row a model file, and, where the data are those of the study, a row a published model of others,
    which is never on a front.
    latency.csv: the files whose times are known.   c_latency.csv: those whose C has known times.
    comparisons.csv: which candidates and files differ on the test images, a paired test a row.
    frontier.md: a table of the README.   shrinking.md: another, MACs by layer before and after shrinking, and times.

A model is on a front if no other is at least as accurate on the validation images for at most its cost, and better in
one of the two. The test accuracy is only shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stages.lib.params.load import load_params
from stages.lib.params.sections import Params
from stages.lib.results.comparisons import Comparison, compare_candidates, compare_files, compare_trainings
from stages.lib.results.pareto import find_front
from stages.lib.results.published import (
    FLOAT32_BYTES,
    LEADERBOARD,
    LEADERBOARD_SOURCE,
    STUDY_TEST_ACCURACY,
    is_of_study,
)
from stages.lib.results.rows import (
    PRECISIONS,
    LayerMacs,
    ModelFile,
    PublishedModel,
    RankedFile,
    count_images,
    find_chosen,
    list_variants,
    read_candidates,
    read_class_scores,
    read_cost,
    read_dense,
    read_device_costs,
    read_exported,
    read_shrunk_layers,
    read_version,
    write_frontier,
    write_rows,
)
from stages.lib.results.tables import format_accuracy, format_table
from stages.lib.results.times import TimedC, TimedFile, Times, read_times
from stages.lib.running.runner import run_stage
from stages.lib.storage.files import read_json, write_bytes
from stages.lib.storage.variant import name_finished

READS = (
    "dataset.name",
    "dataset.class_names",
    "study",
    "augmentations",
    "prune.rankings",
    "prune.shrunk_shares",
    "prune.shrunk_rankings",
    "prune.sparsities",
    "shrink.filters",
    "shrink.macs_shares",
)
CHOICE = Path("data/select_model/choice.json")
OUTPUT = Path("data/frontier")


def list_files(params: Params, choice: Mapping[str, Any]) -> list[ModelFile]:
    """Lists every model file of this run: Keras files of all candidates and the finished one, then LiteRT files."""
    prune, shrink, seed = params.prune, params.shrink, params.study.seeds[0]
    candidates = read_candidates(params.study)
    dense = [read_dense(candidate.variant, candidate) for candidate in candidates]
    finished = read_dense(name_finished(seed), find_chosen(candidates, choice))
    variants = [
        *list_variants("prune", prune.ways, prune.sparsities, seed),
        *list_variants("shrink", shrink.filters, shrink.macs_shares, seed),
    ]
    exported = [file for file in dense if file.target == choice["augmentation"]]
    exported += [finished, *[read_version(variant, finished) for variant in variants]]
    return [*dense, finished] + [file for model in exported for file in read_exported(model)]


def rank(files: Sequence[ModelFile], measured: Sequence[Mapping[str, Any]]) -> list[RankedFile]:
    """Tells of each file whether it is on the front of each cost, by validation accuracy.

    Args:
        files: all of ours.
        measured: what else is known of each, as `read_class_scores` and `read_device_costs` give it together.
    """
    costs: dict[str, list[int | None]] = {
        "size": [file.gzip_size_bytes for file in files],
        "macs": [file.macs for file in files],
        "flash": [known["flash_bytes"] for known in measured],
        "ram": [known["ram_bytes"] for known in measured],
        "instructions": [known["instructions"] for known in measured],
    }
    accuracies = [file.val_accuracy for file in files]
    fronts = {f"is_on_{name}_front": find_front(column, accuracies) for name, column in costs.items()}
    return [
        RankedFile(**{**asdict(file), **known, **{name: front[place] for name, front in fronts.items()}})
        for place, (file, known) in enumerate(zip(files, measured, strict=True))
    ]


def list_published(models: Sequence[str]) -> list[PublishedModel]:
    """Lists what others published: the study's models where they are in `models`, and the leaderboard.

    Of a model that the study trained twice, the better accuracy counts.
    """
    found: list[tuple[str, float, int, int | None, str]] = []
    for model in dict.fromkeys(model for model, _ in STUDY_TEST_ACCURACY if model in models):
        best = max(accuracy for (name, _), accuracy in STUDY_TEST_ACCURACY.items() if name == model)
        cost = read_cost(model)
        found.append((f"the study's {model}", best, cost["parameters"], cost["macs"], "the study"))
    found += [(name, accuracy, parameters, None, LEADERBOARD_SOURCE) for name, parameters, accuracy in LEADERBOARD]
    return [
        PublishedModel(name, accuracy, FLOAT32_BYTES * parameters, macs, parameters, published_by=source)
        for name, accuracy, parameters, macs, source in found
    ]


def round_time(milliseconds: float) -> float:
    """Rounds a time to two digits: what differs after them is noise, and shall decide nothing.

    >>> round_time(0.2049)
    0.2
    """
    return float(f"{milliseconds:.2g}")


def list_timed(files: Sequence[ModelFile], times: Times) -> list[TimedFile]:
    """Lists the LiteRT files whose times are known, and tells which are on the front of time."""
    known = [(file, times.find_latency(file.path)) for file in files if file.format == "tflite"]
    timed = [(file, latency) for file, latency in known if latency]
    costs = [round_time(latency["median_ms"]) for _, latency in timed]
    fronts = find_front(costs, [file.val_accuracy for file, _ in timed])
    return [
        TimedFile(**asdict(file), **latency, is_on_time_front=is_on_front)
        for (file, latency), is_on_front in zip(timed, fronts, strict=True)
    ]


def list_timed_c(files: Sequence[RankedFile], times: Times) -> list[TimedC]:
    """Lists the times of the files that have C, where they are known."""
    rows = []
    for file in files:
        known = times.find_c_latency(file.variant.deployed / "model.c") if file.flash_bytes is not None else None
        if known:
            of_c = {f"c_{name}": value for name, value in known["c"].items()}
            of_files = {f"{name}_median_ms": known.get(name, {}).get("median_ms") for name in PRECISIONS}
            of_run = {name: known[name] for name in ("num_threads", "cpu", "compiler", "runtime", "sha256")}
            rows.append(TimedC(name=file.name, kind=file.kind, **of_c, **of_files, **of_run))
    return rows


def format_frontier(
    files: Sequence[RankedFile],
    timed: Sequence[TimedFile],
    timed_c: Sequence[TimedC],
    num_images: Mapping[str, int],
) -> str:
    """Writes the table of the guide: the finished model in float32, the front by flash, and the fewest instructions.

    Args:
        files: all of ours.
        timed: those whose times are known; of others the times stay blank.
        timed_c: the same of their C.
        num_images: of val and test.
    """
    (dense,) = (file for file in files if (file.kind, file.label) == ("dense", "finished"))
    times_of = {(file.kind, file.label): ("", f"{file.median_ms:.3f}") for file in timed}
    for file in timed_c:  # in one process, so that these two compare
        times_of[file.kind, f"{file.name} int8"] = (f"{file.c_median_ms:.3f}", f"{file.int8_median_ms:.3f}")
    front = sorted((file for file in files if file.is_on_flash_front), key=lambda file: -(file.flash_bytes or 0))
    by_instructions = [file for file in files if file.is_on_instructions_front]
    lightest = sorted(by_instructions, key=lambda file: file.instructions or 0)[:1]
    rows = [
        [
            f"{file.label}, {file.kind}",
            format_accuracy(file.val_accuracy, num_images["val"]),
            format_accuracy(file.test_accuracy, num_images["test"]),
            f"{file.size_bytes / 1000:,.0f} kB",
            "" if file.flash_bytes is None else f"{file.flash_bytes / 1000:,.1f} kB",
            "" if file.ram_bytes is None else f"{file.ram_bytes / 1000:,.1f} kB",
            f"{(file.macs if file.executed_macs is None else file.executed_macs) / 1e6:,.2f}",
            "" if file.instructions is None else f"{file.instructions / 1e6:,.1f}",
            *times_of.get((file.kind, file.label), ("", "")),
        ]
        for file in dict.fromkeys([dense, *front, *lightest])
    ]
    header = "file, validation, test, .tflite, flash, RAM, million MACs, million instructions, ms in C, ms in LiteRT"
    return format_table(header.split(", "), rows)


def format_shrinking(layers: Sequence[LayerMacs], names: Sequence[str], timed: Sequence[TimedFile]) -> str:
    """Writes a table of the README: MACs by layer before shrinking and after, and how long the files take.

    Args:
        layers: of the finished model, then of each shrunk one.
        names: of these models; the networks of one share are the same in every way of shrinking, so those of the first
            way stand for all.
        timed: files whose times are known.
    """
    columns: dict[str, dict[str, int]] = {}
    for row in layers:
        columns.setdefault(row.share, {})[row.layer] = row.macs
    totals = [sum(column.values()) for column in columns.values()]
    ms_of = {(file.name, file.precision): f"{file.median_ms:.3f}" for file in timed}
    rows = [[layer, *[f"{column[layer]:,}" for column in columns.values()]] for layer in columns["all filters"]]
    rows.append(["all", *[f"{total:,}" for total in totals]])
    rows.append(["share", *[f"{100 * total / totals[0]:.1f} %" for total in totals]])
    rows += [[f"ms, {precision}", *[ms_of.get((name, precision), "") for name in names]] for precision in PRECISIONS]
    return format_table(["MACs of layer", *names], rows)


def main() -> None:
    """Runs the stage."""
    params, choice = load_params(reads=READS), read_json(CHOICE)
    study, shrink = params.study, params.shrink
    seed, way = study.seeds[0], shrink.filters[0]
    files = list_files(params, choice)
    ranked = rank(files, [read_class_scores(file) | read_device_costs(file) for file in files])
    times = read_times(())
    timed = list_timed(files, times)
    finished = name_finished(seed)
    num_images = count_images(finished)
    has_others = is_of_study(params.dataset.name, params.dataset.class_names)
    others = list_published(study.models) if has_others else []
    write_frontier(OUTPUT / "frontier.csv", ranked, others, num_images)
    write_rows(OUTPUT / "latency.csv", TimedFile, timed, num_images)
    timed_c = list_timed_c(ranked, times)
    write_rows(OUTPUT / "c_latency.csv", TimedC, timed_c)
    candidates = read_candidates(study)
    chosen = find_chosen(candidates, choice)
    comparisons = [
        *compare_candidates(candidates, chosen, params.augmentations),
        *compare_trainings(finished, chosen.variant),
        *compare_files(files),
    ]
    write_rows(OUTPUT / "comparisons.csv", Comparison, comparisons)
    write_bytes(OUTPUT / "frontier.md", format_frontier(ranked, timed, timed_c, num_images).encode())
    shrunk = list_variants("shrink", [way], shrink.macs_shares, seed)
    names = [variant.name for variant in (finished, *shrunk)]
    layers = read_shrunk_layers(way, shrink.macs_shares, seed)
    write_bytes(OUTPUT / "shrinking.md", format_shrinking(layers, names, timed).encode())
    on_front = sum(file.is_on_flash_front for file in ranked)
    print(
        f"{OUTPUT}: {len(files)} model files, {on_front} of them on the front by flash; the times of {len(timed)} known"
    )


if __name__ == "__main__":
    run_stage(main)
