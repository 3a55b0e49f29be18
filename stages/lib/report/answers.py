"""Answers the questions of the study in sentences that follow from the numbers, whichever way they go. No TensorFlow.

Accuracies are fractions in [0, 1]. A difference of accuracies is told in points, hundredths of the whole.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from stages.lib.results.published import STUDY_TEST_ACCURACY
from stages.lib.results.rows import KIND_OF, Candidate, ModelFile, PublishedModel, RankedFile
from stages.lib.results.times import TimedFile

Times = Mapping[tuple[str, str, str], TimedFile]
"""What the exported files take where that is known, by kind, name and precision."""

CHANCE = 2 * math.sqrt(2)  # standard deviations of one accuracy: twice that of the difference of two
ALIKE = 1.05  # costs whose ratio is below this are "about as" large


@dataclass(frozen=True)
class MeasuredCandidate(Candidate):
    """A candidate and what it is worth on test images; `under` holds its accuracy by what distorts them."""

    test_accuracy: float
    test_loss: float
    calibration_error: float
    under: Mapping[str, float]
    training_seconds: float | None

    @property
    def published(self) -> float | None:
        """Returns the test accuracy that the study published of its model of this name, if it did."""
        return STUDY_TEST_ACCURACY.get((self.model, self.augmentation))


@dataclass(frozen=True)
class Layer:
    """A row of layers.csv of complexity, as far as the report shows it."""

    layer: str
    kind: str
    output_shape: str
    receptive_field_px: float
    jump_px: float | None
    macs: int
    flops: int
    study_macs: int
    study_flops: int
    parameters: int
    macs_share: float
    parameters_share: float


@dataclass(frozen=True)
class CurvePoint:
    """A row of curves.csv: the accuracy of a candidate after an epoch, on images of one split (train or val)."""

    model: str
    augmentation: str
    split: str
    epoch: int
    accuracy: float


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


def compare_time(one: float, other: float) -> str:
    """Says how one time compares with another."""
    return compare_cost(one, other, "faster than", "slower than", "about as fast as")


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


def tell_purpose(shipped: Mapping[str, Any]) -> str:
    """Tells what the shipped file, of data/ship/model.json, is for: what goes in, and what comes out."""
    size, names = shipped["image_size_px"], shipped["class_names"]
    return (
        f"In goes a grey picture of {size} x {size} pixels that shows one thing, light on black. Out comes a "
        f"probability for each of {len(names)} classes: {join(names)}."
    )


def answer_shipped(shipped: Mapping[str, Any], dense: ModelFile, published: float | None, num_images: int) -> str:
    """Answers what ships.

    `shipped` is data/ship/model.json, `dense` the float32 file of the chosen model, `published` the test accuracy of
    the study's choice, if this run has a model of that name.
    """
    made = KIND_OF[shipped["source"]]
    accuracy, size = shipped["test_accuracy"], shipped["gzip_size_bytes"]
    smaller = compare_cost(size, dense.gzip_size_bytes, "smaller than", "larger than", "about as large as")
    text = (
        f"{shipped['name']}, a {made} model in {shipped['precision']}, gets {percent(accuracy)} of {num_images:,} test "
        f"images right, {compare_accuracy(accuracy, dense.test_accuracy)} the dense float32 file of {dense.name}, the "
        f"chosen model, and gzipped it is {smaller} that file."
    )
    if published is None:
        return text
    return (
        f"{text} It has {compare_accuracy(accuracy, published)} the {percent(published)} that the "
        "study published for its choice, a model of its own, on the test images of Fashion-MNIST."
    )


def answer_choice(chosen: MeasuredCandidate, candidates: Sequence[MeasuredCandidate], reason: str) -> str:
    """Answers which model was chosen and why."""
    better = sum(candidate.test_accuracy > chosen.test_accuracy for candidate in candidates)
    if len(candidates) == 1:
        return f"{reason} It is the only candidate."
    rank = "no other does better" if not better else f"{better} of the other {len(candidates) - 1} do better"
    return f"{reason} On the test images, which chose nothing, it has {percent(chosen.test_accuracy)}, and {rank}."


def answer_augmentation(candidates: Sequence[MeasuredCandidate], baseline: str | None, num_images: int) -> str:
    """Answers whether augmentation helped. `baseline` is the augmentation that changes nothing, if the run has one."""
    names = list(dict.fromkeys(candidate.augmentation for candidate in candidates))
    if baseline is None:
        return "No model of this run was trained without augmentation, so nothing says whether it helped."
    if names == [baseline]:
        return "Every model of this run was trained without augmentation."
    of = {(candidate.model, candidate.augmentation): candidate for candidate in candidates}
    models = list(dict.fromkeys(candidate.model for candidate in candidates))
    plain, distorted, mean_gains = [], [], {}
    for name in (name for name in names if name != baseline):
        gains = [of[model, name].test_accuracy - of[model, baseline].test_accuracy for model in models]
        mean_gains[name] = mean(gains)
        better = sum(gain > 0 for gain in gains)
        plain.append(f"{name} {describe_change(mean(gains))} (better for {better} of {len(models)})")
        if name in of[models[0], name].under:  # an augmentation that changes nothing distorts nothing either
            gain = mean(of[model, name].under[name] - of[model, baseline].under[name] for model in models)
            distorted.append(f"{name} {describe_change(gain)}")
    noise = compute_deviation(mean(candidate.test_accuracy for candidate in candidates), num_images)
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


def answer_receptive_field(chosen: Candidate, candidates: Sequence[Candidate], image_size_px: int) -> str:
    """Answers how much a unit sees, and whether models whose units see more are more accurate."""
    sizes = sorted({candidate.receptive_field_px for candidate in candidates})
    best = [max(one.val_accuracy for one in candidates if one.receptive_field_px == size) for size in sizes]
    text = (
        f"In {chosen.model}, the last layer on a grid sees {chosen.receptive_field_px} x {chosen.receptive_field_px} "
        f"of the {image_size_px} x {image_size_px} pixels; what comes after it sees the whole image."
    )
    if len(sizes) == 1:
        return text
    listed = join([f"{percent(accuracy)} at {px} px" for px, accuracy in zip(sizes, best, strict=True)])
    rises = "rises" if best == sorted(best) else "does not always rise"
    return (
        f"{text} The best validation accuracy {rises} with the receptive field ({listed}), but these models differ in "
        "more than that."
    )


def answer_arithmetic(model: str, layers: Sequence[Layer]) -> str:
    """Answers which layers of a model hold its MACs, and which its parameters."""
    ranked = sorted(layers, key=lambda layer: -layer.macs)
    shares, count = [layer.macs_share for layer in ranked], 1
    while sum(shares[:count]) < 0.75 and count < len(shares):  # as few layers as hold three quarters
        count += 1
    heavy = max(layers, key=lambda layer: layer.parameters)
    names = join([layer.layer for layer in ranked[:count]])
    return (
        f"{model} takes {sum(layer.macs for layer in layers):,} MACs for an image: {names} take"
        f"{'s' if count == 1 else ''} {100 * sum(shares[:count]):.0f} % of them. {heavy.layer} holds "
        f"{100 * heavy.parameters_share:.0f} % of the parameters and takes {100 * heavy.macs_share:.0f} % of the MACs."
    )


def answer_pruning(files: Sequence[ModelFile], max_loss: float, num_images: int) -> str:
    """Answers what pruning gave. The first is the dense model; `max_loss` is what a shipped file may lose."""
    dense, *pruned = files
    sentences = []
    for ranking in dict.fromkeys(file.way for file in pruned):
        steps = [file for file in pruned if file.way == ranking]
        good = [one for one in steps if round(100 * (dense.val_accuracy - one.val_accuracy), 6) <= 100 * max_loss]
        if not good:
            sentences.append(f"{ranking} loses more than that at each of its sparsities")
            continue
        best = max(good, key=lambda file: float(file.target))
        smaller = compare_cost(best.gzip_size_bytes, dense.gzip_size_bytes, "smaller", "larger", "about as large")
        sentences.append(
            f"{ranking} reaches {100 * float(best.target):g} % zeros: {percent(best.test_accuracy)} of the test images "
            f"right, {compare_accuracy(best.test_accuracy, dense.test_accuracy)} before, and its gzipped model file is "
            f"{smaller}"
        )
    text = f"With at most {100 * max_loss:g} points of validation accuracy lost, {'; '.join(sentences)}."
    target = max(pruned, key=lambda file: float(file.target)).target
    first, *others = rank_ways(pruned, target)
    if not others:
        return text
    return (
        f"{text} At {100 * float(target):g} % zeros, {first.way} has "
        f"{compare_accuracy(first.test_accuracy, others[-1].test_accuracy)} {others[-1].way} on the test images"
        f"{describe_chance(first, others[-1], dense, num_images)}."
    )


def rank_ways(files: Sequence[ModelFile], target: str) -> list[ModelFile]:
    """Ranks what the ways made of the model at one target, the most accurate on test images first."""
    return sorted((file for file in files if file.target == target), key=lambda file: -file.test_accuracy)


def describe_chance(better: ModelFile, worse: ModelFile, original: ModelFile, num_images: int) -> str:
    """Says in brackets where a gap of two accuracies is small enough to be chance: below two standard deviations.

    A gap that rounds to 0.00 points needs no such word.
    """
    points = round(100 * (better.test_accuracy - worse.test_accuracy), 2)
    limit = 100 * CHANCE * compute_deviation(original.test_accuracy, num_images)
    return f" (which may be chance: it is below {limit:.2f} points)" if 0 < points < limit else ""


def answer_shrinking(files: Sequence[ModelFile], num_images: int) -> str:
    """Answers what shrinking gave. The first is the whole model; the others are ways and shares of the MACs."""
    whole, *shrunk = files
    sentences = []
    for target in dict.fromkeys(file.target for file in shrunk):
        best, *others = rank_ways(shrunk, target)
        text = (
            f"At {100 * best.macs / whole.macs:.1f} % of the MACs, {best.way} has {percent(best.test_accuracy)} of "
            f"the test images right, {compare_accuracy(best.test_accuracy, whole.test_accuracy)} the whole model"
        )
        if others:
            compared = compare_accuracy(best.test_accuracy, others[-1].test_accuracy)
            chance = describe_chance(best, others[-1], whole, num_images)
            text += f", and {compared} {others[-1].way}, the last of {1 + len(others)} ways{chance}"
        sentences.append(f"{text}.")
    return " ".join(sentences)


def answer_frontier(ours: Sequence[RankedFile], published: Sequence[PublishedModel]) -> str:
    """Answers which of our files give the most for their cost, and where models stand that others published."""
    front = [file for file in ours if file.is_on_size_front]
    smallest = min(front, key=lambda file: file.gzip_size_bytes)
    best = max(ours, key=lambda file: file.test_accuracy)
    num_litert = sum(file.format == "tflite" for file in ours)
    text = (
        f"{len(front)} of {len(ours)} model files ({num_litert} in LiteRT, {len(ours) - num_litert} in Keras) are "
        "beaten by no other on the validation images at their gzipped "
        f"size; the smallest of these is {smallest.name} in {smallest.precision} with "
        f"{smallest.gzip_size_bytes / 1000:,.0f} kB and {percent(smallest.test_accuracy)} of the test images "
        "right."
    )
    if not published:
        return text
    ahead = [file for file in published if file.test_accuracy > best.test_accuracy]
    cheaper = [file.name for file in ahead if file.parameters <= best.parameters]
    text += (
        f" Of {len(published)} results beside them that others published, on Fashion-MNIST, {len(ahead)} "
        f"{'is' if len(ahead) == 1 else 'are'} more accurate than the best file here on the test images "
        f"({percent(best.test_accuracy)})"
    )
    if ahead:
        text += f": {join([f'{file.name} ({percent(file.test_accuracy)})' for file in ahead])}"
        text += f"; {join(cheaper)} with no more parameters" if cheaper else ""
    return f"{text}."


def answer_curves(chosen: Candidate, curves: Sequence[CurvePoint]) -> str:
    """Answers how training went."""
    accuracies: dict[tuple[str, str], list[float]] = {}
    for point in curves:
        accuracies.setdefault((f"{point.model}-{point.augmentation}", point.split), []).append(point.accuracy)
    train, val = accuracies[chosen.key, "train"], accuracies[chosen.key, "val"]
    were_best = [values[-1] >= max(values) for (_, split), values in accuracies.items() if split == "val"]
    return (
        f"After {len(val)} epochs {chosen.key} gets {percent(train[-1])} of the training images (as augmented) and "
        f"{percent(val[-1])} of the validation images right, {compare_accuracy(val[-1], train[-1])} on those. "
        f"{sum(were_best)} of {len(were_best)} candidates were at their best on validation images in the last epoch."
    )


def answer_classes(shipped: Mapping[str, Any]) -> str:
    """Answers at which classes the shipped file is good, and what it takes for what."""
    ranked = sorted(shipped["classes"], key=lambda row: row["recall"])
    confused = [f"{row['actual']} taken for {row['predicted']} ({row['images']})" for row in shipped["most_confused"]]
    return (
        f"The shipped file is worst at {ranked[0]['class']} ({percent(ranked[0]['recall'])} found) and best at "
        f"{ranked[-1]['class']} ({percent(ranked[-1]['recall'])})."
        + (f" Most often, in images: {join(confused)}." if confused else "")
    )


def answer_confidence(shipped: Mapping[str, Any], chosen: str, calibration_error: float) -> str:
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
    pairs: Counter[tuple[str, ...]] = Counter()
    for pair, count in wrong.items():
        pairs[tuple(sorted(pair, key=list(class_names).index))] += count
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
    faster = compare_time(shipped_ms, dense_ms)
    return f"One image takes it {shipped_ms:.3f} ms on one thread, {faster} the dense float32 file."


def tell_pruned_times(times: Times, dense: str) -> str:
    """Tells what zeros did to the time of an image."""
    parts = []
    for precision in ("float32", "int8"):
        pruned = [file.median_ms for (kind, _, p), file in times.items() if kind == "pruned" and p == precision]
        whole = times.get(("dense", dense, precision))
        if pruned and whole:
            ms, how = median(pruned), compare_time(median(pruned), whole.median_ms)
            parts.append(f"in {precision} the pruned files are {how} the dense one ({ms:.3f} ms at the median)")
    return f"Time for an image: {join(parts)}." if parts else "Times were not measured here."


def tell_shrunk_times(shrunk: Sequence[ModelFile], times: Times, dense: str) -> str:
    """Tells what fewer filters did to the time of an image, in float32, for the smallest share of the MACs."""
    least = min(shrunk, key=lambda file: file.macs)
    small, whole = times.get(("shrunk", least.name, "float32")), times.get(("dense", dense, "float32"))
    if not small or not whole:
        return "Times were not measured here."
    return (
        f"With {whole.macs / small.macs:.1f} times fewer MACs, {least.name} in float32 is "
        f"{compare_time(small.median_ms, whole.median_ms)} the whole model ({small.median_ms:.3f} ms an image)."
    )
