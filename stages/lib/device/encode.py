"""Stores kernels with or without their zeros, whichever is smaller or faster. No TensorFlow."""

from dataclasses import dataclass

import numpy as np

LONGEST_GAP = 255
PREFERENCES = ("speed", "size", "dense")
"""What `choose_form` minimises: instructions, or bytes; dense keeps all weights, as a control."""
INSTRUCTIONS_SPARSE = {"conv": 2.9, "dense": 5.5}
"""Of a Cortex-M4, for each product: counted for the code that Clang makes, with what it takes to start a line."""
INSTRUCTIONS_DENSE = {"conv": {3: 2.1, 1: 2.8}, "dense": {1: 3.5}}
"""The same with no zero skipped, by the neighbouring weights that share a line of the input."""


@dataclass(frozen=True)
class Form:
    """How a kernel is stored: the weights of each output, one output after the other.

    Attributes:
        name: dense; steps: sparse, with the bytes from each weight's input to the next; gaps: sparse, with the weights
            from each one's place to the next, where zeros are kept to bridge gaps that are too long for a byte.
        counts: (outputs,) stored weights of each output.
        values: (all counts,) int8.
        places: (all counts,) steps or gaps; empty if dense.
    """

    name: str
    counts: np.ndarray
    values: np.ndarray
    places: np.ndarray

    @property
    def size_bytes(self) -> int:
        """Bytes of the tables; without biases and scales."""
        return sum(array.nbytes for array in self.list_tables().values())

    def list_tables(self) -> dict[str, np.ndarray]:
        """Lists what has to be stored, by name, in the narrowest types that hold it."""
        if self.name == "dense":
            return {"values": self.values}
        counts = self.counts.astype(np.min_scalar_type(int(self.counts.max(initial=0))))
        return {"counts": counts, self.name: self.places, "values": self.values}


def encode_dense(weights: np.ndarray) -> Form:
    """Stores all of (outputs, places) int8 weights."""
    return Form("dense", np.full(len(weights), weights.shape[1]), weights.ravel(), np.zeros(0, np.uint8))


def encode_gaps(weights: np.ndarray) -> Form:
    """Stores the non-zeros of (outputs, places) int8 weights with the gaps between them, uint8.

    >>> encode_gaps(np.array([[0, 0, 5, 0, 7]], np.int8)).places.tolist()
    [2, 2]
    """
    counts, values, places = [], [], []
    for row in weights:
        kept = np.flatnonzero(row)
        stops: list[int] = []
        last = 0
        for place in kept.tolist():
            stops.extend(range(last + LONGEST_GAP, place, LONGEST_GAP))
            stops.append(place)
            last = place
        counts.append(len(stops))
        values.append(row[np.array(stops, int)])
        places.append(np.diff(stops, prepend=0).astype(np.uint8))
    return Form("gaps", np.array(counts), np.concatenate(values), np.concatenate(places))


def encode_steps(weights: np.ndarray, offsets: np.ndarray) -> Form:
    """Stores the non-zeros of (outputs, places) int8 weights with the steps between their inputs.

    Args:
        weights: of each output.
        offsets: (places,) of the input of each place, in bytes, rising; the first step of an output is from 0.
    """
    counts, values, steps = [], [], []
    for row in weights:
        kept = np.flatnonzero(row)
        counts.append(len(kept))
        values.append(row[kept])
        steps.append(np.diff(offsets[kept], prepend=offsets.dtype.type(0)))
    return Form("steps", np.array(counts), np.concatenate(values), np.concatenate(steps))


def choose_form(weights: np.ndarray, offsets: np.ndarray | None, taps: int, prefer: str) -> Form:
    """Chooses how to store a kernel.

    Args:
        weights: (outputs, places) int8.
        offsets: (places,) of the input of each place, in bytes, rising; None for a dense layer.
        taps: neighbouring weights that share a line of the input: 1 or 3.
        prefer: one of `PREFERENCES`.

    Raises:
        ValueError: if `prefer` is none of them.
    """
    if prefer not in PREFERENCES:
        raise ValueError(f"prefer: expected one of {', '.join(PREFERENCES)}; got {prefer!r}")
    dense = encode_dense(weights)
    if prefer == "dense":
        return dense
    sparse = encode_gaps(weights) if offsets is None or prefer == "size" else encode_steps(weights, offsets)
    if prefer == "size":
        return min(dense, sparse, key=lambda form: form.size_bytes)
    kind = "dense" if offsets is None else "conv"
    instructions_sparse = INSTRUCTIONS_SPARSE[kind] * len(sparse.values)
    return sparse if instructions_sparse < INSTRUCTIONS_DENSE[kind][taps] * weights.size else dense
