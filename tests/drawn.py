"""Pictures that tests draw: noise that no two share, so that none is a copy of another."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def draw(seed: int, width: int = 12, height: int = 12) -> Image.Image:
    """Draws a grey picture, light noise on black."""
    levels = np.zeros((height, width), np.uint8)
    levels[1:-1, 1:-1] = np.random.default_rng(seed).integers(100, 256, (height - 2, width - 2))
    return Image.fromarray(levels)


def save(path: Path, image: Image.Image, **options: Any) -> Path:
    """Saves a picture, and makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def fill(folder: Path, *places: str, first: int = 0) -> None:
    """Saves a picture of its own at each place, a path in the folder."""
    for seed, place in enumerate(places, start=first):
        save(folder / place, draw(seed))
