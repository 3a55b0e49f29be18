"""Results as Markdown tables, beside what the study published. No TensorFlow."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from stages.lib.results.chance import compute_interval
from stages.lib.results.published import NUM_IMAGES, STUDY_CHOICE, STUDY_TEST_ACCURACY
from stages.lib.results.rows import UNDER, ModelFile
from stages.lib.results.times import NOT_VERSIONS, StageTime


def escape_markdown(text: str) -> str:
    r"""Escapes a name or sentence, which becomes one line, so that Markdown shows it as it is.

    >>> escape_markdown("a|b_c")
    'a\\|b\\_c'
    """
    return re.sub(r"([\\`*_\[\]<>&|~$#]|:(?=\w))", r"\\\1", " ".join(text.split()))


def format_accuracy(accuracy: float, n: int) -> str:
    """Writes an accuracy that was measured on n images, with its 95 % interval.

    >>> format_accuracy(0.9434, 10_000)
    '94.34 % (93.9 to 94.8)'
    """
    low, high = compute_interval(accuracy, n)
    return f"{100 * accuracy:.2f} % ({100 * low:.1f} to {100 * high:.1f})"


def format_mean(row: Mapping[str, Any], name: str, n: int) -> str:
    """Writes a mean over seeds that were measured on n images each, with its standard deviation where it has one.

    >>> format_mean({"val_accuracy": 0.9434, "val_accuracy_sd": 0.0012}, "val_accuracy", 10_000)
    '94.34 ± 0.12 % (93.9 to 94.8)'
    """
    deviation, written = row[f"{name}_sd"], format_accuracy(row[name], n)
    return written if deviation is None else written.replace(" %", f" ± {100 * deviation:.2f} %", 1)


def format_share(row: Mapping[str, Any], name: str) -> str:
    """Writes a share of a row with its 95 % interval, whose ends stand there as <name>_low and <name>_high.

    >>> format_share({"auroc": 0.9434, "auroc_low": 0.939, "auroc_high": 0.948}, "auroc")
    '94.34 % (93.9 to 94.8)'
    """
    share, low, high = (100 * row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{share:.2f} % ({low:.1f} to {high:.1f})"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Writes a Markdown table of plain texts: the first column to the left, the others to the right.

    >>> print(format_table(["model", "size"], [["dense", "3"]]), end="")
    | model | size |
    | --- | ---: |
    | dense | 3 |
    """
    escaped = [[escape_markdown(cell) for cell in line] for line in (header, *rows)]
    lines = [escaped[0], ["---", *["---:"] * (len(header) - 1)], *escaped[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def format_headline(chosen: str, finished: ModelFile, shipped: Mapping[str, Any], is_beside_study: bool) -> str:
    """Writes the first table of the README: what the study chose, what was chosen here, and the file that is shipped.

    MACs of the shipped file are those that its C executes. What the study chose has its row where that is asked
    for.

    Args:
        chosen: key of the chosen candidate.
        finished: its Keras file, as it was trained for long.
        shipped: data/ship/model.json, which knows how many test images there are.
        is_beside_study: whether the data are those of the study.
    """
    files = {
        f"{chosen}, chosen on validation, finished": asdict(finished),
        f"{shipped['name']}, {shipped['precision']}, shipped": shipped,
    }
    rows = []
    if is_beside_study:
        published = format_accuracy(STUDY_TEST_ACCURACY[STUDY_CHOICE], NUM_IMAGES["test"])
        rows.append([f"{'-'.join(STUDY_CHOICE)}, the study's choice as published", published, "", "", "", "", ""])
    for name, row in files.items():
        device = row.get("device", {})
        rows.append(
            [
                name,
                format_accuracy(row["test_accuracy"], shipped["num_images"]["test"]),
                f"{device.get('macs', row['macs']):,}",
                f"{row['size_bytes'] / 1000:,.0f} kB",
                f"{row['gzip_size_bytes'] / 1000:,.0f} kB",
                *[f"{device[name] / 1000:,.1f} kB" if device else "" for name in ("flash_bytes", "ram_bytes")],
            ]
        )
    return format_table(["model", "test accuracy", "MACs", "file", "gzipped", "flash", "RAM"], rows)


def format_grid(candidates: Sequence[Mapping[str, Any]], num_images: Mapping[str, int], is_beside_study: bool) -> str:
    """Writes the table of all candidates, with a column for what the study published of them where that is asked for.

    `num_images` are those of val and test.
    """
    distortions = [name for name in candidates[0] if name.startswith(UNDER)]
    num_tested = num_images["test"]
    rows = []
    for row in candidates:
        published = STUDY_TEST_ACCURACY.get((row["model"], row["augmentation"]))
        told = format_accuracy(published, NUM_IMAGES["test"]) if published else ""
        seconds = row["training_seconds"]
        rows.append(
            [
                f"{row['model']}-{row['augmentation']}",
                format_mean(row, "val_accuracy", num_images["val"]),
                format_mean(row, "test_accuracy", num_tested),
                *([told] if is_beside_study else []),
                *[format_accuracy(row[name], num_tested) for name in distortions],
                "" if seconds is None else f"{seconds:.0f} s",
            ]
        )
    seeds = candidates[0]["seeds"].split()
    of_seeds = f", mean of seeds {' '.join(seeds)}" if len(seeds) > 1 else ""
    under = [f"test under {name.removeprefix(UNDER)}" for name in distortions]
    study = ["test, the study"] if is_beside_study else []
    return format_table(["candidate", f"validation{of_seeds}", "test", *study, *under, "training"], rows)


def format_environment(environment: Mapping[str, Any], timing: Sequence[StageTime], seed: int) -> str:
    """Writes in a few sentences with what the results were made, what that took, and which stages took most of it.

    Args:
        environment: what training wrote of the finished model: date, cpu, num_cpus, settings, policy, versions.
        timing: of each stage; those of one matrix are added up.
        seed: of the run.
    """
    versions = ", ".join(f"{name} {value}" for name, value in environment.items() if name not in NOT_VERSIONS)
    seconds_of: dict[str, float] = {}
    for row in timing:
        name = row.stage.partition("@")[0]
        seconds_of[name] = seconds_of.get(name, 0.0) + row.seconds
    longest = [(name, s) for name, s in sorted(seconds_of.items(), key=lambda item: -item[1]) if s >= 60]
    shares = f" ({', '.join(f'`{name}` {seconds / 60:.1f}' for name, seconds in longest)})" if longest else ""
    minutes, peak_mib = sum(row.seconds for row in timing) / 60, max(row.peak_memory_mib for row in timing)
    set_by_user = " ".join(f"{name}={value}" for name, value in environment.get("settings", {}).items())
    policy = environment["policy"] + (f" with {escape_markdown(set_by_user)}" if set_by_user else "")
    return (
        f"Seed {seed}, trained on {environment['date']}; {versions}.\n"
        f"On {environment['num_cpus']} cores ({escape_markdown(environment['cpu'])}), trained in "
        f"{policy}, the stages took {minutes:.1f} minutes, each in its last run{shares}; "
        f"the largest held {peak_mib:,} MiB of memory.\n"
    )
