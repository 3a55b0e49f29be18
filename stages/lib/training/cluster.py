"""The machines that train together, as the standard variable TF_CONFIG names them. No TensorFlow."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

from stages.lib.errors import UserError

EXAMPLE = '{"cluster": {"worker": ["host0:12345", "host1:12345"]}, "task": {"type": "worker", "index": 0}}'


@dataclass(frozen=True)
class Cluster:
    """This process's place among `num_workers` workers; without TF_CONFIG it is alone."""

    num_workers: int = 1
    index: int = 0

    @property
    def is_chief(self) -> bool:
        """Tells whether this is the worker that writes files and shows progress."""
        return self.index == 0


ALONE = Cluster()


def read_cluster(environment: Mapping[str, str] = os.environ) -> Cluster:
    """Reads TF_CONFIG.

    Raises:
        UserError: if it is no JSON, or does not name workers and one of them as this process's task.
    """
    text = environment.get("TF_CONFIG", "")
    if not text:
        return ALONE
    try:
        config = json.loads(text)
        workers, task = config["cluster"]["worker"], config["task"]
        if (
            list(config["cluster"]) != ["worker"]
            or not isinstance(workers, list)
            or task["type"] != "worker"
            or type(task["index"]) is not int
            or task["index"] not in range(len(workers))
        ):
            raise ValueError("only workers are known here, and the task's index counts them from 0")
        return Cluster(len(workers), task["index"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"TF_CONFIG: expected workers and a task, as in {EXAMPLE}; got {text} ({error!r})") from error


def check_divisible(num_images: int, batch_size: int, num_workers: int) -> None:
    """Checks that every batch of an epoch, the last one too, splits into equal parts for the workers.

    Raises:
        UserError: if not; unequal parts would weigh images unequally.
    """
    for name, size in (("train.batch_size", batch_size), ("the last batch", num_images % batch_size)):
        if size % num_workers:
            raise UserError(
                f"{name}: expected a multiple of the {num_workers} workers in TF_CONFIG; got {size} images; "
                "change train.batch_size in params.yaml or the number of workers"
            )
