"""How long it all took: the times of the committed run, which stand in Git, or else those of this machine.

No two runs take the same time. So that the same params give the same bytes everywhere, a time that
data/recorded_times.json holds of just this file (by its SHA-256) is used before one that was measured here.
`python -m stages.tools.record_times` writes that file, and nothing else does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages.lib.params.sections import PruneParams, ShrinkParams, StudyParams
from stages.lib.results.rows import KIND_OF, ModelFile
from stages.lib.storage.files import compute_sha256, read_json, write_json
from stages.lib.storage.variant import DATA

RECORDED = DATA / "recorded_times.json"
TIMING = DATA / "timing"  # where stages write what they took here
NOT_VERSIONS = ("date", "cpu", "num_cpus", "settings", "policy", "seconds", "images_per_second")


@dataclass(frozen=True)
class StageTime:
    """What a stage took when it last ran: a row of timing.csv. `stage` is its module and its arguments.

    As train@third-flip-42. DVC has other names where two stages share a module, as for prune@finished-lamp-42.
    """

    stage: str
    seconds: float
    peak_memory_mib: int


@dataclass(frozen=True)
class TimedFile(ModelFile):
    """A row of latency.csv: a LiteRT file, and how long it takes for one image, or for a batch of 32, on one thread."""

    median_ms: float
    p25_ms: float
    p75_ms: float
    runs: int
    batch_32_median_ms: float
    batch_32_p25_ms: float
    batch_32_p75_ms: float
    batch_32_runs: int
    peak_memory_mib: float
    runtime_memory_mib: float
    num_threads: int
    cpu: str
    runtime: str
    sha256: str
    is_on_time_front: bool = False


@dataclass(frozen=True)
class TimedC:
    """A row of c_latency.csv: what the C of an int8 file takes for one image, beside the LiteRT files of its model.

    All of them ran in turns in one process, on one thread, so that their times compare.
    """

    name: str  # of the model
    kind: str
    c_median_ms: float
    c_p25_ms: float
    c_p75_ms: float
    c_runs: int
    int8_median_ms: float
    float32_median_ms: float | None  # None where export left that file out
    num_threads: int
    cpu: str
    compiler: str
    runtime: str
    sha256: str  # of model.c


@dataclass(frozen=True)
class Times:
    """What is known of the files at hand."""

    # By SHA-256 of model.h5, what its training took, and with which versions on which hardware.
    trainings: Mapping[str, Mapping[str, Any]]
    latencies: Mapping[str, Mapping[str, Any]]  # by SHA-256 of a LiteRT file, the columns that `TimedFile` adds
    # By SHA-256 of a model.c, medians and quartiles of the C and of the LiteRT files beside it: `c`, `int8`, `float32`.
    c_latencies: Mapping[str, Mapping[str, Any]]
    stages: Sequence[StageTime]  # of the run that made the finished model; empty if that is not known

    def find_training(self, model: Path) -> Mapping[str, Any] | None:
        """Finds what the training of a model.h5 took."""
        return self.trainings.get(compute_sha256(model))

    def find_latency(self, file: Path) -> Mapping[str, Any] | None:
        """Finds what a LiteRT file takes."""
        return self.latencies.get(compute_sha256(file))

    def find_c_latency(self, source: Path) -> Mapping[str, Any] | None:
        """Finds what a model.c takes, built for the CPU that it names."""
        return self.c_latencies.get(compute_sha256(source))


def read_times(items: Sequence[str]) -> Times:
    """Reads all times: recorded ones first, then those of this machine.

    Args:
        items: what may stand behind the @ in the names of this run's stages; other stages that ran here are left out.
    """
    recorded = read_json(RECORDED) if RECORDED.exists() else {}
    own = read_own_times(items)
    is_model = recorded.get("finished_sha256") in [compute_sha256(path) for path in DATA.glob("finish/*/model.h5")]
    is_recorded_run = is_model and recorded.get("items") == list(items)  # the same model may be part of another run
    return Times(
        trainings={**own.trainings, **recorded.get("trainings", {})},
        latencies={**own.latencies, **recorded.get("latencies", {})},
        c_latencies={**own.c_latencies, **recorded.get("c_latencies", {})},
        stages=[StageTime(**stage) for stage in recorded["stages"]] if is_recorded_run else own.stages,
    )


def read_own_times(items: Sequence[str]) -> Times:
    """Reads the times that were measured on this machine; `items` as for `read_times`."""
    trainings = [read_json(path) for path in sorted((TIMING / "training").glob("*.json"))]
    latencies = [_flatten(read_json(path)) for path in sorted((TIMING / "latency").glob("*/*.json"))]
    c_latencies = [read_json(path) for path in sorted((TIMING / "c").glob("*/*.json"))]
    stages = [StageTime(**read_json(path)) for path in sorted(TIMING.glob("*.json"))]
    return Times(
        trainings={training.pop("model_sha256"): training for training in trainings},
        latencies={latency["sha256"]: latency for latency in latencies},
        c_latencies={latency["sha256"]: latency for latency in c_latencies},
        stages=[stage for stage in stages if stage.stage.partition("@")[2] in ("", *items)],
    )


def list_items(study: StudyParams, prune: PruneParams, shrink: ShrinkParams) -> list[str]:
    """Lists what may stand behind the @ in the names of a run's stages."""
    keys = [f"{model}-{augmentation}" for model in study.models for augmentation in study.augmentations]
    seeded = [f"{name}-{seed}" for name in (*keys, "finished") for seed in study.seeds]
    seeded += [f"{ladder}-{seed}" for ladder in prune.ladders for seed in prune.seeds]
    seeded += [f"{filters}-{seed}" for filters in shrink.filters for seed in shrink.seeds]
    return [*study.models, *study.augmentations, *map(str, study.seeds), *seeded, *KIND_OF]


def record_times(
    times: Times,
    items: Sequence[str],
    finished: Path,
    model_files: Sequence[Path],
    exported: Sequence[Path],
    c_files: Sequence[Path],
) -> None:
    """Writes the recorded times: of what is at hand, and of nothing else."""
    write_json(
        RECORDED,
        {
            "finished_sha256": compute_sha256(finished),
            "items": list(items),
            "stages": [asdict(stage) for stage in times.stages],
            "trainings": _keep(times.trainings, model_files),
            "latencies": _keep(times.latencies, exported),
            "c_latencies": _keep(times.c_latencies, c_files),
        },
    )


def _keep(known: Mapping[str, Mapping[str, Any]], paths: Sequence[Path]) -> dict[str, Any]:
    digests = dict.fromkeys(map(compute_sha256, paths))
    return {digest: known[digest] for digest in digests if digest in known}


def _flatten(measured: dict[str, Any]) -> dict[str, Any]:
    batches = {f"batch_32_{name}": value for name, value in measured.pop("batch_32").items()}
    return {**measured.pop("batch_1"), **batches, **measured}
