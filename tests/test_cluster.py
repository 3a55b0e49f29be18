import json
from typing import Any

import pytest

from stages.lib.errors import UserError
from stages.lib.training.cluster import EXAMPLE, Cluster, check_divisible, read_cluster

HOSTS = ["host0:12345", "host1:12345", "host2:12345"]


def make_config(**changes: Any) -> dict[str, Any]:
    return {"cluster": {"worker": HOSTS}, "task": {"type": "worker", "index": 0}} | changes


# TF_CONFIG


@pytest.mark.parametrize("environment", [{}, {"TF_CONFIG": ""}, {"OTHER": EXAMPLE}])
def test_without_tf_config_a_process_is_alone(environment: dict[str, str]) -> None:
    cluster = read_cluster(environment)

    assert (cluster.num_workers, cluster.index, cluster.is_chief) == (1, 0, True)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_tf_config_counts_the_workers_and_the_first_is_the_chief(index: int) -> None:
    config = make_config(task={"type": "worker", "index": index})

    cluster = read_cluster({"TF_CONFIG": json.dumps(config)})

    assert cluster == Cluster(num_workers=3, index=index)
    assert cluster.is_chief == (index == 0)


def test_the_environment_of_the_process_is_read_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", EXAMPLE)

    assert read_cluster() == Cluster(num_workers=2, index=0)


BAD_CONFIGS: dict[str, Any] = {
    "an empty object": {},
    "a list": [make_config()],
    "no task": {"cluster": {"worker": HOSTS}},
    "no worker": make_config(cluster={"worker": []}),
    "a host as workers": make_config(cluster={"worker": HOSTS[0]}),
    "a chief beside workers": make_config(cluster={"chief": HOSTS[:1], "worker": HOSTS[1:]}),
    "a task without index": make_config(task={"type": "worker"}),
    "a chief": make_config(task={"type": "chief", "index": 0}),
    "one worker too many": make_config(task={"type": "worker", "index": 3}),
    "a negative index": make_config(task={"type": "worker", "index": -1}),
    "a fraction as index": make_config(task={"type": "worker", "index": 0.5}),
    "a boolean as index": make_config(task={"type": "worker", "index": True}),
}
BAD_TEXTS = {name: json.dumps(config) for name, config in BAD_CONFIGS.items()} | {
    "a word": "worker0",
    "single quotes": EXAMPLE.replace('"', "'"),
}


@pytest.mark.parametrize("text", BAD_TEXTS.values(), ids=BAD_TEXTS.keys())
def test_another_tf_config_is_refused_with_an_example_and_what_was_got(text: str) -> None:
    with pytest.raises(UserError) as caught:
        read_cluster({"TF_CONFIG": text})

    assert str(caught.value).startswith(f"TF_CONFIG: expected workers and a task, as in {EXAMPLE}; got {text} (")


# Equal parts


@pytest.mark.parametrize(
    ("num_images", "batch_size", "num_workers"),
    [
        (55000, 128, 1),
        (7, 3, 1),
        (12, 4, 2),  # no smaller last batch
        (14, 4, 2),  # a last batch of 2
        (2, 4, 2),  # the only batch is the last
    ],
)
def test_batches_that_split_into_equal_parts_are_accepted(num_images: int, batch_size: int, num_workers: int) -> None:
    check_divisible(num_images, batch_size, num_workers)


@pytest.mark.parametrize(
    ("num_images", "batch_size", "num_workers", "message"),
    [
        (12, 3, 2, "train.batch_size: expected a multiple of the 2 workers in TF_CONFIG; got 3 images; "),
        (13, 4, 2, "the last batch: expected a multiple of the 2 workers in TF_CONFIG; got 1 images; "),
    ],
)
def test_batches_that_do_not_are_refused_with_the_size_and_the_remedy(
    num_images: int, batch_size: int, num_workers: int, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        check_divisible(num_images, batch_size, num_workers)

    assert str(caught.value) == message + "change train.batch_size in params.yaml or the number of workers"
