"""Row (a) of the benchmark, the study's way: augments with ImageDataGenerator, trains in float32 with Adam."""

from measuring import Clock, print_result, read_images, read_task

BATCH_SIZE = 64


def main() -> None:
    """Trains for the seconds of the task and prints the speed."""
    from stages.lib.network.architecture import Layer
    from stages.lib.network.keras2 import keras
    from stages.lib.network.model import build_model

    task = read_task()
    clock = Clock(task["seconds"])
    x, y = read_images(task["train_path"], task["num_images"])
    x_val, y_val = read_images(task["val_path"], task["num_val_images"])
    model = build_model([Layer(**layer) for layer in task["layers"]], task["seed"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(), loss, metrics=["accuracy"])
    generator = keras.preprocessing.image.ImageDataGenerator(
        rotation_range=8, width_shift_range=0.2, height_shift_range=0.2, zoom_range=0.2, fill_mode="nearest"
    )

    def end_epoch(*_: object) -> None:
        model.stop_training = clock.end_epoch()

    model.fit(
        generator.flow(x, y, batch_size=BATCH_SIZE, seed=task["seed"]),
        epochs=1_000_000,
        validation_data=(x_val, y_val) if len(x_val) else None,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=end_epoch)],
    )
    print_result(clock.report(len(x)) | {"precision": "float32"})


if __name__ == "__main__":
    main()
