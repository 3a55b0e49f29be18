"""Builds the sections of the report: a question, its answer, charts, tables, and the files that they come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

from stages.lib.report.answers import Row, join, key_of, percent
from stages.lib.report.charts import (
    Bar,
    Point,
    Series,
    draw_bars,
    draw_legend,
    draw_plot,
    make_axis,
    make_log_axis,
    make_name_axis,
)
from stages.lib.report.markup import (
    Cell,
    Number,
    format_details,
    format_figure,
    format_grid,
    format_picture,
    format_table,
)

ASSETS = Path(__file__).parent / "templates"
STYLE_OF_KIND = {"dense": 0, "pruned": 2, "shrunk": 1, "published": 3}
SHOWN_POINTS = 8  # percent points below the best test accuracy of ours; worse files are in the table only
NOT_MEASURED = "not measured here"

Times = Mapping[tuple[str, str, str], Row]
"""What a file took where it was timed on this machine, by kind, name and precision."""


@dataclass(frozen=True)
class Section:
    """One question of the report. `key` is its address in the page; `time` a sentence on times, which differ by run."""

    key: str
    question: str
    answer: str
    content: str
    sources: tuple[str, ...]
    time: str = ""


def format_page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """Writes the whole page, style and script included."""
    links = "\n".join(f'<li><a href="#{one.key}">{escape(one.question)}</a></li>' for one in sections)
    return Template((ASSETS / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        style=(ASSETS / "style.css").read_text(encoding="utf-8"),
        script=(ASSETS / "page.js").read_text(encoding="utf-8"),
        lead=lead,
        links=links,
        sections="\n".join(map(_format_section, sections)),
    )


def _format_section(section: Section) -> str:
    time = f' <span class="time">{_write(section.time)}</span>' if section.time else ""
    sources = ", ".join(f"<code>{escape(source)}</code>" for source in section.sources)
    return (
        f'<section id="{section.key}" aria-labelledby="{section.key}-title">\n'
        f'<h2 id="{section.key}-title">{escape(section.question)}</h2>\n'
        f'<p class="answer">{_write(section.answer)}{time}</p>\n{section.content}\n'
        f'<p class="sources">From {sources}</p>\n</section>'
    )


def _write(sentences: str) -> str:
    """Escapes sentences, and keeps a number and its % on one line."""
    return escape(sentences).replace(" %", "&nbsp;%")


def percent_cell(fraction: float | None, heat: float | None = None) -> Number:
    """Makes a cell of an accuracy; empty without one."""
    return Number(fraction, "" if fraction is None else percent(fraction), heat)


def count_cell(count: float | None) -> Number:
    """Makes a cell of a count; empty without one."""
    return Number(count, "" if count is None else f"{count:,.0f}")


def size_cell(size_bytes: float | None) -> Number:
    """Makes a cell of a size in kB; empty without one."""
    return Number(size_bytes, "" if size_bytes is None else f"{size_bytes / 1000:,.0f} kB")


def time_cell(milliseconds: float | None) -> Number:
    """Makes a cell of the time of an image; it says so where that was not measured."""
    return Number(milliseconds, NOT_MEASURED if milliseconds is None else f"{milliseconds:.3f} ms")


def format_lead(shipped: Row, milliseconds: float | None, answer: str, time: str, replaced: Sequence[Row]) -> str:
    """Writes what comes first: a few big figures, a sentence, and what the shipped file replaces.

    `replaced` holds rows of name, test_accuracy, size_bytes, gzip_size_bytes, median_ms, parameters and macs, the
    shipped file's last; what is unknown is None.
    """
    worst = min(shipped["classes"], key=lambda row: row["recall"])
    figures = [
        ("Test accuracy", percent(shipped["test_accuracy"]), f"of {_count_images(shipped):,} images"),
        ("Weakest class", percent(worst["recall"]), f"of {worst['class']} images found"),
        (
            "Size, gzipped",
            f"{shipped['gzip_size_bytes'] / 1000:,.0f} kB",
            f"{shipped['size_bytes'] / 1000:,.0f} kB as it is",
        ),
        (
            "Time for an image",
            NOT_MEASURED if milliseconds is None else f"{milliseconds:.3f} ms",
            "one thread, batch of 1",
        ),
    ]
    listed = "\n".join(
        f"<div><dt>{name}</dt><dd><strong>{escape(value)}</strong> <span>{escape(note)}</span></dd></div>"
        for name, value, note in figures
    )
    header = ["model", "test accuracy", "file", "gzipped", "time", "parameters", "MACs"]
    rows: list[list[Cell]] = [
        [
            row["name"],
            percent_cell(row["test_accuracy"]),
            size_cell(row["size_bytes"]),
            size_cell(row["gzip_size_bytes"]),
            Number(None, "") if row["size_bytes"] is None else time_cell(row["median_ms"]),
            count_cell(row["parameters"]),
            count_cell(row["macs"]),
        ]
        for row in replaced
    ]
    name = f"{shipped['name']}, {shipped['precision']}"
    return (
        '<p class="eyebrow">Small CNNs: what ships</p>\n'
        f'<h1>{escape(name)}</h1>\n<dl class="figures">\n{listed}\n</dl>\n'
        f'<p class="answer">{_write(answer)} <span class="time">{_write(time)}</span></p>\n'
        + format_table(
            "Beside the study and the chosen model", header, rows, marked=replaced[-1]["name"], is_sortable=False
        )
    )


def _count_images(shipped: Row) -> int:
    return sum(row["images"] for row in shipped["classes"])


def format_classes(shipped: Row, chosen_classes: Sequence[Row], chosen: str) -> str:
    """Writes recall by class of the shipped file, beside the chosen model's."""
    dense = {row["class"]: row["recall"] for row in chosen_classes}
    bars = [(row["class"], [Bar(row["class"], row["recall"], percent(row["recall"]))]) for row in shipped["classes"]]
    summary = "Share found of each class: " + ", ".join(f"{name} {bar.text}" for name, (bar,) in bars)
    rows: list[list[Cell]] = [
        [
            row["class"],
            percent_cell(row["recall"]),
            percent_cell(row["precision"]),
            percent_cell(dense.get(row["class"])),
            count_cell(row["images"]),
        ]
        for row in shipped["classes"]
    ]
    header = ["class", "recall", "precision", f"recall of {chosen}", "images"]
    table = format_table("The shipped file by class, on test images", header, rows)
    chart = format_figure(draw_bars(bars, summary, end=1.0), "Recall: share of a class that is found")
    return format_grid([chart, table])


