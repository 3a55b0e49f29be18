"""Measures the accuracy of a model.h5 of the pipeline on the test images. Part of the benchmark, outside its clock."""

from pathlib import Path

from measuring import print_result, read_task


def main() -> None:
    """Reads the model and the images that the task names and prints the accuracy."""
    from stages.lib.network.metrics import compute_accuracy
    from stages.lib.network.model import predict_logits, read_model
    from stages.lib.network.pixels import to_network_input
    from stages.lib.storage.files import read_split

    task = read_task()
    images, labels = read_split(Path(task["test_path"]))
    logits = predict_logits(read_model(Path(task["model_path"])), to_network_input(images))
    print_result({"accuracy": float(compute_accuracy(labels, logits.argmax(axis=1)))})


if __name__ == "__main__":
    main()
