"""Answers the questions of the study in sentences that follow from the numbers, whichever way they go. No TensorFlow.

Accuracies are fractions in [0, 1]. A difference of accuracies is told in points, hundredths of the whole. What stands
in brackets behind either is its 95 % interval. `num_images` are those of the splits val and test.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import mean, median
from typing import Any

from stages.lib.report.wording import Wording
from stages.lib.results.comparisons import (
    AUGMENTATION,
    BETTER,
    CANDIDATES,
    DISTORTED,
    FILES,
    FINISHED,
    UNKNOWN,
    WAYS,
    WORSE,
    Comparison,
    are_rivals,
    find_comparison,
    list_family,
)
from stages.lib.results.published import NUM_IMAGES
from stages.lib.results.rows import KIND_OF, Candidate, ModelFile, PublishedModel, RankedFile
from stages.lib.results.tables import format_accuracy, format_share
from stages.lib.results.times import TimedC, TimedFile

Times = Mapping[tuple[str, str, str], TimedFile]
"""What the exported files take where that is known, by kind, name and precision."""

ALIKE = 1.05  # costs whose ratio is below this are "about as" large
METRICS = {"balanced_accuracy": "balanced accuracy", "macro_f1": "macro-F1"}
"""What params.yaml can choose by in the place of accuracy, and its name in a sentence."""

SLIGHT_LOSS = 0.005  # of validation accuracy: up to it, a pruned model counts as about as good as the dense one


@dataclass(frozen=True)
class MeasuredCandidate(Candidate):
    """A candidate and what it is worth on test images; `under` holds its accuracy by what distorts them."""

    test_accuracy: float
    test_accuracy_sd: float | None
    test_balanced_accuracy: float
    test_macro_f1: float
    test_loss: float
    calibration_error: float
    under: Mapping[str, float]
    training_seconds: float | None
    published: float | None  # the test accuracy that the study published of its model of this name; None if it did not


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
    """Joins words as English does; "" if there are none.

    >>> join(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def tell_comparison(found: Comparison | None, reference: str) -> str:
    """Says which of two models is better on the same images, if a test tells; `reference` names the other one.

    >>> tell_comparison(Comparison("f", "a", "b", 10_000, -0.0057, -0.0083, -0.0031, 1e-5, 1e-4, WORSE), "b")
    'worse than b by 0.57 points (0.31 to 0.83)'
    """
    if found is None:
        return f"not compared with {reference}, because export left out its file in float32"
    if found.verdict == UNKNOWN:
        return (
            f"no difference to {reference} can be told from {found.n:,} images ({100 * found.difference:+.2f} points, "
            f"{100 * found.low:+.2f} to {100 * found.high:+.2f})"
        )
    sign = 1 if found.verdict == BETTER else -1
    low, high = sorted((100 * sign * found.low, 100 * sign * found.high))
    ends = f"{low:+.2f} to {high:+.2f}" if low < 0 else f"{low:.2f} to {high:.2f}"
    return f"{found.verdict} than {reference} by {abs(100 * found.difference):.2f} points ({ends})"


def tell_seed(candidates: Sequence[Candidate]) -> str:
    """Tells which models were compared, where candidates have several seeds; "" where they have one."""
    first, *others = candidates[0].seeds.split()
    return f" Accuracies are means over seeds; the tests compare the models of seed {first}." if others else ""


def tell_tests(*families: Sequence[Comparison]) -> str:
    """Tells how models were compared: `families` are those whose p values were corrected together."""
    sizes = [str(len(family)) for family in families if family]
    if not sizes:
        return ""
    within = f"{'a family' if len(sizes) == 1 else 'families'} of {join(sizes)}"
    return f"Paired tests on the same images, corrected (Holm) within {within}."


def tell_purpose(class_names: Sequence[str], words: Wording) -> str:
    """Tells what the shipped file is for: what goes in, and what comes out; `words` are those of its data."""
    shown = f" that shows one thing{words.shown}" if words.shown else ""
    return (
        f"In goes a {words.picture}{shown}. Out comes a "
        f"probability for each of {len(class_names)} classes: {join(class_names)}."
    )


def tell_class_scores(row: Mapping[str, Any]) -> str:
    """Tells what a model is worth on test images where all classes count alike; `row` names it as data/ does."""
    return (
        f"a balanced accuracy, the mean recall of all classes, of {percent(row['test_balanced_accuracy'])}, and a "
        f"macro-F1, their mean F1, of {percent(row['test_macro_f1'])}"
    )


def find_comparison_with_dense(comparisons: Sequence[Comparison], name: str, source: str) -> Comparison:
    """Finds how the int8 file of a model, which the stage `source` made, compares with the finished one in float32."""
    return next(row for row in list_family(comparisons, FILES[KIND_OF[source]]) if row.name == f"{name} int8")


def answer_shipped(shipped: Mapping[str, Any], published: float | None, compared: Comparison, metric: str) -> str:
    """Answers what ships.

    `shipped` is data/ship/model.json, `published` the test accuracy of the study's choice, if this run has a model of
    that name, `compared` how the shipped file compares with the float32 file of the finished model, and `metric` what
    chose it on validation images.
    """
    made, num_images = KIND_OF[shipped["source"]], shipped["num_images"]["test"]
    accuracy = shipped["test_accuracy"]
    verdict = tell_comparison(compared, "the dense float32 file of the finished model")
    text = (
        f"{shipped['name']}, a {made} model in {shipped['precision']}, gets {format_accuracy(accuracy, num_images)} of "
        f"{num_images:,} test images right: {verdict}."
    )
    if metric in METRICS:
        text += (
            f" It was chosen by its {METRICS[metric]} on validation images, {percent(shipped[f'val_{metric}'])}; on "
            f"test images it is {percent(shipped[f'test_{metric}'])}."
        )
    if published is None:
        return text
    return (
        f"{text} It has {compare_accuracy(accuracy, published)} the "
        f"{format_accuracy(published, NUM_IMAGES['test'])} that the study published for its choice, a model of its "
        "own, on the test images of Fashion-MNIST; without its predictions, that is no paired test."
    )


def answer_device(
    shipped: Mapping[str, Any],
    control: Mapping[str, int] | None,
    files: Sequence[RankedFile],
    verified: Mapping[str, int],
    num_images: Mapping[str, int],
) -> str:
    """Answers what the C of the shipped file costs on a microcontroller.

    `shipped` is data/ship/model.json, `control` what deploy measured of the finished model with its controls, None
    where export left its int8 file out, `files` all of ours, `verified` data/verify/metrics.json.
    """
    cost = shipped["device"]
    front = sorted((file for file in files if file.is_on_flash_front), key=lambda file: file.flash_bytes or 0)
    ends = [
        f"{file.name} with {(file.flash_bytes or 0) / 1000:,.1f} kB and "
        f"{format_accuracy(file.test_accuracy, num_images['test'])} of the test images right"
        for file in dict.fromkeys([front[0], front[-1]])
    ]
    num_c = sum(file.flash_bytes is not None for file in files)
    return (
        f"In C on a Cortex-M4, the shipped file takes {cost['flash_bytes'] / 1000:,.1f} kB of flash, of which "
        f"{cost['weights_bytes'] / 1000:,.1f} kB are tables of weights, {cost['ram_bytes'] / 1000:,.1f} kB of RAM, "
        f"image and stack included, and {cost['instructions_cortex_m4'] / 1e6:,.1f} million instructions for an image"
        f"{tell_control(cost, control)}. {tell_lightest(files)}"
        "Instructions are counted in an emulator; they are neither cycles nor milliseconds. "
        f"The .tflite file alone is {shipped['size_bytes'] / 1000:,.1f} kB, and TensorFlow Lite Micro takes "
        f"{cost['tflite_micro_arena_bytes'] / 1000:,.1f} kB of RAM to run it, as a 64-bit machine measures it, which "
        "over-reports what describes the tensors. "
        f"{tell_verified(verified, num_images['test'])} "
        f"{len(front)} of {num_c} files in C are beaten by no other on the validation images "
        f"at their flash: {' to '.join(ends)}."
    )


def tell_control(cost: Mapping[str, int], control: Mapping[str, int] | None) -> str:
    """Compares what the C of the shipped file costs with the control of `answer_device`; "" if there is none."""
    if control is None:
        return ""
    dense = {name.removeprefix("control_"): value for name, value in control.items() if name.startswith("control_")}
    fewer, less = (
        compare_cost(cost[name], dense[name], *words)
        for name, words in (
            ("instructions_cortex_m4", ("fewer than", "more than", "about as many as")),
            ("flash_bytes", ("less", "more", "about as much")),
        )
    )
    return (
        f", {fewer} C that stores and multiplies every weight of the finished model, which takes "
        f"{dense['instructions_cortex_m4'] / 1e6:,.1f} million, and {dense['flash_bytes'] / 1000:,.1f} kB of flash, "
        f"against which it is {less}"
    )


def tell_lightest(files: Sequence[RankedFile]) -> str:
    """Tells of each ladder of pruning which file in C needs the fewest instructions and loses next to nothing.

    What it loses is measured on validation images, against the finished model in float32; "" if no file is pruned.
    """
    finished = next(file for file in files if (file.name, file.format) == ("finished", "keras"))
    pruned = [file for file in files if file.kind == "pruned" and file.instructions is not None]
    told = []
    for way in dict.fromkeys(file.way for file in pruned):
        good = [
            (file.instructions or 0, file.name)
            for file in pruned
            if file.way == way and round(finished.val_accuracy - file.val_accuracy, 6) <= SLIGHT_LOSS
        ]
        told += [f"{instructions / 1e6:,.1f} million by {way} ({name})" for instructions, name in sorted(good)[:1]]
    if not told:
        return ""
    return (
        f"With at most {100 * SLIGHT_LOSS:g} points of validation accuracy lost to the finished model, the fewest "
        f"instructions are {join(told)}. "
    )


def tell_verified(verified: Mapping[str, Any], num_test: int) -> str:
    """Tells on how many test images the C gives what LiteRT does; `verified` is data/verify/metrics.json."""
    images = verified["images"]
    return (
        f"On {images - verified['different_from_reference']:,} of {images:,} test images, its int8 output is, bit for "
        "bit, that of LiteRT's reference kernels; LiteRT's usual ones (XNNPACK) round otherwise, and differ on "
        f"{verified['xnnpack_different_logits']:,}, in the class on {verified['xnnpack_different_classes']:,}. So "
        f"the C has {format_accuracy(verified['test_accuracy'], num_test)} of them right; all other accuracies of "
        "files here are those of LiteRT's usual kernels."
    )


def answer_choice(
    chosen: MeasuredCandidate,
    reason: str,
    finished: ModelFile,
    comparisons: Sequence[Comparison],
    num_images: Mapping[str, int],
    metric: str,
) -> str:
    """Answers which model was chosen and why, and what it became: `finished`, the file of its long training.

    `metric` is what chose it on validation images, whose value there is in `reason`.
    """
    others, (gain,) = list_family(comparisons, CANDIDATES), list_family(comparisons, FINISHED)
    became = (
        f"Trained for longer, it is the finished model, from which all that follows is made: "
        f"{format_accuracy(finished.test_accuracy, num_images['test'])} of the test images right, "
        f"{tell_comparison(gain, 'before')}."
    )
    if metric in METRICS:
        reason += f" On the test images, its {METRICS[metric]} is {percent(getattr(chosen, f'test_{metric}'))}."
    if not others:
        return f"{reason} {became}"
    counts = Counter(row.verdict for row in others)
    return (
        f"{reason} On the test images, which chose nothing, it has "
        f"{format_accuracy(chosen.test_accuracy, num_images['test'])}: of the other {len(others)}, {counts[BETTER]} "
        f"{'does' if counts[BETTER] == 1 else 'do'} better and {counts[WORSE]} worse; for {counts[UNKNOWN]}, no "
        f"difference can be told from {num_images['test']:,} images. {tell_tests(others)}{tell_seed([chosen])} {became}"
    )


def answer_augmentation(
    candidates: Sequence[MeasuredCandidate],
    baseline: str | None,
    comparisons: Sequence[Comparison],
    epochs: int,
    keep_fraction: float,
) -> str:
    """Answers whether augmentation helped.

    `baseline` is the augmentation that changes nothing, if the run has one; each candidate was trained for `epochs`
    epochs of the share `keep_fraction` of the training images.
    """
    names = list(dict.fromkeys(candidate.augmentation for candidate in candidates))
    if baseline is None:
        return "No model of this run was trained without augmentation, so nothing says whether it helped."
    if names == [baseline]:
        return "Every model of this run was trained without augmentation."
    keys = {
        name: [candidate.key for candidate in candidates if candidate.augmentation == name]
        for name in names
        if name != baseline
    }
    as_they_are, distorted = (list_family(comparisons, family) for family in (AUGMENTATION, DISTORTED))
    num_models = len(candidates) // len(names)
    better = {name: count_better(as_they_are, of_name) for name, of_name in keys.items()}
    helped = [f"{name} made {count} of {num_models} models better" for name, count in better.items() if count]
    nothing = "of no augmentation can it be told that it made a model better"
    text = (
        f"On test images as they are, {join(helped) or nothing}: against {baseline} and "
        f"averaged over {num_models} {'models' if num_models > 1 else 'model'}, {join_changes(as_they_are, keys)}."
    )
    if distorted:  # an augmentation that changes nothing distorts nothing either
        told = join_changes(distorted, keys)
        text += f" On test images distorted in the way that the model was trained for, {told}."
    scope = f"{epochs} epoch{'' if epochs == 1 else 's'} of {100 * keep_fraction:g} % of the training images"
    return (
        f"{text} {tell_tests(as_they_are, distorted)}{tell_seed(candidates)} They tell these models "
        f"apart, each after {scope}; "
        "another seed, or another length of training, would give others."
    )


def count_better(comparisons: Sequence[Comparison], keys: Sequence[str]) -> int:
    """Counts which of the candidates with these keys are better than what they are compared with."""
    return sum(row.verdict == BETTER for row in comparisons if row.name in keys)


def join_changes(comparisons: Sequence[Comparison], keys: Mapping[str, Sequence[str]]) -> str:
    """Says what each augmentation changed: on average, and for how many models that can be told.

    `keys` are those of the candidates, by augmentation; augmentations without a comparison are left out.
    """
    parts = []
    for name, of_name in keys.items():
        rows = [row for row in comparisons if row.name in of_name]
        if rows:
            counts = Counter(row.verdict for row in rows)
            told = join([f"{verdict} for {counts[verdict]}" for verdict in (BETTER, WORSE, UNKNOWN) if counts[verdict]])
            parts.append(f"{name} {describe_change(mean(row.difference for row in rows))} ({told})")
    return join(parts)


def answer_receptive_field(
    chosen: Candidate, candidates: Sequence[Candidate], image_size_px: int, num_images: Mapping[str, int]
) -> str:
    """Answers how much a unit sees, and whether models whose units see more are more accurate."""
    sizes = sorted({candidate.receptive_field_px for candidate in candidates})
    best = [max(one.val_accuracy for one in candidates if one.receptive_field_px == size) for size in sizes]
    text = (
        f"In {chosen.model}, the last layer on a grid sees {chosen.receptive_field_px} x {chosen.receptive_field_px} "
        f"of the {image_size_px} x {image_size_px} pixels; what comes after it sees the whole image."
    )
    if len(sizes) == 1:
        return text
    told = [format_accuracy(accuracy, num_images["val"]) for accuracy in best]
    listed = join([f"{accuracy} at {px} px" for px, accuracy in zip(sizes, told, strict=True)])
    rises = "rises" if best == sorted(best) else "does not always rise"
    return (
        f"{text} The best validation accuracy {rises} with the receptive field: {listed}. But these models differ in "
        "more than that, and no test compares them here."
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


def answer_pruning(files: Sequence[ModelFile], comparisons: Sequence[Comparison], num_images: Mapping[str, int]) -> str:
    """Answers what pruning gave, of each ladder by the sparsest model that loses next to nothing.

    The first file is the dense model.
    """
    dense, *pruned = files
    sentences = []
    for ranking in dict.fromkeys(file.way for file in pruned):
        steps = [file for file in pruned if file.way == ranking]
        good = [one for one in steps if round(100 * (dense.val_accuracy - one.val_accuracy), 6) <= 100 * SLIGHT_LOSS]
        if not good:
            sentences.append(f"{ranking} loses more than that at each of its steps")
            continue
        best = max(good, key=lambda file: float(file.target))
        smaller = compare_cost(best.gzip_size_bytes, dense.gzip_size_bytes, "smaller", "larger", "about as large")
        compared = find_comparison(comparisons, FILES["pruned"], best.name, dense.name)
        sentences.append(
            f"{ranking} reaches {100 * best.sparsity:.1f} % zeros, and {100 * best.nonzero_macs / dense.macs:.1f} % of "
            f"the MACs have another weight: "
            f"{format_accuracy(best.test_accuracy, num_images['test'])} of the test images right, "
            f"{tell_comparison(compared, dense.name)}, and its gzipped model file is {smaller}"
        )
    text = f"With at most {100 * SLIGHT_LOSS:g} points of validation accuracy lost, {'; '.join(sentences)}."
    furthest = max(float(file.target) for file in pruned)
    at_end = rank_ways(pruned, str(furthest))
    for first, last in combinations(at_end, 2):
        if not are_rivals(first.variant, last.variant):
            continue
        compared = find_comparison(comparisons, WAYS["pruned"], first.name, last.name)
        text += f" At {100 * furthest:g} % zeros, {first.way}: {tell_comparison(compared, last.way)}."
    return f"{text} {tell_file_tests(comparisons, 'pruned')}"


def tell_file_tests(comparisons: Sequence[Comparison], kind: str) -> str:
    """Tells what of the models of a kind, pruned or shrunk, was compared, and how."""
    families = [list_family(comparisons, family) for family in (FILES[kind], WAYS[kind])]
    return f"What is compared are the LiteRT files in float32. {tell_tests(*families)}"


def rank_ways(files: Sequence[ModelFile], target: str) -> list[ModelFile]:
    """Ranks what the ways made of the model at one target, the most accurate on validation images first."""
    return sorted((file for file in files if file.target == target), key=lambda file: -file.val_accuracy)


def answer_shrinking(
    files: Sequence[ModelFile], comparisons: Sequence[Comparison], num_images: Mapping[str, int]
) -> str:
    """Answers what shrinking gave. The first is the whole model; the others are ways and shares of the MACs."""
    whole, *shrunk = files
    sentences = []
    for target in dict.fromkeys(file.target for file in shrunk):
        best, *others = rank_ways(shrunk, target)
        compared = find_comparison(comparisons, FILES["shrunk"], best.name, whole.name)
        text = (
            f"At {100 * best.macs / whole.macs:.1f} % of the MACs, {best.way} has "
            f"{format_accuracy(best.test_accuracy, num_images['test'])} of the test images right: "
            f"{tell_comparison(compared, 'the whole model')}"
        )
        if others:
            compared = find_comparison(comparisons, WAYS["shrunk"], best.name, others[-1].name)
            last = f"{others[-1].way} (the last of {1 + len(others)} ways)"
            text += f"; {tell_comparison(compared, last)}"
        sentences.append(f"{text}.")
    return f"{' '.join(sentences)} {tell_file_tests(comparisons, 'shrunk')}"


def answer_frontier(
    ours: Sequence[RankedFile], published: Sequence[PublishedModel], num_images: Mapping[str, int]
) -> str:
    """Answers which of our files give the most for their cost, and where models stand that others published."""
    front = [file for file in ours if file.is_on_size_front]
    smallest = min(front, key=lambda file: file.gzip_size_bytes)
    best = max(ours, key=lambda file: file.val_accuracy)
    num_litert = sum(file.format == "tflite" for file in ours)
    text = (
        f"{len(front)} of {len(ours)} model files ({num_litert} in LiteRT, {len(ours) - num_litert} in Keras) are "
        "beaten by no other on the validation images at their gzipped "
        f"size; the smallest of these is {smallest.name} in {smallest.precision} with "
        f"{smallest.gzip_size_bytes / 1000:,.0f} kB and "
        f"{format_accuracy(smallest.test_accuracy, num_images['test'])} of the test images right."
    )
    if not published:
        return text
    ahead = [file for file in published if file.test_accuracy > best.test_accuracy]
    cheaper = [file.name for file in ahead if file.parameters <= best.parameters]
    text += (
        f" Of {len(published)} results beside them that others published, on Fashion-MNIST, {len(ahead)} "
        f"{'is' if len(ahead) == 1 else 'are'} more accurate on the test images than the file here that is the best on "
        "validation images, which has "
        f"{format_accuracy(best.test_accuracy, num_images['test'])}"
    )
    if ahead:
        told = [f"{file.name} with {format_accuracy(file.test_accuracy, NUM_IMAGES['test'])}" for file in ahead]
        text += f": {join(told)}"
        text += f"; {join(cheaper)} with no more parameters" if cheaper else ""
    return f"{text}. Without their predictions, that is no paired test."


def answer_curves(chosen: Candidate, curves: Sequence[CurvePoint], num_images: Mapping[str, int]) -> str:
    """Answers how training went."""
    accuracies: dict[tuple[str, str], list[float]] = {}
    for point in curves:
        accuracies.setdefault((f"{point.model}-{point.augmentation}", point.split), []).append(point.accuracy)
    train, val = accuracies[chosen.key, "train"], accuracies[chosen.key, "val"]
    were_best = [values[-1] >= max(values) for (_, split), values in accuracies.items() if split == "val"]
    return (
        f"After {len(val)} epochs {chosen.key} gets {percent(train[-1])} of the training images (as augmented) and "
        f"{format_accuracy(val[-1], num_images['val'])} of the validation images right, "
        f"{compare_accuracy(val[-1], train[-1])} on those. "
        f"{sum(were_best)} of {len(were_best)} candidates were at their best on validation images in the last epoch."
    )


def answer_classes(shipped: Mapping[str, Any]) -> str:
    """Answers at which classes the shipped file is good, and what it takes for what."""
    ranked = sorted(shipped["classes"], key=lambda row: row["recall"])
    confused = [f"{row['actual']} taken for {row['predicted']} ({row['images']})" for row in shipped["most_confused"]]
    return (
        f"The shipped file is worst at {ranked[0]['class']}, of which it finds "
        f"{format_accuracy(ranked[0]['recall'], ranked[0]['images'])}, and best at {ranked[-1]['class']} with "
        f"{format_accuracy(ranked[-1]['recall'], ranked[-1]['images'])}."
        f" Over all test images, it has {tell_class_scores(shipped)}."
        + (f" Most often, in images: {join(confused)}." if confused else "")
    )


def answer_confidence(shipped: Mapping[str, Any], calibration_error: float) -> str:
    """Answers how well the confidence of the shipped file fits, beside the calibration error of the finished model."""
    gap = round(100 * (shipped["mean_confidence"] - shipped["test_accuracy"]), 2)
    trust = "too little" if gap < 0 else "too much"
    fit = "just as much as it deserves" if gap == 0 else f"{trust}, by {abs(gap):.2f} points on average"
    return (
        f"The shipped file trusts itself {fit}: its mean confidence is {percent(shipped['mean_confidence'])}, and "
        f"{format_accuracy(shipped['test_accuracy'], shipped['num_images']['test'])} of its answers are right. "
        f"Its calibration error is {percent(shipped['calibration_error'])}; it would be "
        f"{percent(shipped['unscaled_calibration_error'])} without the temperature of {shipped['temperature']:g} that "
        f"was fitted on validation images, and is {percent(calibration_error)} in the finished model, which has none. "
        f"{tell_answered(shipped)}"
    )


def tell_answered(shipped: Mapping[str, Any]) -> str:
    """Tells of how many test images the shipped file is sure, and how many of these answers are right."""
    answered = shipped["answered"]
    if not answered["images"]:
        return "It is sure of no test image, by the confidence that validation images chose."
    sure = f"At a confidence of {percent(shipped['min_confidence'])} or more, which validation images chose, it is sure"
    return (
        f"{sure}: so it answers {format_accuracy(answered['coverage'], shipped['num_images']['test'])} of the test "
        f"images, and {format_accuracy(answered['test_accuracy'], answered['images'])} of these answers are right."
    )


def answer_ood(ood: Mapping[str, Any], words: Wording) -> str:
    """Answers how well the shipped file tells test images from handwritten digits.

    `ood` is data/ship/ood.json, `words` are those of its data.
    """
    other = "" if words.is_of_study else ", which are other things unless these data are digits"
    share = {name: format_share(ood, name) for name in ood if f"{name}_low" in ood}
    return (
        "The shipped file has learned its classes alone, and calls whatever it is shown one of them. It is sure enough "
        f"to answer for {share['others_answered']} of {ood['num_others']:,} handwritten digits{other}, and for "
        f"{share['known_answered']} of the {ood['num_known']:,} test images. Of a test image and a digit, the test "
        f"image has the higher confidence in {share['confidence_auroc']} of all pairs (AUROC), and the higher energy "
        f"score in {share['energy_score_auroc']}. A limit that lets in 95 % of the test images lets in "
        f"{share['confidence_fpr_at_95_tpr']} of the digits by confidence, and "
        f"{share['energy_score_fpr_at_95_tpr']} by energy score. Digits are thin lines: what fills the picture may "
        "fool it far more often."
    )


def answer_confusion(confusion: Mapping[tuple[str, str], int], class_names: Sequence[str]) -> str:
    """Answers which classes the finished model mixes up. `confusion` counts images by actual and predicted class."""
    wrong = {pair: count for pair, count in confusion.items() if pair[0] != pair[1]}
    if not wrong:
        return "The finished model gets every test image right."
    pairs: Counter[tuple[str, ...]] = Counter()
    for pair, count in wrong.items():
        pairs[tuple(sorted(pair, key=list(class_names).index))] += count
    (first, second), count = min(pairs.items(), key=lambda item: (-item[1], item[0]))
    total = sum(wrong.values())
    return (
        f"The finished model gets {total:,} of {sum(confusion.values()):,} test images wrong. The classes it "
        f"mixes up most are {first} and {second}: {100 * count / total:.0f} % of its mistakes are one taken for the "
        "other."
    )


def answer_audit(audit: Mapping[str, Any]) -> str:
    """Answers what the images hide; `audit` is data/audit/metrics.json."""
    counts = [sum(row[kind] for row in audit["duplicates"]["files"].values()) for kind in ("exact", "near")]
    exact, near = (f"{count or 'no'} pair{'' if count == 1 else 's'}" for count in counts)
    whole, seen, unseen = (
        audit["test_accuracy"].get(name) for name in ("all", "with_duplicates", "without_duplicates")
    )
    text = (
        f"The original files hold {exact} of equal images and {near} of near duplicates, whose pixels correlate by "
        f"{audit['min_similarity']:g} or more. Of the {whole['images']:,} test images, "
        f"{seen['images'] if seen else 'none'} {'have' if seen and seen['images'] > 1 else 'has'} such a duplicate "
        "among the training images"
    )
    if seen:
        accuracies = [
            f"{format_accuracy(part['accuracy'], part['images'])} {name}"
            for part, name in ((seen, "of these right"), (unseen, "of the others"), (whole, "of all"))
            if part
        ]
        text += f": the finished model gets {join(accuracies)}"
    doubted = join(
        [
            f"{row['suspects']:,} of {row['images']:,} {name} images"
            for split, name in (("val", "validation"), ("test", "test"))
            if (row := audit["suspects"].get(split))
        ]
    )
    return f"{text}. By what the candidates say, the labels of {doubted} are in doubt (confident learning)."


def tell_shipped_time(shipped_ms: float | None, dense_ms: float | None) -> str:
    """Tells how fast the shipped file is against the finished model's float32 file; "" where a time is unknown."""
    if shipped_ms is None or dense_ms is None:
        return "Its time in LiteRT was not measured here."
    faster = compare_time(shipped_ms, dense_ms)
    return f"In LiteRT, an image takes it {shipped_ms:.3f} ms on one thread, {faster} the dense float32 file."


def tell_device_time(timed: TimedC | None) -> str:
    """Tells how fast the C is on this machine, beside the LiteRT files of the same model; None where it is unknown."""
    if timed is None:
        return "The time of its C was not measured here."
    files = [("the int8 file", timed.int8_median_ms), ("the float32 file", timed.float32_median_ms)]
    told = [f"{compare_time(timed.c_median_ms, ms)} {name} ({ms:.3f} ms)" for name, ms in files if ms is not None]
    return (
        f"On one thread of {timed.cpu}, an image takes the C {timed.c_median_ms:.3f} ms: {join(told)} of the same "
        "model in LiteRT."
    )


def tell_pruned_times(times: Times) -> str:
    """Tells what zeros did to the time of an image."""
    parts = []
    for precision in ("float32", "int8"):
        pruned = [file.median_ms for (kind, _, p), file in times.items() if kind == "pruned" and p == precision]
        whole = times.get(("dense", "finished", precision))
        if pruned and whole:
            ms, how = median(pruned), compare_time(median(pruned), whole.median_ms)
            parts.append(f"in {precision} the pruned files are {how} the dense one ({ms:.3f} ms at the median)")
    return f"Time for an image: {join(parts)}." if parts else "Times were not measured here."


def tell_shrunk_times(shrunk: Sequence[ModelFile], times: Times) -> str:
    """Tells what fewer filters did to the time of an image, in float32, for the smallest share of the MACs."""
    least = min(shrunk, key=lambda file: file.macs)
    small, whole = times.get(("shrunk", least.name, "float32")), times.get(("dense", "finished", "float32"))
    if not small or not whole:
        return "Times were not measured here."
    return (
        f"With {whole.macs / small.macs:.1f} times fewer MACs, {least.name} in float32 is "
        f"{compare_time(small.median_ms, whole.median_ms)} the whole model ({small.median_ms:.3f} ms an image)."
    )
