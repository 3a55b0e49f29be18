"""What decides how a network is trained, whatever the network is. No TensorFlow."""

from dataclasses import dataclass

from stages.lib.params.sections import AugmentationParams, TrainParams


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        train: optimizer, schedule, size of the batches and number of epochs.
        augmentation: limits of what is done to the training images.
        seed: of initial weights, order of the images, augmentation and dropout.
        policy: Keras mixed-precision policy, float32 or mixed_bfloat16.
    """

    train: TrainParams
    augmentation: AugmentationParams
    seed: int
    policy: str