def format_choice(candidates: Sequence[Row], chosen: str, published: Mapping[tuple[str, str], float]) -> str:
    """Writes every candidate as a dot and as a row."""
    names = list(dict.fromkeys(row["augmentation"] for row in candidates))
    plots = []
    for column, label in (("macs", "million MACs an image"), ("parameters", "thousand parameters")):
        scale = 1e-6 if column == "macs" else 1e-3
        series = [
            Series(
                name,
                style,
                tuple(
                    Point(
                        scale * row[column],
                        100 * row["val_accuracy"],
                        f"{key_of(row)}: {percent(row['val_accuracy'])} on validation, {row[column]:,.0f} {column}",
                        key_of(row) if key_of(row) == chosen else "",
                    )
                    for row in candidates
                    if row["augmentation"] == name
                ),
            )
            for style, name in enumerate(names)
        ]
        x = make_log_axis(label, [scale * row[column] for row in candidates])
        y = make_axis("validation accuracy (%)", [100 * row["val_accuracy"] for row in candidates])
        best = max(candidates, key=lambda row: row["val_accuracy"])
        summary = (
            f"Validation accuracy of {len(candidates)} candidates against {label}; {key_of(best)} is the most accurate "
            f"with {percent(best['val_accuracy'])}. The table below holds all values."
        )
        plots.append(format_figure(draw_plot(series, x, y, summary), f"Accuracy against {label.split(' ', 1)[1]}"))
    legend = draw_legend([(name, style, "mark") for style, name in enumerate(names)])
    rows: list[list[Cell]] = []
    for row in sorted(candidates, key=lambda row: -row["val_accuracy"]):
        study = published.get((row["model"], row["augmentation"]))
        rows.append(
            [
                key_of(row),
                percent_cell(row["val_accuracy"]),
                percent_cell(row["test_accuracy"]),
                percent_cell(study),
                count_cell(row["macs"]),
                count_cell(row["parameters"]),
                Number(row["receptive_field_px"], f"{row['receptive_field_px']:.0f} px"),
                Number(
                    row["training_seconds"],
                    NOT_MEASURED if row["training_seconds"] is None else f"{row['training_seconds']:.0f} s",
                ),
            ]
        )
    header = [
        "candidate",
        "validation",
        "test",
        "test, as published",
        "MACs",
        "parameters",
        "receptive field",
        "training",
    ]
    table = format_table("Every candidate, the best on validation first", header, rows, marked=chosen)
    note = (
        "<p>Published accuracies are those of the study's own models of these names, as it trained them, on "
        "Fashion-MNIST.</p>"
        if any((row["model"], row["augmentation"]) in published for row in candidates)
        else ""
    )
    return f"{legend}{format_grid(plots)}\n{table}{note}"


