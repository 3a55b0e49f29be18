"""What others published on Fashion-MNIST, to stand beside our numbers on the same data. Nobody verified it here."""

from collections.abc import Sequence

STUDY = 'Ahmed Elgamiel, "Mnist Fashion Classifier", https://github.com/AhmedElgamiel/MnistClassifier'
DATASET = "Fashion-MNIST"  # all of this file is about it
CLASS_NAMES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
DATASET_PAPER = (
    'Xiao, Rasul and Vollgraf 2017, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning '
    'Algorithms", https://arxiv.org/abs/1708.07747, copyright Zalando SE, MIT licence'
)
STUDY_TEST_ACCURACY = {  # by model and augmentation; its augmented models were trained under what is `strong` here
    ("first", "strong"): 0.6018,
    ("first", "none"): 0.8949,
    ("second", "strong"): 0.8770,
    ("second", "none"): 0.8971,
    ("third", "strong"): 0.8958,
    ("third", "none"): 0.8954,
    ("fourth", "strong"): 0.8096,
    ("fourth", "none"): 0.8949,
}
STUDY_CHOICE = ("third", "strong")
NUM_IMAGES = {"test": 10_000}  # of Fashion-MNIST, on which all of these were measured

LEADERBOARD = (  # name, parameters (the first's is a bound), test accuracy
    ("2 conv, <100K", 100_000, 0.925),
    ("2 conv, 113K", 113_000, 0.922),
    ("2 conv + 3 FC", 1_800_000, 0.932),
    ("VGG16", 26_000_000, 0.935),
    ("CapsNet", 8_000_000, 0.936),
    ("DenseNet-BC", 768_000, 0.954),
    ("WRN40-4", 8_900_000, 0.967),
)
LEADERBOARD_SOURCE = "README of github.com/zalandoresearch/fashion-mnist, not verified by its authors"
FLOAT32_BYTES = 4  # of a parameter: nobody published the size of a file

ST_MNIST = {"flash_bytes": 58_266, "ram_bytes": 22_221}
"""What ST's st_mnist takes, an int8 network on 28 x 28 grey pixels: 56.9 KiB of flash and 21.7 KiB of RAM in all.

Of other data (EMNIST); from its page in github.com/STMicroelectronics/stm32ai-modelzoo.
"""


def is_of_study(dataset: str, class_names: Sequence[str]) -> bool:
    """Tells whether a run has the data that this file is about; of other data, nothing in it may stand beside a result.

    Both have to be those of Fashion-MNIST: who trains on other pictures may have left one of them as it was.

    Args:
        dataset: the name of the data of the run, `dataset.name` in params.yaml.
        class_names: of these data, by label.
    """
    return dataset == DATASET and tuple(class_names) == CLASS_NAMES
