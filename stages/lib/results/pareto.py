"""Which models are worth their cost? Finds those that no other beats. No TensorFlow."""

from collections.abc import Sequence


def find_front(costs: Sequence[float | None], accuracies: Sequence[float]) -> list[bool]:
    """Tells of each model whether it is on the front: no other is at least as good in both, and better in one.

    Models that are equal in both do not beat each other: either all of them are on the front, or none.

    Args:
        costs: of each model; lower is better. What has none is not on the front, and beats no other.
        accuracies: of each model, in the same order; higher is better.

    >>> find_front([1, 2, 3, None], [0.8, 0.9, 0.9, 1.0])
    [True, True, False, False]
    """
    models = list(zip(costs, accuracies, strict=True))
    known = [(cost, accuracy) for cost, accuracy in models if cost is not None]
    return [
        cost is not None
        and not any(other[0] <= cost and other[1] >= accuracy and other != (cost, accuracy) for other in known)
        for cost, accuracy in models
    ]
