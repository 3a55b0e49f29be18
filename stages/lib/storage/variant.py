"""Names for what becomes of a model: each version of it, and where its files lie."""

from dataclasses import dataclass
from pathlib import Path

DATA = Path("data")


@dataclass(frozen=True)
class Variant:
    """One version of a model.

    Attributes:
        source: the stage that makes it: train, prune or shrink.
        way: how it is made: of train the network, of prune the ranking, of shrink the way of choosing filters.
        target: how far it goes: of train the augmentation, of prune the share of zeros, of shrink the share of MACs.
    """

    source: str
    way: str
    target: str | float

    @property
    def name(self) -> str:
        """Names it in tables and pictures.

        >>> Variant("prune", "lamp", 0.95).name
        'lamp-0.95'
        """
        return f"{self.way}-{self.target}"

    @property
    def folder(self) -> Path:
        """Returns where its stage writes it: its Keras model, and what that is worth."""
        return DATA / self.source / (self.name if self.source == "train" else f"{self.way}/{self.target}")

    @property
    def exported(self) -> Path:
        """Returns where its LiteRT files lie."""
        return DATA / "export" / self.source / self.name
