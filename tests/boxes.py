"""A model that knows boxes, and photos of boxes: what the tests of predict and of the demo share."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ["Trouser", "Sneaker", "Bag", "Coat"]
BIASES = [0.0, 0.0, 1.0, -9.0]


def make_model() -> bytes:
    """Makes a LiteRT file: trousers reach the first and last row, sneakers the first and last column, bags all four."""
    from stages.lib.network.keras2 import keras, tf

    kernel = np.zeros((28, 28, 4), np.float32)
    kernel[[0, -1], 11:17, 0] = kernel[11:17, [0, -1], 1] = 1
    kernel[[0, -1], 11:17, 2] = kernel[11:17, [0, -1], 2] = 0.7
    dense = keras.layers.Dense(4)
    model = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), dense])
    dense.set_weights([kernel.reshape(784, 4), np.array(BIASES, np.float32)])
    return tf.lite.TFLiteConverter.from_keras_model(model).convert()


def ship(path: Path, content: bytes, **changes: Any) -> Path:
    """Writes a model and the card beside it, with some of its keys changed; returns the model's path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    card = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "class_names": CLASSES,
        "image_size_px": 28,
        "channels": 1,
        "fit": "garment",
        "background": 255,
        "name": "boxes",
        "precision": "float32",
        "test_accuracy": 0.9405,
        "temperature": 1.0,
        "min_confidence": 0.0,
    }
    path.with_suffix(".json").write_text(json.dumps(card | changes))
    return path


def draw_box(width: int, height: int, kind: str = "PNG") -> bytes:
    """Draws a dark red box on cream, 200 x 300: tall is a trouser, wide a sneaker, square a bag."""
    photo = np.full((300, 200, 3), (250, 245, 235), np.uint8)
    photo[150 - height // 2 : 150 + height // 2, 100 - width // 2 : 100 + width // 2] = (120, 10, 20)
    file = io.BytesIO()
    Image.fromarray(photo).save(file, kind)
    return file.getvalue()
