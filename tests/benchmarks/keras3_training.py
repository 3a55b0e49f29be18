"""Row (b) of the benchmark, plain Keras 3: what a good user would write, on arrays in memory, float32, with Adam."""

from collections.abc import Mapping, Sequence
from typing import Any

from measuring import Clock, print_result, read_images, read_task


def build_layer(layer: Mapping[str, Any]) -> Any:
    """Builds the Keras 3 layer of one entry of the list, a `stages.lib.network.architecture.Layer` as a mapping."""
    import keras  # type: ignore[import-untyped, unused-ignore]  # not always installed

    match layer["kind"]:
        case "conv":
            return keras.layers.Conv2D(
                layer["output_shape"][-1],
                layer["kernel_size"],
                strides=layer["strides"],
                padding="same",
                kernel_initializer="he_uniform",
            )
        case "dense":
            return keras.layers.Dense(layer["output_shape"][-1], kernel_initializer="he_uniform")
        case "batch_norm":
            return keras.layers.BatchNormalization()
        case "relu":
            return keras.layers.ReLU()
        case "add":
            return keras.layers.Add()
        case "max_pool":
            return keras.layers.MaxPooling2D(layer["kernel_size"], strides=layer["strides"])
        case "global_average_pool":
            return keras.layers.GlobalAveragePooling2D()
        case "flatten":
            return keras.layers.Flatten()
        case "dropout":
            return keras.layers.Dropout(layer["rate"])
        case kind:
            raise ValueError(f"layer {layer['name']}: no Keras 3 layer is known for kind {kind!r}")


def build_model(layers: Sequence[Mapping[str, Any]]) -> Any:
    """Builds and compiles the model: a Sequential, or a functional model where a layer has a shortcut."""
    import keras

    if not any(layer["shortcut"] for layer in layers):
        model = keras.Sequential([keras.Input(layers[0]["input_shape"]), *map(build_layer, layers)])
    else:
        x = image = keras.Input(layers[0]["input_shape"])
        outputs: dict[str, Any] = {}
        for layer in layers:
            shortcut = layer["shortcut"]
            outputs[layer["name"]] = x = build_layer(layer)([x, outputs[shortcut]] if shortcut else x)
        model = keras.Model(image, x)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    return model


def measure_speed(task: Mapping[str, Any]) -> dict[str, Any]:
    """Trains for the seconds of the task and returns the speed."""
    import keras

    clock = Clock(task["seconds"])
    x, y = read_images(task["train_path"], task["num_images"])
    x_val, y_val = read_images(task["val_path"], task["num_val_images"])
    model = build_model(task["layers"])

    def end_epoch(*_: object) -> None:
        model.stop_training = clock.end_epoch()

    model.fit(
        x,
        y,
        batch_size=256,
        epochs=1_000_000,
        validation_data=(x_val, y_val) if len(x_val) else None,
        validation_batch_size=500,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=end_epoch)],
    )
    return clock.report(len(x)) | {"precision": "float32"}


def train_to_accuracy(task: Mapping[str, Any]) -> dict[str, Any]:
    """Trains until the model reaches the accuracy on the test images, or for `max_epochs`; saves it."""
    import keras

    x, y = read_images(task["train_path"])
    x_test, y_test = read_images(task["test_path"])
    model = build_model(task["layers"])

    def end_epoch(_: int, logs: Mapping[str, float]) -> None:
        model.stop_training = logs["val_accuracy"] >= task["target"]

    history = model.fit(
        x,
        y,
        batch_size=128,
        epochs=task["max_epochs"],
        validation_data=(x_test, y_test),
        validation_batch_size=500,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=end_epoch)],
    )
    model.save(task["model_path"])
    accuracies = history.history["val_accuracy"]
    return {"epochs": len(accuracies), "accuracy": accuracies[-1]}


def main() -> None:
    """Does the task and prints its result."""
    task = read_task()
    print_result(train_to_accuracy(task) if "target" in task else measure_speed(task))


if __name__ == "__main__":
    main()