def format_augmentation(candidates: Sequence[Row], pictures: Sequence[tuple[str, Path]]) -> str:
    """Writes accuracy by model and augmentation, as a chart and under each distortion, and what augmentations do."""
    names = list(dict.fromkeys(row["augmentation"] for row in candidates))
    models = list(dict.fromkeys(row["model"] for row in candidates))
    prefix = "test_accuracy_under_"
    under = [column for column in candidates[0] if column.startswith(prefix)]
    columns = {"test_accuracy": "as they are"} | {name: f"under {name.removeprefix(prefix)}" for name in under}
    plots = []
    for column, text in columns.items():
        series = [
            Series(
                name,
                style,
                tuple(
                    Point(
                        models.index(row["model"]) + 0.14 * (style - (len(names) - 1) / 2),
                        100 * row[column],
                        f"{key_of(row)}: {percent(row[column])}",
                    )
                    for row in candidates
                    if row["augmentation"] == name
                ),
            )
            for style, name in enumerate(names)
        ]
        best = max(candidates, key=lambda row: row[column])
        worst = min(candidates, key=lambda row: row[column])
        summary = (
            f"Test accuracy by model, images {text}: from {percent(worst[column])} of {key_of(worst)} to "
            f"{percent(best[column])} of {key_of(best)}. The table below holds all values."
        )
        y = make_axis("test accuracy (%)", [100 * row[column] for row in candidates])
        plots.append(format_figure(draw_plot(series, make_name_axis("model", models), y, summary), f"Images {text}"))
    legend = draw_legend([(name, style, "mark") for style, name in enumerate(names)])
    low = min(row[column] for row in candidates for column in columns)
    high = max(max(row[column] for row in candidates for column in columns), low + 1e-9)
    rows: list[list[Cell]] = [
        [key_of(row), *[percent_cell(row[column], (row[column] - low) / (high - low)) for column in columns]]
        for row in candidates
    ]
    header = ["candidate", *columns.values()]
    table = format_table("Test accuracy, images as they are and distorted as each augmentation does", header, rows)
    shown = [
        format_figure(format_picture(path, f"One image of each class, and versions of it that {name} made"), name)
        for name, path in pictures
    ]
    gallery = format_details("What each augmentation does to the images", format_grid(shown))
    return f"{legend}{format_grid(plots)}\n{table}\n{gallery}"


def format_curves(curves: Mapping[str, Sequence[Row]], candidates: Sequence[Row]) -> str:
    """Writes learning curves: a chart a model, a color an augmentation, dashes for training images."""
    names = list(dict.fromkeys(row["augmentation"] for row in candidates))
    models = list(dict.fromkeys(row["model"] for row in candidates))
    values = [100 * row[split] for rows in curves.values() for row in rows for split in ("train", "val")]
    x = make_axis("epoch", [row["epoch"] for rows in curves.values() for row in rows], is_tight=True)
    y = make_axis("accuracy (%)", values)
    plots = []
    for model in models:
        series = [
            Series(
                f"{name}, {text}",
                style,
                tuple(
                    Point(
                        row["epoch"],
                        100 * row[split],
                        f"{model}-{name}, epoch {row['epoch']:.0f}: {percent(row[split])} of {text} images",
                    )
                    for row in curves[f"{model}-{name}"]
                ),
                line,
                split == "val",
            )
            for split, text, line in (("train", "training", "dashed"), ("val", "validation", "solid"))
            for style, name in enumerate(names)
        ]
        last = [f"{name} {percent(curves[f'{model}-{name}'][-1]['val'])}" for name in names]
        summary = f"Learning curves of {model}; validation accuracy after the last epoch: {', '.join(last)}."
        plots.append(format_figure(draw_plot(series, x, y, summary), model))
    legend = draw_legend(
        [(name, style, "mark") for style, name in enumerate(names)]
        + [("validation images", 0, "solid"), ("training images (as augmented)", 0, "dashed")]
    )
    rows: list[list[Cell]] = [
        [key, Number(row["epoch"], f"{row['epoch']:.0f}"), percent_cell(row["train"]), percent_cell(row["val"])]
        for key, epochs in curves.items()
        for row in epochs
    ]
    table = format_table("Accuracy by epoch", ["candidate", "epoch", "training", "validation"], rows)
    return f"{legend}{format_grid(plots)}\n{format_details('The numbers of the curves', table)}"


