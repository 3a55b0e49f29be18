import numpy as np

from stages.lib.network.accuracy import measure_accuracy
from stages.lib.network.keras2 import keras


def test_the_accuracy_is_the_share_of_images_that_get_their_label() -> None:
    logits_are_pixels = keras.Sequential([keras.layers.InputLayer(input_shape=(1, 2, 1)), keras.layers.Flatten()])
    images = np.array([[[255, 0]], [[0, 255]], [[3, 2]], [[0, 1]]], np.uint8)

    assert measure_accuracy(logits_are_pixels, images, np.array([0, 1, 1, 1])) == 0.75
