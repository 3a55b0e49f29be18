"""Plans the working memory: of most tensors, only the few rows that are still needed exist at any time. No TensorFlow.

A step makes a row of its output when a later one needs it, from a window of rows of its input; what nobody needs any
more is overwritten. So a chain of convolutions needs about three rows of each tensor, not two whole tensors. Some
tensors are made whole before the next step starts: those that a dense layer takes, and those where this makes the peak
lower. Between two of them is a phase: its windows share the memory with those of other phases.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import inf

from stages.lib.device.steps import Step

OVERRUN_BYTES = 32
"""Kernels compute some outputs more than a line has; they read at most so many bytes after the last one."""


@dataclass(frozen=True)
class Window:
    """Where the rows of a tensor are, or a vector, which is one row.

    Attributes:
        padding: rows above and below the image, and pixels between two lines: 0 or 1.
        pitch: bytes from one line to the next: one for each pixel, and the padding.
        row_bytes: of a row: one line for each channel.
        capacity: rows that there is place for.
        keep: rows that stay when there is no place for one more.
        address: of the first row, in bytes from the start of the working memory.
        size_bytes: of all rows, and of the pixel on the right of the last one.
    """

    padding: int
    pitch: int
    row_bytes: int
    capacity: int
    keep: int
    address: int
    size_bytes: int


@dataclass(frozen=True)
class Plan:
    """How the steps use the working memory.

    Attributes:
        windows: of each step but the last one, by its name.
        phases: names of the steps of each phase, in order; the output of the last one is made whole.
        buffer_bytes: of all working memory; a multiple of 4.
    """

    windows: dict[str, Window]
    phases: list[list[str]]
    buffer_bytes: int


def make_plan(steps: Sequence[Step]) -> Plan:
    """Plans the memory of a network, the peak as low as the choice of whole tensors can make it.

    Args:
        steps: from `stages.lib.device.steps.list_steps`.
    """
    padding = {step.name: 0 for step in steps}
    for step in steps:
        for name in step.inputs:
            padding[name] = max(padding[name], -step.first)
    phases, capacities = _choose_phases(steps, padding)
    sizes = {step.name: _count_bytes(step, padding[step.name], capacities[step.name][0]) for step in steps[:-1]}
    peak = max(_count_phase_bytes(number, phases, sizes) for number in range(len(phases)))
    addresses: dict[str, int] = {}
    for number, phase in enumerate(phases):
        *others, whole = phase
        # What a phase makes and what it takes lie at the two ends of the memory, its windows between them.
        is_low = number % 2 == 0
        if whole in sizes:
            addresses[whole] = 0 if is_low else peak - sizes[whole]
        before = phases[number - 1][-1] if number else ""
        next_free = sizes.get(whole, 0) if is_low else sizes.get(before, 0)
        for name in others:
            addresses[name] = next_free
            next_free += sizes[name]
    windows = {}
    for step in steps[:-1]:
        name = step.name
        windows[name] = _make_window(step, padding[name], *capacities[name], addresses[name], sizes[name])
    return Plan(windows, phases, -(-(peak + OVERRUN_BYTES) // 4) * 4)


def _make_window(step: Step, padding: int, capacity: int, keep: int, address: int, size_bytes: int) -> Window:
    pitch = step.output.shape[1] + padding if step.is_image_like else 1
    return Window(padding, pitch, _count_row_bytes(step, padding), capacity, keep, address, size_bytes)


def _count_row_bytes(step: Step, padding: int) -> int:
    shape = step.output.shape
    return shape[2] * (shape[1] + padding) if step.is_image_like else shape[-1]


def _count_bytes(step: Step, padding: int, capacity: int) -> int:
    return capacity * _count_row_bytes(step, padding) + padding


def _count_phase_bytes(number: int, phases: Sequence[Sequence[str]], sizes: dict[str, int]) -> int:
    before = sizes[phases[number - 1][-1]] if number else 0
    return before + sum(sizes.get(name, 0) for name in phases[number])  # the logits are not in the working memory


def _choose_phases(
    steps: Sequence[Step], padding: dict[str, int]
) -> tuple[list[list[str]], dict[str, tuple[int, int]]]:
    """Chooses the steps whose output is made whole, so that the largest phase is as small as can be.

    Returns:
        The phases, as in `Plan`; and capacity and keep of each step's window.
    """
    place = {step.name: index for index, step in enumerate(steps)}
    edges = [(place[name], index) for index, step in enumerate(steps) for name in step.inputs]
    last = len(steps) - 1
    must_be_whole = {maker for maker, user in edges if not steps[maker].is_image_like or steps[user].kind == "dense"}
    can_be_whole = [
        index
        for index in range(last + 1)
        if index == last or index in must_be_whole or all(not maker < index < user for maker, user in edges)
    ]

    def count_whole_bytes(index: int) -> int:
        if index in (-1, last):
            return 0
        return _count_bytes(steps[index], padding[steps[index].name], _count_all_rows(steps[index], padding))

    @cache
    def measure(start: int, end: int) -> tuple[dict[str, tuple[int, int]], int]:
        """Gives the windows of the phase after step `start` up to `end`, and all its bytes."""
        inner = _simulate(steps[start + 1 : end + 1], padding)
        sizes = [_count_bytes(step, padding[step.name], inner[step.name][0]) for step in steps[start + 1 : end]]
        return inner, count_whole_bytes(start) + sum(sizes) + count_whole_bytes(end)

    best: dict[int, tuple[float, int, list[int]]] = {-1: (0, 0, [])}  # peak, phases and their ends up to each step
    for end in can_be_whole:
        barrier = max((index for index in must_be_whole if index < end), default=-1)
        starts = [start for start in best if barrier <= start < end]
        best[end] = min(
            (max(best[start][0], measure(start, end)[1]), best[start][1] + 1, [*best[start][2], end])
            for start in starts
        )
    ends = best[last][2]
    phases, capacities = [], {}
    for start, end in zip([-1, *ends], ends, strict=False):
        phases.append([step.name for step in steps[start + 1 : end + 1]])
        capacities.update(measure(start, end)[0])
        capacities[steps[end].name] = (_count_all_rows(steps[end], padding), 0)
    return phases, capacities


def _count_all_rows(step: Step, padding: dict[str, int]) -> int:
    return step.output.shape[0] + 2 * padding[step.name] if step.is_image_like else 1


def _simulate(steps: Sequence[Step], padding: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Runs a phase without computing anything; returns capacity and keep of the window of each step but the last.

    Rows are counted as the generated code does it, with those of the padding.
    """
    by_name = {step.name: step for step in steps[:-1]}
    made = {name: padding[name] for name in by_name}  # the padding above is there from the start
    times = {step.name: 0 for step in steps}
    needed: dict[str, list[int]] = {name: [] for name in by_name}  # rows that are needed when one more is made

    def take_rows(step: Step) -> None:
        for name in step.inputs:
            if name in by_name:
                make_rows(by_name[name], times[step.name] * step.stride + step.end + padding[name])

    def find_first_needed(name: str) -> float:
        users = [step for step in steps if name in step.inputs and times[step.name] < step.rows]
        return min((times[user.name] * user.stride + user.first + padding[name] for user in users), default=inf)

    def make_rows(step: Step, end: int) -> None:
        while made[step.name] < end:
            if times[step.name] < step.rows:
                take_rows(step)
            needed[step.name].append(int(max(made[step.name] - find_first_needed(step.name), 0)))
            made[step.name] += 1
            times[step.name] += 1

    for _ in range(steps[-1].rows):
        take_rows(steps[-1])
        times[steps[-1].name] += 1
    return {name: _choose_capacity(needed[name], padding[name]) for name in by_name}


def _choose_capacity(needed: Sequence[int], padding: int) -> tuple[int, int]:
    """Chooses the least capacity, and the least keep for it, with which no row is overwritten that is needed."""
    capacity = max(needed) + 1

    def is_enough(keep: int) -> bool:
        held = padding
        for count in needed:
            if held == capacity:
                if count > keep:
                    return False
                held = keep
            held += 1
        return True

    return capacity, next(keep for keep in range(capacity) if is_enough(keep))
