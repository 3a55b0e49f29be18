"""The error of a training whose loss is no number any more. No TensorFlow, so that the search can tell it quickly."""

from stages.lib.errors import UserError


class DivergedError(UserError):
    """A training failed for its own parameters; another try with the same ones would fail, too."""

    SIGN = ": the loss became "
    """Stands in every message of this error, and in no other: so it is known in what another process printed."""

    def __init__(self, name: str, loss: float, epoch: int) -> None:
        super().__init__(
            f"{name}{self.SIGN}{loss} in epoch {epoch}; lower the learning_rate of this stage in params.yaml"
        )
