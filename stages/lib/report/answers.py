"""Answers the questions of the study in sentences that follow from the numbers, whichever way they go. No TensorFlow.

Rows are dicts as `stages.report` reads them; accuracies are fractions in [0, 1]. A difference of accuracies is told in
points, hundredths of the whole.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import mean, median
from typing import Any

from stages.lib.network.metrics import is_loss_within

Row = Mapping[str, Any]

CHANCE = 2 * math.sqrt(2)  # standard deviations of one accuracy: twice that of the difference of two
ALIKE = 1.05  # costs whose ratio is below this are "about as" large


def percent(fraction: float) -> str:
    """Writes a fraction as the README does.

    >>> percent(0.9405)
    '94.05 %'
    """
    return f"{100 * fraction:.2f} %"


def compare_accuracy(one: float, other: float) -> str:
    """Says how one accuracy compares with another.

    >>> compare_accuracy(0.9405, 0.9434)
    '0.29 points less than'
    """
    points = round(100 * (one - other), 2)
    return "as much as" if points == 0 else f"{abs(points):.2f} points {'more' if points > 0 else 'less'} than"


def compare_cost(one: float, other: float, less: str, more: str, alike: str) -> str:
    """Says how one cost compares with another, in words for less, more and about the same.

    >>> compare_cost(172, 3472, "smaller than", "larger than", "about as large as")
    '20.2 times smaller than'
    """
    ratio = other / one
    if ratio >= ALIKE:
        return f"{ratio:.1f} times {less}"
    return f"{1 / ratio:.1f} times {more}" if ratio <= 1 / ALIKE else alike


def describe_change(difference: float) -> str:
    """Says by how much an accuracy changed.

    >>> describe_change(-0.0238)
    'lost 2.38 points'
    """
    points = round(100 * difference, 2)
    return "changed nothing" if points == 0 else f"{'gained' if points > 0 else 'lost'} {abs(points):.2f} points"


def join(words: Sequence[str]) -> str:
    """Joins words as English does.

    >>> join(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def compute_deviation(accuracy: float, num_images: int) -> float:
    """Computes the standard deviation of an accuracy measured on so many images, each right or wrong by chance."""
    return math.sqrt(accuracy * (1 - accuracy) / num_images)


def key_of(row: Row) -> str:
    """Names a candidate."""
    return f"{row['model']}-{row['augmentation']}"


def answer_shipped(shipped: Row, dense: Row, published: float | None, num_images: int) -> str:
    """Answers what ships.

    Args:
        shipped: data/ship/model.json.
        dense: the float32 file of the chosen model.
        published: test accuracy of the study's choice, if this run has a model of that name.
        num_images: of the test images.
    """
    made = {"train": "dense", "prune": "pruned", "shrink": "shrunk"}[shipped["source"]]
    gap = compare_accuracy(shipped["test_accuracy"], dense["test_accuracy"])
    smaller = compare_cost(
        shipped["gzip_size_bytes"], dense["gzip_size_bytes"], "smaller than", "larger than", "about as large as"
    )
    text = (
        f"{shipped['name']}, a {made} model in {shipped['precision']}, gets {percent(shipped['test_accuracy'])} of "
        f"{num_images:,} test images right, {gap} the dense float32 file of {dense['name']}, the chosen model, and "
        f"gzipped it is {smaller} that file."
    )
    if published is None:
        return text
    return (
        f"{text} It has {compare_accuracy(shipped['test_accuracy'], published)} the {percent(published)} that the "
        "study published for its choice, a model of its own, on the test images of Fashion-MNIST."
    )


def answer_choice(chosen: Row, candidates: Sequence[Row], reason: str) -> str:
    """Answers which model was chosen and why."""
    better = sum(row["test_accuracy"] > chosen["test_accuracy"] for row in candidates)
    if len(candidates) == 1:
        return f"{reason} It is the only candidate."
    rank = "no other does better" if not better else f"{better} of the other {len(candidates) - 1} do better"
    return f"{reason} On the test images, which chose nothing, it has {percent(chosen['test_accuracy'])}, and {rank}."


def answer_augmentation(candidates: Sequence[Row], baseline: str | None, num_images: int) -> str:
    """Answers whether augmentation helped. `baseline` is the augmentation that changes nothing, if the run has one."""
    names = list(dict.fromkeys(row["augmentation"] for row in candidates))
    if baseline is None:
        return "No model of this run was trained without augmentation, so nothing says whether it helped."
    if names == [baseline]:
        return "Every model of this run was trained without augmentation."
    accuracy = {(row["model"], row["augmentation"]): row for row in candidates}
    models = list(dict.fromkeys(row["model"] for row in candidates))
    plain, distorted, mean_gains = [], [], {}
    for name in (name for name in names if name != baseline):
        gains = [
            accuracy[model, name]["test_accuracy"] - accuracy[model, baseline]["test_accuracy"] for model in models
        ]
        mean_gains[name] = mean(gains)
        better = sum(gain > 0 for gain in gains)
        plain.append(f"{name} {describe_change(mean(gains))} (better for {better} of {len(models)})")
        under = f"test_accuracy_under_{name}"
        if under in accuracy[models[0], name]:  # an augmentation that changes nothing distorts nothing either
            gain = mean(accuracy[model, name][under] - accuracy[model, baseline][under] for model in models)
            distorted.append(f"{name} {describe_change(gain)}")
    noise = compute_deviation(mean(row["test_accuracy"] for row in candidates), num_images)
    under_distortion = (
        f" On test images distorted in the way that the model was trained for, {join(distorted)}." if distorted else ""
    )
    return (
        f"On test images as they are, {name_helpful(mean_gains, noise)}: against {baseline}, averaged over "
        f"{len(models)} {'models' if len(models) > 1 else 'model'}, {join(plain)}.{under_distortion} One standard "
        f"deviation of an accuracy on so many images is {100 * noise:.2f} points; this is one run with one seed."
    )


def name_helpful(gains: Mapping[str, float], deviation: float) -> str:
    """Says which augmentations helped, by mean gain, and which perhaps by chance.

    >>> name_helpful({"flip": 0.0014, "blur": -0.01}, 0.0025)
    'flip helped a little, perhaps by chance'
    """
    limit = CHANCE * deviation
    sure = [name for name, gain in gains.items() if gain >= limit]
    perhaps = [name for name, gain in gains.items() if 0 < gain < limit]
    parts = [f"{join(sure)} helped"] if sure else []
    parts += [f"{join(perhaps)} helped a little, perhaps by chance"] if perhaps else []
    return join(parts) if parts else "augmentation did not help"


def answer_receptive_field(chosen: Row, costs: Mapping[str, Row], candidates: Sequence[Row], image_size_px: int) -> str:
    """Answers how much a unit sees, and whether models whose units see more are more accurate."""
    size = chosen["receptive_field_px"]
    best = {name: max(row["val_accuracy"] for row in candidates if row["model"] == name) for name in costs}
    sizes = sorted({cost["receptive_field_px"] for cost in costs.values()})
    top = [max(best[name] for name in costs if costs[name]["receptive_field_px"] == size) for size in sizes]
    text = (
        f"In {chosen['model']}, the last layer on a grid sees {size:.0f} x {size:.0f} of the {image_size_px} x "
        f"{image_size_px} pixels; what comes after it sees the whole image."
    )
    if len(sizes) == 1:
        return text
    listed = join([f"{percent(accuracy)} at {px:.0f} px" for px, accuracy in zip(sizes, top, strict=True)])
    rises = "rises" if top == sorted(top) else "does not always rise"
    return (
        f"{text} The best validation accuracy {rises} with the receptive field ({listed}), but these models differ in "
        "more than that."
    )


def answer_arithmetic(model: str, layers: Sequence[Row]) -> str:
    """Answers which layers of a model hold its MACs, and which its parameters."""
    ranked = sorted(layers, key=lambda row: -row["macs"])
    shares, count = [row["macs_share"] for row in ranked], 1
    while sum(shares[:count]) < 0.75 and count < len(shares):  # as few layers as hold three quarters
        count += 1
    heavy = max(layers, key=lambda row: row["parameters"])
    total = sum(row["macs"] for row in layers)
    names = join([row["layer"] for row in ranked[:count]])
    return (
        f"{model} takes {total:,.0f} MACs for an image: {names} take{'s' if count == 1 else ''} "
        f"{100 * sum(shares[:count]):.0f} % of them. {heavy['layer']} holds {100 * heavy['parameters_share']:.0f} % of "
        f"the parameters and takes {100 * heavy['macs_share']:.0f} % of the MACs."
    )


def answer_pruning(rows: Sequence[Row], max_loss: float, num_images: int) -> str:
    """Answers what pruning gave. The first row is the dense model; `max_loss` is what a shipped file may lose."""
    dense, *pruned = rows
    sentences = []
    for ranking in dict.fromkeys(row["ranking"] for row in pruned):
        steps = [row for row in pruned if row["ranking"] == ranking]
        good = [row for row in steps if is_loss_within(dense["val_accuracy"], row["val_accuracy"], max_loss)]
        if not good:
            sentences.append(f"{ranking} loses more than that at each of its sparsities")
            continue
        best = max(good, key=lambda row: row["target"])
        smaller = compare_cost(best["gzip_size_bytes"], dense["gzip_size_bytes"], "smaller", "larger", "about as large")
        sentences.append(
            f"{ranking} reaches {100 * best['target']:g} % zeros: {percent(best['test_accuracy'])} of the test images "
            f"right, {compare_accuracy(best['test_accuracy'], dense['test_accuracy'])} before, and its gzipped model "
            f"file is {smaller}"
        )
    text = f"With at most {100 * max_loss:g} points of validation accuracy lost, {'; '.join(sentences)}."
    target = max(row["target"] for row in pruned)
    last = sorted((row for row in pruned if row["target"] == target), key=lambda row: -row["test_accuracy"])
    if len(last) > 1:
        gap = last[0]["test_accuracy"] - last[-1]["test_accuracy"]
        text += (
            f" At {100 * target:g} % zeros, {last[0]['ranking']} has "
            f"{compare_accuracy(last[0]['test_accuracy'], last[-1]['test_accuracy'])} {last[-1]['ranking']} on the "
            f"test images{describe_chance(gap, dense['test_accuracy'], num_images)}."
        )
    return text


def describe_chance(gap: float, accuracy: float, num_images: int) -> str:
    """Says in brackets where a gap of two accuracies is small enough to be chance: below two standard deviations.

    A gap that rounds to 0.00 points needs no such word.
    """
    points, limit = round(100 * gap, 2), 100 * CHANCE * compute_deviation(accuracy, num_images)
    return f" (which may be chance: it is below {limit:.2f} points)" if 0 < points < limit else ""


def answer_shrinking(rows: Sequence[Row], num_images: int) -> str:
    """Answers what shrinking gave. The first row is the whole model; the others are ways and shares of the MACs."""
    whole, *shrunk = rows
    sentences = []
    for target in dict.fromkeys(row["target"] for row in shrunk):
        ways = sorted((row for row in shrunk if row["target"] == target), key=lambda row: -row["test_accuracy"])
        best, worst = ways[0], ways[-1]
        text = (
            f"At {100 * best['macs_share']:.1f} % of the MACs, {best['filters']} has {percent(best['test_accuracy'])} "
            "of the test images right, "
            f"{compare_accuracy(best['test_accuracy'], whole['test_accuracy'])} the whole model"
        )
        if len(ways) > 1:
            gap = best["test_accuracy"] - worst["test_accuracy"]
            chance = describe_chance(gap, whole["test_accuracy"], num_images)
            compared = compare_accuracy(best["test_accuracy"], worst["test_accuracy"])
            text += f", and {compared} {worst['filters']}, the last of {len(ways)} ways{chance}"
        sentences.append(f"{text}.")
    return " ".join(sentences)


def answer_frontier(rows: Sequence[Row]) -> str:
    """Answers which files give the most for their cost, and where published models stand. Rows are of frontier.csv."""
    ours = [row for row in rows if row["kind"] != "published"]
    published = [row for row in rows if row["kind"] == "published"]
    front = [row for row in ours if row["is_on_size_front"]]
    smallest = min(front, key=lambda row: row["gzip_size_bytes"])
    best = max(ours, key=lambda row: row["test_accuracy"])
    text = (
        f"{len(front)} of {len(ours)} model files are beaten by no other on the validation images at their gzipped "
        f"size; the smallest of these is {smallest['name']} in {smallest['precision']} with "
        f"{smallest['gzip_size_bytes'] / 1000:,.0f} kB and {percent(smallest['test_accuracy'])} of the test images "
        "right."
    )
    if not published:
        return text
    ahead = [row for row in published if row["test_accuracy"] > best["test_accuracy"]]
    cheaper = [row["name"] for row in ahead if row["parameters"] <= best["parameters"]]
    text += (
        f" Of {len(published)} results beside them that others published, on Fashion-MNIST, {len(ahead)} "
        f"{'is' if len(ahead) == 1 else 'are'} more accurate than the best file here on the test images "
        f"({percent(best['test_accuracy'])})"
    )
    if ahead:
        named = [f"{row['name']} ({percent(row['test_accuracy'])})" for row in ahead]
        text += f": {join(named)}"
        text += f"; {join(cheaper)} with no more parameters" if cheaper else ""
    return f"{text}."


def answer_curves(chosen: str, curves: Mapping[str, Sequence[Row]]) -> str:
    """Answers how training went. `curves` holds by candidate a row an epoch: epoch, train and val accuracy."""
    last = curves[chosen][-1]
    still = sum(rows[-1]["val"] >= max(row["val"] for row in rows) for rows in curves.values())
    return (
        f"After {last['epoch']:.0f} epochs {chosen} gets {percent(last['train'])} of the training images (as "
        f"augmented) and {percent(last['val'])} of the validation images right, "
        f"{compare_accuracy(last['val'], last['train'])} on those. "
        f"{still} of {len(curves)} candidates were at their best on validation images in the last epoch."
    )


def answer_classes(shipped: Row) -> str:
    """Answers at which classes the shipped file is good, and what it takes for what."""
    ranked = sorted(shipped["classes"], key=lambda row: row["recall"])
    confused = [f"{row['actual']} taken for {row['predicted']} ({row['images']})" for row in shipped["most_confused"]]
    return (
        f"The shipped file is worst at {ranked[0]['class']} ({percent(ranked[0]['recall'])} found) and best at "
        f"{ranked[-1]['class']} ({percent(ranked[-1]['recall'])})."
        + (f" Most often, in images: {join(confused)}." if confused else "")
    )


def answer_confidence(shipped: Row, chosen: str, calibration_error: float) -> str:
    """Answers how well the confidence of the shipped file fits, beside the calibration error of the chosen model."""
    gap = round(100 * (shipped["mean_confidence"] - shipped["test_accuracy"]), 2)
    trust = "too little" if gap < 0 else "too much"
    fit = "just as much as it deserves" if gap == 0 else f"{trust}, by {abs(gap):.2f} points on average"
    return (
        f"The shipped file trusts itself {fit}: its mean confidence is {percent(shipped['mean_confidence'])}, and "
        f"{percent(shipped['test_accuracy'])} of its answers are right. Its calibration error is "
        f"{percent(shipped['calibration_error'])}, that of {chosen} {percent(calibration_error)}."
    )


def answer_confusion(confusion: Mapping[tuple[str, str], int], class_names: Sequence[str], chosen: str) -> str:
    """Answers which classes a model mixes up. `confusion` counts images by actual and predicted class."""
    wrong = {pair: count for pair, count in confusion.items() if pair[0] != pair[1]}
    if not wrong:
        return f"{chosen} gets every test image right."
    pairs: dict[tuple[str, ...], int] = {}
    for pair, count in wrong.items():
        both = tuple(sorted(pair, key=list(class_names).index))
        pairs[both] = pairs.get(both, 0) + count
    (first, second), count = min(pairs.items(), key=lambda item: (-item[1], item[0]))
    total = sum(wrong.values())
    return (
        f"{chosen} gets {total:,} of {sum(confusion.values()):,} test images wrong. The classes it mixes up most are "
        f"{first} and {second}: {100 * count / total:.0f} % of its mistakes are one taken for the other."
    )


def tell_shipped_time(shipped_ms: float | None, dense_ms: float | None) -> str:
    """Tells how fast the shipped file is against the chosen model's float32 file; "" where a time is unknown."""
    if shipped_ms is None or dense_ms is None:
        return "Its time was not measured here."
    faster = compare_cost(shipped_ms, dense_ms, "faster than", "slower than", "about as fast as")
    return f"One image takes it {shipped_ms:.3f} ms on one thread, {faster} the dense float32 file."


def tell_pruned_times(times: Mapping[tuple[str, str, str], Row], dense: str) -> str:
    """Tells what zeros did to the time of an image. Keys of `times` are kind, name and precision."""
    parts = []
    for precision in ("float32", "int8"):
        pruned = [row["median_ms"] for (kind, _, p), row in times.items() if kind == "pruned" and p == precision]
        row = times.get(("dense", dense, precision))
        if pruned and row:
            how = compare_cost(median(pruned), row["median_ms"], "faster than", "slower than", "about as fast as")
            parts.append(
                f"in {precision} the pruned files are {how} the dense one ({median(pruned):.3f} ms at the median)"
            )
    return f"Time for an image: {join(parts)}." if parts else "Times were not measured here."


def tell_shrunk_times(shrunk: Sequence[Row], times: Mapping[tuple[str, str, str], Row], dense: str) -> str:
    """Tells what fewer filters did to the time of an image, in float32, for the smallest share of the MACs."""
    least = min(shrunk, key=lambda row: row["macs"])
    name = f"{least['filters']}-{least['target']}"
    small, whole = times.get(("shrunk", name, "float32")), times.get(("dense", dense, "float32"))
    if not small or not whole:
        return "Times were not measured here."
    how = compare_cost(small["median_ms"], whole["median_ms"], "faster than", "slower than", "about as fast as")
    return (
        f"With {whole['macs'] / small['macs']:.1f} times fewer MACs, {name} in float32 is {how} the whole model "
        f"({small['median_ms']:.3f} ms an image)."
    )
