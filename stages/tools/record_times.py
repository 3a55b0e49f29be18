"""Records what the run that lies here took, so that every clone shows its times: `python -m stages.tools.record_times`.

Writes data/recorded_times.json, which is in Git: seconds and memory of each stage; what each training, each exported
file and the C made of it took, with the SHA-256 of that file. Run it after `dvc repro`, and then `dvc repro` once more,
which writes the tables, pictures and pages that show times. Times of files that were not made here are kept if they are
recorded.
"""

import sys

from stages.lib.errors import UserError
from stages.lib.params.load import load_params
from stages.lib.results.times import RECORDED, Times, list_items, read_own_times, read_times, record_times
from stages.lib.running.arguments import parse_names
from stages.lib.storage.files import check_exists
from stages.lib.storage.variant import DATA, name_finished

READS = (
    "study",
    "prune.rankings",
    "prune.shrunk_shares",
    "prune.shrunk_rankings",
    "prune.seeds",
    "shrink.filters",
    "shrink.seeds",
)


def main() -> None:
    """Records the times."""
    parse_names(__doc__)  # none
    params = load_params(reads=READS)
    finished = name_finished(params.study.seeds[0]).folder / "model.h5"
    check_exists(finished)
    items = list_items(params.study, params.prune, params.shrink)
    own, known = read_own_times(items), read_times(items)
    times = Times(
        trainings={**known.trainings, **own.trainings},
        latencies={**known.latencies, **own.latencies},
        c_latencies={**known.c_latencies, **own.c_latencies},
        stages=own.stages or known.stages,
    )
    models, exported = sorted(DATA.glob("train/*/*/model.h5")), sorted(DATA.glob("export/*/*/*.tflite"))
    c_files = sorted(DATA.glob("deploy/*/*/model.c"))
    record_times(times, items, finished, [finished, *models], exported, c_files)
    counts = f"{len(times.stages)} stages, {len(models)} trainings, {len(exported)} exported files, {len(c_files)} in C"
    print(f"{RECORDED}: {counts}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
