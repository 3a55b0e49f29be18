"""Results as Markdown tables, beside what the study published. No TensorFlow."""

from collections.abc import Sequence
from typing import Any

STUDY_TEST_ACCURACY = {  # as published; its augmented models were trained under the regime that is `strong` here
    ("first", "strong"): 0.6018,
    ("first", "none"): 0.8949,
    ("second", "strong"): 0.8770,
    ("second", "none"): 0.8971,
    ("third", "strong"): 0.8958,
    ("third", "none"): 0.8954,
    ("fourth", "strong"): 0.8096,
    ("fourth", "none"): 0.8949,
}


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Writes a Markdown table: the first column to the left, the others to the right.

    >>> print(format_table(["model", "size"], [["dense", "3"]]), end="")
    | model | size |
    | --- | ---: |
    | dense | 3 |
    """
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def format_headline(chosen: dict[str, Any], dense: dict[str, Any], shipped: dict[str, Any]) -> str:
    """Writes the first table of the README: what the study chose, what was chosen here, and the file that is shipped.

    Args:
        chosen: the chosen candidate: model, augmentation, test_accuracy, macs, parameters.
        dense: size_bytes and gzip_size_bytes of its model file.
        shipped: data/ship/model.json.
    """
    published = f"{100 * STUDY_TEST_ACCURACY['third', 'strong']:.2f} %"
    files = [
        (f"{chosen['model']}-{chosen['augmentation']}, chosen on validation", chosen | dense),
        (f"{shipped['name']}, {shipped['precision']}, shipped", shipped),
    ]
    rows = [["third-strong, the study's choice as published", published, "", "", "", ""]]
    rows += [
        [
            name,
            f"{100 * row['test_accuracy']:.2f} %",
            f"{row['parameters']:,}",
            f"{row['macs']:,}",
            f"{row['size_bytes'] / 1000:,.0f} kB",
            f"{row['gzip_size_bytes'] / 1000:,.0f} kB",
        ]
        for name, row in files
    ]
    return format_table(["model", "test accuracy", "parameters", "MACs", "file", "gzipped"], rows)


def format_grid(candidates: Sequence[dict[str, Any]]) -> str:
    """Writes the table of all candidates, beside what the study published of them."""
    prefix = "test_accuracy_under_"
    distortions = [name for name in candidates[0] if name.startswith(prefix)]
    rows = []
    for row in candidates:
        published = STUDY_TEST_ACCURACY.get((row["model"], row["augmentation"]))
        seconds = row["training_seconds"]
        rows.append(
            [
                f"{row['model']}-{row['augmentation']}",
                f"{100 * row['val_accuracy']:.2f} %",
                f"{100 * row['test_accuracy']:.2f} %",
                f"{100 * published:.2f} %" if published else "",
                *[f"{100 * row[name]:.2f} %" for name in distortions],
                "" if seconds is None else f"{seconds:.0f} s",
            ]
        )
    under = [f"test under {name.removeprefix(prefix)}" for name in distortions]
    return format_table(["candidate", "validation", "test", "test, the study", *under, "training"], rows)


def format_environment(environment: dict[str, Any], timing: Sequence[dict[str, Any]], seed: int) -> str:
    """Writes in a few sentences with what the results were made, what that took, and which stages took most of it.

    Args:
        environment: what training wrote of the chosen model: date, cpu, num_cpus, policy, versions.
        timing: rows with seconds and peak_memory_mib of each stage; those of one matrix are added up.
        seed: of the run.
    """
    not_versions = ("date", "cpu", "num_cpus", "policy", "seconds", "images_per_second")
    versions = ", ".join(f"{name} {value}" for name, value in environment.items() if name not in not_versions)
    seconds_of: dict[str, float] = {}
    for row in timing:
        name = row["stage"].partition("@")[0]
        seconds_of[name] = seconds_of.get(name, 0.0) + row["seconds"]
    longest = [(name, s) for name, s in sorted(seconds_of.items(), key=lambda item: -item[1]) if s >= 60]
    shares = f" ({', '.join(f'`{name}` {seconds / 60:.1f}' for name, seconds in longest)})" if longest else ""
    minutes, peak_mib = sum(row["seconds"] for row in timing) / 60, max(row["peak_memory_mib"] for row in timing)
    return (
        f"Seed {seed}, trained on {environment['date']}; {versions}.\n"
        f"On {environment['num_cpus']} cores ({environment['cpu']}), trained in {environment['policy']}, "
        f"the stages took {minutes:.1f} minutes, each in its last run{shares}; the largest held {peak_mib:,} MiB of "
        "memory.\n"
    )