def format_receptive_fields(layers: Mapping[str, Sequence[Row]], chosen: str, picture: Path) -> str:
    """Writes how the receptive field grows, by model, and what the chosen model sees of an image.

    A model without convolutions sees all of it at once, and is left out.
    """
    grids = {
        model: grid
        for model, rows in layers.items()
        if (grid := [row for row in rows if row["kind"] in ("conv", "max_pool") and row["jump_px"] is not None])
    }
    if not grids:
        return "<p>No model of this run has a convolution: each sees the whole image at once.</p>"
    models = sorted(grids, key=lambda model: model == chosen)
    series = [
        Series(
            model,
            list(grids).index(model),
            tuple(
                Point(
                    index + 0.12 * (list(grids).index(model) - (len(grids) - 1) / 2),  # equal ones side by side
                    row["receptive_field_px"],
                    f"{model}, {row['layer']}: {row['receptive_field_px']:.0f} px",
                )
                for index, row in enumerate(grids[model])
            ),
            "solid" if model == chosen else "dashed",
        )
        for model in models
    ]
    ends = [
        f"{model} {rows[-1]['receptive_field_px']:.0f} px after {rows[-1]['layer']}" for model, rows in grids.items()
    ]
    summary = f"Receptive field, growing with each convolution and pool: {', '.join(ends)}."
    count = max(map(len, grids.values()))
    x = make_name_axis("convolutions and pools, from the input", [str(number) for number in range(1, count + 1)])
    sizes = [row["receptive_field_px"] for rows in grids.values() for row in rows]
    legend = draw_legend([(model, style, "mark") for style, model in enumerate(grids)])
    chart = format_figure(
        draw_plot(series, x, make_axis("pixels", sizes, is_from_zero=True), summary),
        "Side of the receptive field",
        legend,
    )
    photo = format_figure(
        format_picture(picture, f"Squares on an image: what the center unit of each layer of {chosen} sees"),
        f"What the center unit of each layer of {chosen} sees",
    )
    rows: list[list[Cell]] = [
        [
            f"{model}, {row['layer']}",
            row["output_shape"].replace("x", " x "),
            Number(row["receptive_field_px"], f"{row['receptive_field_px']:.0f} px"),
            Number(row["jump_px"], f"{row['jump_px']:.0f} px"),
        ]
        for model in grids
        for row in grids[model]
    ]
    header = ["layer", "output", "receptive field", "distance of neighbours"]
    of_chosen = [row for row in rows if str(row[0]).startswith(f"{chosen}, ")]
    table = format_table(f"Receptive field in {chosen}", header, of_chosen)
    others = format_details("All models", format_table("Receptive field by layer", header, rows))
    return f"{format_grid([chart, table])}\n{others}\n{photo}"


