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


def format_headline(chosen: dict[str, Any], pruned: Sequence[dict[str, Any]]) -> str:
    """Writes the first table of the README: what the study chose, what was chosen here, and that one pruned."""
    published = f"{100 * STUDY_TEST_ACCURACY['third', 'strong']:.2f} %"
    key = f"{chosen['model']}-{chosen['augmentation']}"
    rows = [["third-strong, the study's choice as published", published, "", "", "", "", ""]]
    rows += [
        [
            f"{key}, {'pruned' if row['sparsity'] else 'chosen on validation'}",
            f"{100 * row['test_accuracy']:.2f} %",
            f"{100 * row['sparsity']:.0f} %",
            f"{chosen['parameters']:,}",
            f"{chosen['macs']:,}",
            f"{row['size_bytes'] / 1000:,.0f} kB",
            f"{row['gzip_size_bytes'] / 1000:,.0f} kB",
        ]
        for row in pruned
    ]
    return format_table(["model", "test accuracy", "zeros", "parameters", "MACs", "file", "gzipped"], rows)


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
    """Writes in two sentences with what the results were made, and what that took.

    Args:
        environment: what training wrote of the chosen model: date, cpu, num_cpus, policy, versions.
        timing: rows with seconds and peak_memory_mib of each stage.
        seed: of the run.
    """
    not_versions = ("date", "cpu", "num_cpus", "policy", "seconds", "images_per_second")
    versions = ", ".join(f"{name} {value}" for name, value in environment.items() if name not in not_versions)
    minutes, peak_mib = sum(row["seconds"] for row in timing) / 60, max(row["peak_memory_mib"] for row in timing)
    return (
        f"One run with seed {seed}, {environment['date']}; {versions}.\n"
        f"On {environment['num_cpus']} cores ({environment['cpu']}), trained in {environment['policy']}, "
        f"all stages took {minutes:.1f} minutes together; the largest held {peak_mib:,} MiB of memory.\n"
    )
