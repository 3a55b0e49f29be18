import zlib

import numpy as np
import pytest

from stages.lib.sparsity import compute_gzip_size_bytes, compute_sparsity, count_zeros, has_sparsity


@pytest.mark.parametrize(
    ("kernel", "zeros"),
    [
        ([[0.0, 2.0], [0.0, 0.0]], 3),
        ([[1.0, 2.0]], 0),
        ([0.0, -0.0], 2),
        ([1e-45, -1e-45, np.nan, np.inf], 0),
        ([], 0),
    ],
    ids=["some", "none", "minus zero", "as good as zero", "empty"],
)
def test_only_exact_zeros_count(kernel: list[float], zeros: int) -> None:
    assert count_zeros(np.array(kernel, np.float32)) == zeros


def test_a_count_is_a_plain_integer() -> None:
    assert type(count_zeros(np.zeros((3, 3, 1, 2)))) is int


@pytest.mark.parametrize(("num_zeros", "sparsity"), [(0, 0.0), (1, 0.25), (4, 1.0)])
def test_sparsity_is_the_share_of_zeros(num_zeros: int, sparsity: float) -> None:
    kernel = np.ones(4)
    kernel[:num_zeros] = 0

    assert compute_sparsity(kernel) == sparsity


@pytest.mark.parametrize(
    ("num_zeros", "target", "expected"),
    [
        (50, 0.5, True),
        (49, 0.5, True),
        (51, 0.5, True),
        (48, 0.5, False),
        (52, 0.5, False),
        (50, 0.505, True),
        (0, 0.0, True),
        (100, 1.0, True),
        (0, 1.0, False),
    ],
)
def test_a_kernel_of_100_weights_has_a_sparsity_to_within_one_weight(
    num_zeros: int, target: float, expected: bool
) -> None:
    kernel = np.ones((10, 10))
    kernel.flat[:num_zeros] = 0

    assert has_sparsity(kernel, target) is expected


@pytest.mark.parametrize("content", [b"", b"abc", bytes(10_000), bytes(range(256)) * 40])
def test_the_gzip_size_is_that_of_the_strongest_deflate_and_18_bytes_of_frame(content: bytes) -> None:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)

    assert compute_gzip_size_bytes(content) == len(deflate.compress(content) + deflate.flush()) + 18


def test_zeros_make_weights_compress_better() -> None:
    weights = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    dense_size_bytes = compute_gzip_size_bytes(weights.tobytes())
    weights[np.abs(weights) < 1] = 0

    assert compute_gzip_size_bytes(weights.tobytes()) < 0.6 * dense_size_bytes