def format_arithmetic(layers: Mapping[str, Sequence[Row]], costs: Mapping[str, Row], chosen: str) -> str:
    """Writes MACs and parameters by layer of the chosen model, and both conventions of counting."""
    heavy = [row for row in layers[chosen] if row["macs"]]
    plots = []
    for column, share, name in (("macs", "macs_share", "MACs"), ("parameters", "parameters_share", "Parameters")):
        bars = [
            (row["layer"], [Bar(row["layer"], row[column], f"{row[column]:,.0f} ({100 * row[share]:.1f} %)")])
            for row in heavy
        ]
        summary = f"{name} of {chosen} by layer: " + ", ".join(f"{layer} {bar.text}" for layer, (bar,) in bars)
        plots.append(format_figure(draw_bars(bars, summary), f"{name} of {chosen} by layer"))
    header = ["", "MACs", "FLOPs", "MACs, the study's way", "FLOPs, the study's way", "parameters"]
    columns = ("macs", "flops", "study_macs", "study_flops", "parameters")
    of_layers: list[list[Cell]] = [[row["layer"], *[count_cell(row[column]) for column in columns]] for row in heavy]
    totals: list[list[Cell]] = [[name, *[count_cell(row[column]) for column in columns]] for name, row in costs.items()]
    note = (
        "<p>The field counts a multiplication with its addition as one MAC and as two FLOPs, without biases. The study "
        "counts the bias of a dense layer as one more input, and in FLOPs one addition for each output of a "
        "convolution.</p>"
    )
    return (
        f"{format_grid(plots)}\n{note}"
        + format_table(f"Layers of {chosen}, counted in both ways", ["layer", *header[1:]], of_layers)
        + format_table("All models, counted in both ways", ["model", *header[1:]], totals, marked=chosen)
    )


def format_pruning(rows: Sequence[Row], zeros: Sequence[Row], epochs: Mapping[float, int]) -> str:
    """Writes accuracy and size against zeros, and where the zeros are.

    Args:
        rows: the first is the dense model; the others are rankings and target sparsities.
        zeros: of each kernel, by ranking and target sparsity.
        epochs: of fine-tuning, by target sparsity.
    """
    dense, *pruned = rows
    rankings = list(dict.fromkeys(row["ranking"] for row in pruned))
    plots = []
    for columns, label, scale, caption in (
        (("test_accuracy", "val_accuracy"), "accuracy (%)", 100, "Accuracy against zeros"),
        (("gzip_size_bytes",), "kB, gzipped", 1e-3, "Size of the gzipped Keras file against zeros"),
    ):
        series = [
            Series(
                ranking,
                style,
                tuple(
                    Point(100 * row["target"], scale * row[column], f"{row['ranking']}, {_tell_target(row)}: {text}")
                    for row in [dense, *[row for row in pruned if row["ranking"] == ranking]]
                    for text in [
                        f"{row[column] / 1000:,.0f} kB"
                        if len(columns) == 1
                        else f"{percent(row[column])} {column[:-9]}"
                    ]
                ),
                "solid" if column == columns[0] else "dashed",
                column == columns[0],
            )
            for column in reversed(columns)
            for style, ranking in enumerate(rankings)
        ]
        ends = [f"{ranking} {_find_last(pruned, ranking)}" for ranking in rankings]
        summary = f"{caption}; dense {_tell_result(dense)}; at the most zeros {', '.join(ends)}. The table holds all."
        x = make_axis("zeros in the kernels that are pruned (%)", [100 * row["target"] for row in rows])
        values = [scale * row[column] for row in rows for column in columns]
        y = make_axis(label, values, is_from_zero=len(columns) == 1)
        plots.append(format_figure(draw_plot(series, x, y, summary), caption))
    legend = draw_legend(
        [(ranking, style, "mark") for style, ranking in enumerate(rankings)]
        + [("test images", 0, "solid"), ("validation images", 0, "dashed")]
    )
    header = ["model", "zeros of all weights", "epochs of fine-tuning", "validation", "test", "Keras file, gzipped"]
    steps: list[list[Cell]] = [
        [
            row["ranking"] if row is dense else f"{row['ranking']}-{row['target']}",
            percent_cell(row["sparsity"]),
            count_cell(epochs.get(row["target"])),
            percent_cell(row["val_accuracy"]),
            percent_cell(row["test_accuracy"]),
            size_cell(row["gzip_size_bytes"]),
        ]
        for row in rows
    ]
    note = (
        "<p>Each sparsity starts from the model of the one before it and is trained further, for the epochs in the "
        "table: from one point of a line to the next it is not the zeros alone that differ.</p>"
    )
    layers = list(dict.fromkeys(row["layer"] for row in zeros))
    share = {(row["ranking"], row["target"], row["layer"]): row["sparsity"] for row in zeros}
    of_layers: list[list[Cell]] = [
        [
            f"{ranking}-{target}",
            *[
                Number(
                    share[ranking, target, layer],
                    f"{100 * share[ranking, target, layer]:.1f} %",
                    share[ranking, target, layer],
                )
                for layer in layers
            ],
        ]
        for ranking, target in dict.fromkeys((row["ranking"], row["target"]) for row in zeros)
    ]
    return (
        f"{legend}{format_grid(plots)}\n{note}"
        + format_table("Every step of pruning", header, steps)
        + format_table("Where the zeros are: share of each kernel", ["model", *layers], of_layers)
    )


