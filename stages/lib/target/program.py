"""The C of a model, as it was generated, and what a caller has to know to run it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Program:
    """One model in C99: model.c and model.h, which declares `model_run(image, logits, buffer)`.

    Attributes:
        source: text of model.c, which includes model.h.
        header: text of model.h.
        image_bytes: int8 that an image has.
        num_classes: int8 logits that an answer has.
        buffer_bytes: working memory that the caller gives, aligned to 4 bytes.
    """

    source: str
    header: str
    image_bytes: int
    num_classes: int
    buffer_bytes: int

    @property
    def given_bytes(self) -> int:
        """Counts the RAM that the caller gives: for the image, the logits and the working memory."""
        return self.image_bytes + self.num_classes + self.buffer_bytes
