"""Rows of arrays that stay on disk: a data set may be larger than the memory."""

from collections.abc import Sequence

import numpy as np


class Selected:
    """Some rows of arrays, in an order, which are read where they are indexed.

    Args:
        arrays: each (N_i, ...), alike in all but N_i; counted as one after the other.
        places: (N,) integers, the rows that are selected, from 0 to the sum of all N_i - 1.
    """

    def __init__(self, arrays: Sequence["Rows"], places: np.ndarray) -> None:
        self.arrays = arrays
        self.places = places
        self.dtype: np.dtype = arrays[0].dtype
        self.shape: tuple[int, ...] = (len(places), *arrays[0].shape[1:])

    @property
    def ndim(self) -> int:
        """Returns how many axes there are."""
        return len(self.shape)

    def __len__(self) -> int:
        """Returns N."""
        return len(self.places)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Reads rows: (M, ...), in the order in which they are asked for."""
        places = self.places[rows]
        read = np.empty((len(places), *self.shape[1:]), self.dtype)
        start = 0
        for array in self.arrays:
            is_here = (places >= start) & (places < start + len(array))
            read[is_here] = array[places[is_here] - start]
            start += len(array)
        return read


Rows = np.ndarray | Selected
"""Images as they are stored: all of an array, or some of its rows."""