def _tell_target(row: Row) -> str:
    return f"{100 * row['target']:g} % zeros"


def _tell_result(row: Row) -> str:
    return f"{percent(row['test_accuracy'])} of test images and {row['gzip_size_bytes'] / 1000:,.0f} kB"


def _find_last(pruned: Sequence[Row], ranking: str) -> str:
    return _tell_result(max((row for row in pruned if row["ranking"] == ranking), key=lambda row: row["target"]))


def format_shrinking(rows: Sequence[Row], macs: Mapping[str, Mapping[str, float]], times: Times, dense: str) -> str:
    """Writes accuracy against MACs, and the MACs of each layer before and after.

    Args:
        rows: the first is the whole model; the others are ways and shares.
        macs: of each layer, by share, the whole model first.
        times: of exported files.
        dense: name of the whole model.
    """
    whole, *shrunk = rows
    ways = list(dict.fromkeys(row["filters"] for row in shrunk))
    series = [
        Series(
            way,
            style,
            tuple(
                Point(
                    row["macs"] / 1e6,
                    100 * row["test_accuracy"],
                    f"{row['filters']}, {100 * row['macs_share']:.1f} % of the MACs: {percent(row['test_accuracy'])}",
                )
                for row in sorted(
                    [whole, *[row for row in shrunk if row["filters"] == way]], key=lambda row: row["macs"]
                )
            ),
            "solid",
        )
        for style, way in enumerate(ways)
    ]
    x = make_axis("million MACs an image", [row["macs"] / 1e6 for row in rows], is_from_zero=True)
    y = make_axis("test accuracy (%)", [100 * row["test_accuracy"] for row in rows])
    found = [f"{row['filters']} {percent(row['test_accuracy'])} at {100 * row['macs_share']:.1f} %" for row in rows]
    summary = f"Test accuracy against MACs, by way of shrinking: {', '.join(found)} of the MACs."
    legend = draw_legend([(way, style, "mark") for style, way in enumerate(ways)])
    chart = format_figure(draw_plot(series, x, y, summary), "Accuracy against MACs, by which filters stay", legend)
    layers = list(dict.fromkeys(layer for of_layers in macs.values() for layer in of_layers))
    groups = [
        (
            layer,
            [
                Bar(f"{layer}, {name}", macs[name][layer], f"{macs[name][layer] / 1e6:.3g}", index)
                for index, name in enumerate(macs)
            ],
        )
        for layer in layers
    ]
    parts = [f"{layer} {' to '.join(bar.text for bar in bars)}" for layer, bars in groups]
    before = format_figure(
        draw_bars(groups, f"Million MACs of each layer before and after shrinking: {', '.join(parts)}."),
        "Million MACs of each layer",
        draw_legend([(name, index, "bar") for index, name in enumerate(macs)]),
    )
    header = ["model", "MACs", "share", "parameters", "validation", "test", "float32", "int8"]
    table: list[list[Cell]] = []
    for row in rows:
        is_whole = row is whole
        name = dense if is_whole else f"{row['filters']}-{row['target']}"
        kind = "dense" if is_whole else "shrunk"
        found_times = [times.get((kind, name, precision), {}).get("median_ms") for precision in ("float32", "int8")]
        table.append(
            [
                name,
                count_cell(row["macs"]),
                Number(row["macs_share"], f"{100 * row['macs_share']:.1f} %"),
                count_cell(row["parameters"]),
                percent_cell(row["val_accuracy"]),
                percent_cell(row["test_accuracy"]),
                *map(time_cell, found_times),
            ]
        )
    steps = format_table("Every step of shrinking, with the time of an image", header, table)
    return f"{format_grid([chart, before])}\n{steps}"


