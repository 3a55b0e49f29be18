"""Names for what becomes of a model: each version of it, and where its files lie."""

from dataclasses import dataclass
from pathlib import Path

DATA = Path("data")


@dataclass(frozen=True)
class Variant:
    """One version of a model.

    Attributes:
        source: the stage that makes it: train, finish, prune or shrink.
        way: how it is made: of train the network, of prune the ranking, after what was shrunk before as in
            magnitude-0.5-cost, of shrink the way of choosing filters; the model of finish is just called finished.
        target: how far it goes: of train the augmentation, of prune the share of zeros, or of what they save, of shrink
            the share of MACs; "" of finish.
        seed: of its training.
    """

    source: str
    way: str
    target: str | float
    seed: int

    @property
    def name(self) -> str:
        """Names it in tables and pictures.

        >>> Variant("prune", "lamp", 0.95, seed=42).name
        'lamp-0.95'
        """
        return self.way if self.target == "" else f"{self.way}-{self.target}"

    @property
    def run(self) -> str:
        """Names the run that makes it, among those of other stages and seeds.

        >>> Variant("finish", "finished", "", seed=42).run
        'finish@finished-42'
        """
        return f"{self.source}@{self.name}-{self.seed}"

    @property
    def ranking(self) -> str:
        """Names the ranking of a pruned model.

        >>> Variant("prune", "magnitude-0.5-cost", 0.95, seed=42).ranking
        'cost'
        """
        return self.way.rpartition("-")[2]

    @property
    def start(self) -> "Variant":
        """Names what a pruned model started from: the finished model, or a shrunk one.

        >>> Variant("prune", "magnitude-0.5-cost", 0.95, seed=42).start.run
        'shrink@magnitude-0.5-42'
        >>> Variant("prune", "cost", 0.95, seed=42).start.run
        'finish@finished-42'
        """
        shrunk, _, _ = self.way.rpartition("-")
        if not shrunk:
            return name_finished(self.seed)
        filters, _, share = shrunk.partition("-")
        return Variant("shrink", filters, float(share), self.seed)

    @property
    def folder(self) -> Path:
        """Returns where its stage writes it: its Keras model, and what that is worth."""
        match self.source:
            case "train":
                return DATA / f"train/{self.name}/{self.seed}"
            case "finish":
                return DATA / f"finish/{self.seed}"
            case _:
                return DATA / f"{self.source}/{self.way}/{self.seed}/{self.target}"

    @property
    def exported(self) -> Path:
        """Returns where its LiteRT files lie; models of one seed only are exported."""
        return DATA / "export" / self.source / self.name

    @property
    def deployed(self) -> Path:
        """Returns where the C of its int8 file lies."""
        return DATA / "deploy" / self.source / self.name


def name_finished(seed: int) -> Variant:
    """Names the chosen candidate as it was trained for long."""
    return Variant("finish", "finished", "", seed)