def format_frontier(rows: Sequence[Row], times: Times, shipped: tuple[str, str], dense: str) -> str:
    """Writes test accuracy against gzipped size, MACs and time, with the front, and published results beside."""
    timed = [{**row, **times[file_of(row)]} for row in rows if row["format"] == "tflite" and file_of(row) in times]
    floor = max(row["test_accuracy"] for row in rows if row["kind"] != "published") - SHOWN_POINTS / 100
    panels = [
        draw_front(
            rows, "gzip_size_bytes", "size_bytes", "is_on_size_front", 1e-3, "kB, gzipped", floor, shipped, dense
        ),
        draw_front(rows, "macs", "macs", "is_on_macs_front", 1e-6, "million MACs", floor, shipped, dense),
    ]
    if timed:
        panels.append(draw_front(timed, "median_ms", "", "is_on_time_front", 1, "ms an image", floor, shipped, dense))
    else:
        panels.append(format_figure(f"<p>{NOT_MEASURED.capitalize()}.</p>", "Accuracy against ms an image"))
    kinds = dict.fromkeys((row["kind"], row["precision"]) for row in rows)
    legend = draw_legend(
        [
            (
                "published by others" if kind == "published" else f"{kind}, {precision}",
                STYLE_OF_KIND[kind],
                "hollow" if kind == "published" or precision != "float32" else "mark",
            )
            for kind, precision in sorted(kinds, key=lambda item: (STYLE_OF_KIND[item[0]] == 3, item))
        ]
        + [("front", 6, "steps")]
    )
    hidden = sum(row["test_accuracy"] < floor for row in rows)
    note = (
        "<div><p>A file is on the front if no other of ours is at least as good in both, validation accuracy and cost, "
        "and better in one; times are compared by two digits. Names without a precision are LiteRT files in float32, "
        "or Keras files where they say so.</p>"
        "<p>Published results are as their authors say, on Fashion-MNIST, not verified here; their size is 4 bytes a "
        "parameter, not gzipped. The study's take parameters and MACs from this run's models of the same names; those "
        "of the others are their authors', who give no MACs."
        + (f" {hidden} results below {100 * floor:.1f} % are in the table only." if hidden else "")
        + "</p></div>"
    )
    on_front = [row for row in rows if row["is_on_size_front"] or row["kind"] == "published"]
    front = sorted(on_front, key=lambda row: (row["kind"] == "published", -row["test_accuracy"]))
    header = ["model", "kind", "validation", "test", "file", "gzipped", "MACs", "time"]
    tables = [
        [
            [
                describe_file(row["name"], row["precision"], row["format"]),
                row["kind"],
                percent_cell(row["val_accuracy"]),
                percent_cell(row["test_accuracy"]),
                size_cell(row["size_bytes"]),
                size_cell(row["gzip_size_bytes"]),
                count_cell(row["macs"]),
                Number(None, "")
                if row["format"] != "tflite"
                else time_cell(times.get(file_of(row), {}).get("median_ms")),
            ]
            for row in chosen_rows
        ]
        for chosen_rows in (front, rows)
    ]
    marked = describe_file(*shipped)
    return (
        f"{legend}{format_grid([*panels, note])}\n"
        + format_table("The front by gzipped size, and published results", header, tables[0], marked)
        + format_details("All files", format_table("Every file, and published results", header, tables[1], marked))
    )


def describe_file(name: str, precision: str, file_format: str = "tflite") -> str:
    """Writes the name of a file: most are LiteRT in float32, so the others say what they are."""
    return f"{name}{' int8' if precision == 'int8' else ''}{' (Keras)' if file_format == 'keras' else ''}"


def file_of(row: Row) -> tuple[str, str, str]:
    """Names the file of a row as `Times` does."""
    return (row["kind"], row["name"], row["precision"])


def draw_front(
    rows: Sequence[Row],
    cost: str,
    published_cost: str,
    front: str,
    scale: float,
    unit: str,
    floor: float,
    shipped: tuple[str, str],
    dense: str,
) -> str:
    """Draws test accuracy against one cost.

    Args:
        rows: of frontier.csv.
        cost: the column of our files.
        published_cost: the column of published results.
        front: the column that tells what is on the front.
        scale: from the column to the axis.
        unit: of the axis.
        floor: what is less accurate is left out.
        shipped: name and precision of the file that gets a label, beside published results and `dense`.
        dense: name of the chosen model.
    """
    shown = []
    for row in rows:
        value = row[published_cost if row["kind"] == "published" else cost]
        if value is not None and row["test_accuracy"] >= floor:
            shown.append((scale * value, row))
    series = []
    for kind, style in sorted(STYLE_OF_KIND.items(), key=lambda item: item[0] != "published"):
        points = []
        for value, row in shown:
            if row["kind"] == kind:
                is_shipped = (row["name"], row["precision"]) == shipped
                is_dense = (row["name"], row["format"], row["precision"]) == (dense, "tflite", "float32")
                label = (
                    f"{row['name']}, ships" if is_shipped else row["name"] if is_dense or kind == "published" else ""
                )
                text = f"{row['name']}{', published' if kind == 'published' else ', ' + row['precision']}"
                tip = f"{text}: {percent(row['test_accuracy'])}, {value:,.4g} {unit}"
                is_hollow = kind == "published" or row["precision"] != "float32"
                points.append(Point(value, 100 * row["test_accuracy"], tip, label, is_hollow))
        if points:
            series.append(Series(kind, style, tuple(points)))
    on_front = sorted((value, 100 * row["test_accuracy"], row["name"]) for value, row in shown if row[front])
    steps = Series("front", 6, tuple(Point(x, y, "") for x, y, _ in on_front), "steps", has_marks=False)
    names = join(list(dict.fromkeys(name for _, _, name in on_front))) if on_front else "none"
    summary = f"Test accuracy against {unit} of {len(shown)} results; on the front, the cheapest first: {names}."
    x = make_log_axis(unit, [value for value, _ in shown])
    y = make_axis("test accuracy (%)", [100 * row["test_accuracy"] for _, row in shown])
    drawn = [steps, *series] if on_front else series
    return format_figure(draw_plot(drawn, x, y, summary), f"Accuracy against {unit}")


def format_mistakes(
    confusion: Mapping[tuple[str, str], int], class_names: Sequence[str], chosen: str, pictures: Mapping[str, Path]
) -> str:
    """Writes the confusion matrix of the chosen model, its calibration, and its most confident mistakes.

    `confusion` counts test images by actual and predicted class; `pictures` are `reliability` and `gallery`.
    """
    most = max((count for pair, count in confusion.items() if pair[0] != pair[1]), default=1)
    rows: list[list[Cell]] = []
    for actual in class_names:
        row: list[Cell] = [actual]
        for predicted in class_names:
            count = confusion.get((actual, predicted), 0)
            row.append(Number(count, f"{count}" if count else "", None if actual == predicted else count / most))
        rows.append(row)
    table = format_table(
        f"Test images by actual class (rows) and the class that {chosen} says (columns)",
        ["actual", *class_names],
        rows,
    )
    reliability = format_figure(
        format_picture(
            pictures["reliability"],
            f"Accuracy of {chosen} against its confidence, in bins, and the share of the images in each bin; the "
            "calibration error in the text sums this up",
        ),
        f"How confident {chosen} is, and how right",
    )
    gallery = format_figure(
        format_picture(
            pictures["gallery"], f"Test images that {chosen} gets wrong with most confidence, each with both classes"
        ),
        "Its most confident mistakes",
    )
    return f"{table}\n{reliability}\n{gallery}"


def format_making(facts: Sequence[tuple[str, str]], timing: Sequence[Row]) -> str:
    """Writes with what the results were made, and what each stage took."""
    rows: list[list[Cell]] = [[name, value] for name, value in facts]
    text = format_table("This run", ["what", "value"], rows, is_sortable=False)
    if not timing:
        return text
    stages: list[list[Cell]] = [
        [
            row["stage"],
            Number(row["seconds"], f"{row['seconds']:,.1f} s"),
            Number(row["peak_memory_mib"], f"{row['peak_memory_mib']:,.0f} MiB"),
        ]
        for row in timing
    ]
    header = ["stage", "time", "most memory"]
    return text + format_details("What each stage took", format_table("Time and memory by stage", header, stages))
